"""Which CPUs and which memory each engine gets.

One engine a NUMA node that has CPUs, one thread a physical core: SMT siblings share the vector
units that sparse kernels keep busy, so a second thread on a core gains nothing. More engines
than nodes split the cores of a node. Fewer threads than cores are spread evenly over them, for on
many processors each group of cores has its own L3 and its own way to memory.

Other domains than nodes: an engine a socket reaches over the socket's nodes, for models of which
one copy a node in each of several processes would be too much; an engine an L3 cache keeps what it
streams in that cache. No engine ever reaches over two domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from numa.errors import NumaError
from numa.notation import cpulist
from numa.topology import Core, NumaNode, Topology

Cores = Sequence[Core]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one engine lives: a thread on each of `cpus`, memory on `node`."""

    engine: int
    """Number of the engine on its machine, from 0."""
    node: int
    """NUMA node its memory goes to: that of its CPUs, or the nearest with memory."""
    cpus: tuple[int, ...]
    """One CPU a physical core, ascending; with SMT, all of them."""
    others: tuple[int, ...] = ()
    """More nodes, of a place that reaches over several: each thread's memory goes to its own."""

    @property
    def nodes(self) -> tuple[int, ...]:
        return tuple(sorted({self.node, *self.others}))

    def __str__(self) -> str:
        word = "nodes" if self.others else "node"
        return f"engine {self.engine} on {word} {cpulist(self.nodes)}, cpus {cpulist(self.cpus)}"


def places(
    topology: Topology,
    engines: int | None = None,
    threads: int | None = None,
    *,
    domain: str = "node",
    smt: bool = False,
) -> tuple[Place, ...]:
    """Places for `engines` engines of at most `threads` threads each, by node, then by CPU.

    An engine on a smaller node may get fewer; NumaError when none could get `threads`.
    Without `engines`: one a domain with CPUs, fewer where a control group grants less than one
    CPU's time for each. `engines` below the number of domains takes those with the most cores.
    `smt` counts every CPU as a core.
    """
    for name, value in (("engines", engines), ("threads", threads)):
        if value is not None and value < 1:
            raise NumaError(f"places: expected {name} of at least 1, got {value}")
    homes = [_cpus_apart(cores) if smt else cores for cores in topology.domains(domain)]
    budget = _thread_budget(topology, sum(map(len, homes)))
    shares = _shares(homes, _wanted(topology, engines, len(homes), budget))
    caps = [min(len(cores), threads or len(cores)) for cores in shares]
    grants = _spread(budget, caps)
    if threads is not None and threads > max(grants):
        most = f"{max(grants)} thread{'' if max(grants) == 1 else 's'}"
        raise NumaError(
            f"places: expected at most {most} an engine, one for each "
            f"{'CPU' if smt else 'physical core'} that it may use, got {threads}; ask for fewer "
            "threads"
        )
    return tuple(
        _place(topology, engine, _pick(cores, grant))
        for engine, (cores, grant) in enumerate(zip(shares, grants, strict=True))
    )


def _place(topology: Topology, engine: int, cpus: tuple[int, ...]) -> Place:
    homes = [node for node in topology.nodes if set(node.cpus) & set(cpus)]
    node, *others = sorted({_memory_node(topology, home) for home in homes})
    return Place(engine, node, cpus, tuple(others))


def _cpus_apart(cores: Cores) -> Cores:
    return [Core((cpu,)) for cpu in sorted(cpu for core in cores for cpu in core.cpus)]


def _thread_budget(topology: Topology, cores: int) -> int:
    """Threads in all: a core each, no more than the processor time granted lets run."""
    # 2.5 CPUs run two threads: a third would be stopped for half of every period, and the
    # two others with it, since the group's time is gone for all of them at once.
    return cores if topology.cpu_quota is None else min(cores, max(1, int(topology.cpu_quota)))


def _wanted(topology: Topology, engines: int | None, homes: int, budget: int) -> int:
    """Engines in all; NumaError when they are more than the threads there may be."""
    wanted = min(homes, budget) if engines is None else engines
    if wanted > budget:
        quota = topology.cpu_quota
        limit = "physical cores" if quota is None else f"cores or granted CPUs ({quota:g})"
        raise NumaError(
            f"places: expected at most {budget} engines, one for each of the {limit} that this "
            f"process may use, got {wanted}; ask for fewer engines"
        )
    return wanted


def _shares(homes: Sequence[Cores], wanted: int) -> list[Cores]:
    """The cores of each engine, so that cores an engine are as equal as can be."""
    largest = sorted(range(len(homes)), key=lambda n: (-len(homes[n]), n))[:wanted]
    counts = dict.fromkeys(largest, 1)
    for _ in range(wanted - len(largest)):
        roomy = max(largest, key=lambda n: (len(homes[n]) / (counts[n] + 1), -n))
        counts[roomy] += 1
    return [share for n in sorted(counts) for share in _split(homes[n], counts[n])]


def _split(cores: Cores, parts: int) -> list[Cores]:
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


def _pick(cores: Cores, count: int) -> tuple[int, ...]:
    """The first CPU of `count` cores, spread evenly."""
    return tuple(sorted(cores[len(cores) * i // count].cpus[0] for i in range(count)))


def _memory_node(topology: Topology, node: NumaNode) -> int:
    """The node itself, or the nearest one with memory where it has none that may be used."""
    if node.memory_nbytes:
        return node.id
    stocked = [n.id for n in topology.nodes if n.memory_nbytes]
    far = max(node.distances.values(), default=0) + 1
    return min(stocked, key=lambda n: (node.distances.get(n, far), n), default=node.id)
