"""Which CPUs and which memory each engine gets.

One engine a NUMA node that has CPUs, one thread a physical core: SMT siblings share the vector
units that sparse kernels keep busy, so a second thread on a core gains nothing. More engines
than nodes split the cores of a node; an engine never reaches over two nodes. Fewer threads than
cores are spread evenly over them, for on many processors each group of cores has its own L3 and
its own way to memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from numa.errors import NumaError
from numa.notation import cpulist
from numa.topology import Core, NumaNode, Topology


@dataclass(frozen=True, slots=True)
class Place:
    """Where one engine lives: a thread on each of `cpus`, memory on `node`."""

    engine: int
    """Number of the engine on its machine, from 0."""
    node: int
    """NUMA node its memory goes to: that of its CPUs, or the nearest with memory."""
    cpus: tuple[int, ...]
    """One CPU a physical core, ascending."""

    def __str__(self) -> str:
        return f"engine {self.engine} on node {self.node}, cpus {cpulist(self.cpus)}"


def places(
    topology: Topology, engines: int | None = None, threads: int | None = None
) -> tuple[Place, ...]:
    """Places for `engines` engines of at most `threads` threads each, by node, then by CPU.

    An engine on a smaller node may get fewer; NumaError when none could get `threads`.
    Without `engines`: one a node with CPUs, fewer where a control group grants less than one
    CPU's time for each. `engines` below the number of nodes takes those with the most cores.
    """
    for name, value in (("engines", engines), ("threads", threads)):
        if value is not None and value < 1:
            raise NumaError(f"places: expected {name} of at least 1, got {value}")
    budget = _thread_budget(topology)
    per_node = _engines_per_node(topology, engines, budget)
    shares = [(node, share) for node, count in per_node for share in _split(node.cores, count)]
    caps = [min(len(cores), threads or len(cores)) for _, cores in shares]
    grants = _spread(budget, caps)
    if threads is not None and threads > max(grants):
        most = f"{max(grants)} thread{'' if max(grants) == 1 else 's'}"
        raise NumaError(
            f"places: expected at most {most} an engine, one for each physical core that it may "
            f"use, got {threads}; ask for fewer threads"
        )
    return tuple(
        Place(engine, _memory_node(topology, node), _pick(cores, grant))
        for engine, ((node, cores), grant) in enumerate(zip(shares, grants, strict=True))
    )


def _thread_budget(topology: Topology) -> int:
    """Threads in all: a core each, no more than the processor time granted lets run."""
    cores = len(topology.cores)
    # 2.5 CPUs run two threads: a third would be stopped for half of every period, and the
    # two others with it, since the group's time is gone for all of them at once.
    return cores if topology.cpu_quota is None else min(cores, max(1, int(topology.cpu_quota)))


def _engines_per_node(
    topology: Topology, engines: int | None, budget: int
) -> list[tuple[NumaNode, int]]:
    """How many engines each node takes, so that cores an engine are as equal as can be."""
    homes = [node for node in topology.nodes if node.cores]
    wanted = min(len(homes), budget) if engines is None else engines
    if wanted > budget:
        quota = topology.cpu_quota
        limit = "physical cores" if quota is None else f"cores or granted CPUs ({quota:g})"
        raise NumaError(
            f"places: expected at most {budget} engines, one for each of the {limit} that this "
            f"process may use, got {wanted}; ask for fewer engines"
        )
    largest = sorted(homes, key=lambda n: (-len(n.cores), n.id))[:wanted]
    counts = {node.id: 1 for node in largest}
    for _ in range(wanted - len(largest)):
        roomy = max(largest, key=lambda n: (len(n.cores) / (counts[n.id] + 1), -n.id))
        counts[roomy.id] += 1
    return [(node, counts[node.id]) for node in homes if node.id in counts]


def _split(cores: Sequence[Core], parts: int) -> list[Sequence[Core]]:
    """Neighbouring cores in `parts` runs whose lengths differ by one at most."""
    edges = [len(cores) * i // parts for i in range(parts + 1)]
    return [cores[a:b] for a, b in pairwise(edges)]


def _spread(budget: int, caps: Sequence[int]) -> list[int]:
    """Threads for each engine: one by one in turn until the caps or the budget are reached."""
    grants = [0] * len(caps)
    left = min(budget, sum(caps))
    while left:
        for i, cap in enumerate(caps):
            if left and grants[i] < cap:
                grants[i] += 1
                left -= 1
    return grants


def _pick(cores: Sequence[Core], count: int) -> tuple[int, ...]:
    """The first CPU of `count` cores, spread evenly."""
    return tuple(sorted(cores[len(cores) * i // count].cpus[0] for i in range(count)))


def _memory_node(topology: Topology, node: NumaNode) -> int:
    """The node itself, or the nearest one with memory where it has none that may be used."""
    if node.memory_nbytes:
        return node.id
    stocked = [n.id for n in topology.nodes if n.memory_nbytes]
    far = max(node.distances.values(), default=0) + 1
    return min(stocked, key=lambda n: (node.distances.get(n, far), n), default=node.id)
