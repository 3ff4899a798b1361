"""What the machine is, as far as this process may use it: NUMA nodes, cores, caches, limits.

    /sys/devices/system/node/node*   CPUs, memory, distances of each node
    /sys/devices/system/cpu          which CPUs run, which share a core, which share a cache
    /proc/self/status                which CPUs and nodes affinity and cpuset allow
    control groups                   processor time and memory (numa/cgroup.py)

Everything is read below a root, so a test, or a report from another machine, is a folder of
small text files. Reading it changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numa import cgroup, sysfs
from numa.errors import NumaError
from numa.notation import cpulist, size

SYSTEM = Path("/")
CPU_FOLDER = "sys/devices/system/cpu"
NODE_FOLDER = "sys/devices/system/node"
LOCAL_DISTANCE = 10
"""The kernel's distance of a node to itself."""

CACHE_KINDS = ("Data", "Instruction", "Unified")
"""The kernel's words."""

DOMAINS = ("node", "socket", "l3")
"""Groups of cores that an engine may be for."""

DEFAULT_CACHE_NBYTES = {1: 32 << 10, 2: 512 << 10, 3: 1 << 20}
"""A core's share by level where /sys says nothing: on the low side for server processors, since
a working set that is planned too small costs less than one that does not fit."""


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache and all the online CPUs that share it, forbidden ones included."""

    level: int
    kind: str
    """One of CACHE_KINDS."""
    nbytes: int
    cpus: frozenset[int]


@dataclass(frozen=True, slots=True)
class Core:
    """A physical core: its SMT siblings that are online and allowed, lowest first."""

    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A NUMA node. Without cores it is memory only, or its CPUs are forbidden."""

    id: int
    cores: tuple[Core, ...]
    memory_nbytes: int
    """Its memory, bytes; 0 where it has none or the process may not allocate there."""
    distances: Mapping[int, int] = field(hash=False)
    """By node, itself included (10 is local)."""

    @property
    def cpus(self) -> tuple[int, ...]:
        """All allowed CPUs of the node, SMT siblings included, ascending."""
        return tuple(sorted(cpu for core in self.cores for cpu in core.cpus))


@dataclass(frozen=True, slots=True)
class Topology:
    """The machine as this process sees it; prints itself as a table."""

    nodes: tuple[NumaNode, ...]
    caches: tuple[Cache, ...]
    allowed_cpus: frozenset[int]
    forbidden_cpus: frozenset[int]
    """Online, but outside the process's affinity or cpuset."""
    offline_cpus: frozenset[int]
    cpu_quota: float | None
    """Processor time that the control groups grant, in CPUs; None is no limit."""
    memory_limit_nbytes: int
    """The smaller of what the allowed nodes have and what the control groups grant."""
    forbidden_nodes: frozenset[int] = frozenset()
    """Nodes whose memory the cpuset forbids."""
    sockets: tuple[frozenset[int], ...] = ()
    """The allowed CPUs of each socket; none where the machine does not say."""

    @classmethod
    def discover(cls, root: Path = SYSTEM, allowed: frozenset[int] | None = None) -> Topology:
        """Read the machine below `root`; `allowed` narrows the CPUs further.

        For the running machine the affinity of the calling thread narrows them too, so ask
        before any thread is pinned.
        """
        online, offline = _cpus(root)
        permitted = _permitted(root, allowed)
        usable = (
            permitted if online is None else (online if permitted is None else online & permitted)
        )
        if not usable:
            raise NumaError(
                f"topology of {root}: expected at least one CPU that is online and allowed, got "
                f"online {cpulist(online or ()) or 'none'}, allowed "
                f"{cpulist(permitted or ()) or 'none'}; widen the affinity or the cpuset"
            )
        nodes, forbidden_nodes = _nodes(root, _cores(root, usable))
        limits = cgroup.limits(root)
        memory_nbytes = sum(n.memory_nbytes for n in nodes) or _whole_memory_nbytes(root)
        return cls(
            nodes=nodes,
            caches=_caches(root, online or usable),
            allowed_cpus=usable,
            forbidden_cpus=(online or usable) - usable,
            offline_cpus=offline,
            cpu_quota=limits.cpus,
            memory_limit_nbytes=min(memory_nbytes, limits.memory_nbytes or memory_nbytes),
            forbidden_nodes=forbidden_nodes,
            sockets=_sockets(root, usable),
        )

    @property
    def cores(self) -> tuple[Core, ...]:
        return tuple(core for node in self.nodes for core in node.cores)

    def memory_nbytes(self, *nodes: int) -> int:
        """Memory of some NUMA nodes, bytes, within the control group's limit."""
        own = sum(n.memory_nbytes for n in self.nodes if n.id in nodes)
        return min(own, self.memory_limit_nbytes)

    def domains(self, kind: str) -> tuple[tuple[Core, ...], ...]:
        """The cores of each "node", each "socket", or each "l3": those of a node that share a
        cache of level 3. Cores of which the machine does not tell go by node."""
        if kind not in DOMAINS:
            raise NumaError(f"domain: expected one of {', '.join(DOMAINS)}, got {kind!r}")
        groups: dict[tuple[int, ...], list[Core]] = {}
        for node in self.nodes:
            for core in node.cores:
                socket = _first(core, self.sockets)
                l3 = _first(core, [c.cpus for c in self.caches if c.level == 3])
                key = {
                    "node": (node.id,),
                    "socket": (socket, node.id if socket < 0 else -1),
                    "l3": (node.id, l3),
                }[kind]
                groups.setdefault(key, []).append(core)
        return tuple(tuple(cores) for cores in groups.values())

    def cache_nbytes(self, level: int) -> int:
        """Data cache of a level that one core can count on, bytes: its share of the smallest.

        A cache is shared by as many cores as have their own L1 below it, not by CPUs: of two
        SMT siblings only one runs our thread. Where /sys says nothing, DEFAULT_CACHE_NBYTES.
        """
        if level not in DEFAULT_CACHE_NBYTES:
            raise NumaError(f"cache: expected level 1, 2 or 3, got {level}")
        shares = [
            c.nbytes // self._cores_sharing(c)
            for c in self.caches
            if c.level == level and c.kind != "Instruction" and c.cpus & self.allowed_cpus
        ]
        return min(shares, default=DEFAULT_CACHE_NBYTES[level])

    def _cores_sharing(self, cache: Cache) -> int:
        first = [c for c in self.caches if c.level == 1 and c.kind != "Instruction"]
        return sum(1 for c in first if c.cpus & cache.cpus) or len(cache.cpus)

    def to_json(self) -> dict[str, Any]:
        """The same in plain dicts, lists and numbers; sets of CPUs in the kernel's notation."""
        return {
            "nodes": [
                {
                    "id": n.id,
                    "cores": [list(c.cpus) for c in n.cores],
                    "memory_nbytes": n.memory_nbytes,
                    "distances": {str(k): v for k, v in n.distances.items()},
                }
                for n in self.nodes
            ],
            "caches": [
                {"level": c.level, "kind": c.kind, "nbytes": c.nbytes, "cpus": cpulist(c.cpus)}
                for c in self.caches
            ],
            "cache_nbytes_a_core": {str(k): self.cache_nbytes(k) for k in DEFAULT_CACHE_NBYTES},
            "allowed_cpus": cpulist(self.allowed_cpus),
            "forbidden_cpus": cpulist(self.forbidden_cpus),
            "offline_cpus": cpulist(self.offline_cpus),
            "forbidden_nodes": cpulist(self.forbidden_nodes),
            "domains": {kind: self._lists(kind) for kind in DOMAINS},
            "cpu_quota": self.cpu_quota,
            "memory_limit_nbytes": self.memory_limit_nbytes,
        }

    def __str__(self) -> str:
        rows = [("node", "cores", "CPUs", "memory", "distances")]
        rows += [self._row(node) for node in self.nodes]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        return "\n".join([self._headline(), *table, *self._footnotes()])

    def _lists(self, kind: str) -> list[str]:
        """CPU lists of the domains of a kind."""
        return [cpulist(cpu for core in cores for cpu in core.cpus) for cores in self.domains(kind)]

    def _headline(self) -> str:
        counts = (
            (len(self.nodes), "NUMA node"),
            (len(self.cores), "core"),
            (len(self.allowed_cpus), "CPU"),
        )
        what = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts)
        return f"{what}, {size(self.memory_limit_nbytes)} of memory"

    def _row(self, node: NumaNode) -> tuple[str, str, str, str, str]:
        memory = "forbidden" if node.id in self.forbidden_nodes else size(node.memory_nbytes)
        distances = " ".join(str(d) for _, d in sorted(node.distances.items()))
        return str(node.id), str(len(node.cores)), cpulist(node.cpus) or "-", memory, distances

    def _footnotes(self) -> list[str]:
        caches = ", ".join(f"L{k} {size(self.cache_nbytes(k))}" for k in DEFAULT_CACHE_NBYTES)
        lines = [f"data cache a core: {caches}"]
        for kind, word in (("socket", "sockets"), ("l3", "L3 caches")):
            if self._lists(kind) != self._lists("node"):
                lines.append(f"CPUs by {word}: {' | '.join(self._lists(kind))}")
        if self.offline_cpus:
            lines.append(f"offline CPUs: {cpulist(self.offline_cpus)}")
        if self.forbidden_cpus:
            lines.append(f"CPUs forbidden by affinity or cpuset: {cpulist(self.forbidden_cpus)}")
        if self.cpu_quota is not None:
            lines.append(f"processor time granted by the control group: {self.cpu_quota:g} CPUs")
        return lines


def _cpus(root: Path) -> tuple[frozenset[int] | None, frozenset[int]]:
    """Online CPUs (None where /sys says nothing) and those present but offline."""
    folder = root / CPU_FOLDER
    named = frozenset(sysfs.numbered(folder, "cpu"))
    online = sysfs.cpus(folder / "online") or named or None
    # `offline` also lists CPUs that were never built in; only those present are worth a word.
    present = sysfs.cpus(folder / "present") or named
    return online, present - (online or frozenset())


def _permitted(root: Path, allowed: frozenset[int] | None) -> frozenset[int] | None:
    """CPUs that status, caller and (on the running machine) affinity agree on; None is any."""
    sets = [sysfs.allowed(root, "Cpus_allowed_list"), allowed]
    if root == SYSTEM:
        sets.append(frozenset(os.sched_getaffinity(0)))
    said = [s for s in sets if s is not None]
    return frozenset.intersection(*said) if said else None


def _first(core: Core, groups: Sequence[frozenset[int]]) -> int:
    """Number of the group of CPUs that the core is in; -1 for none."""
    return next((n for n, cpus in enumerate(groups) if core.cpus[0] in cpus), -1)


def _sockets(root: Path, usable: frozenset[int]) -> tuple[frozenset[int], ...]:
    groups: dict[int, set[int]] = {}
    for cpu in sorted(usable):
        folder = root / CPU_FOLDER / f"cpu{cpu}" / "topology"
        socket = sysfs.number(folder / "physical_package_id")
        if socket is not None:
            groups.setdefault(socket, set()).add(cpu)
    return tuple(frozenset(cpus) for _, cpus in sorted(groups.items()))


def _cores(root: Path, usable: frozenset[int]) -> tuple[Core, ...]:
    """Usable CPUs grouped by physical core; one that nobody names as sibling stands alone."""
    groups: dict[int, frozenset[int]] = {}
    for cpu in sorted(usable):
        folder = root / CPU_FOLDER / f"cpu{cpu}" / "topology"
        # core_cpus_list is the newer name of the same list.
        siblings = sysfs.cpus(folder / "core_cpus_list") or sysfs.cpus(
            folder / "thread_siblings_list"
        )
        group = frozenset({cpu}) | ((siblings or frozenset()) & usable)
        # Joined with what the siblings said, should one of them say nothing.
        group = group.union(*(groups.get(sibling, ()) for sibling in group))
        groups.update(dict.fromkeys(group, group))
    return tuple(Core(tuple(sorted(g))) for g in sorted(set(groups.values()), key=min))


def _nodes(root: Path, cores: tuple[Core, ...]) -> tuple[tuple[NumaNode, ...], frozenset[int]]:
    """The nodes with their share of the cores, and which of them have forbidden memory."""
    folders = sysfs.numbered(root / NODE_FOLDER, "node")
    if not folders:  # a kernel without NUMA, or a container that hides it
        whole = NumaNode(0, cores, _whole_memory_nbytes(root), {0: LOCAL_DISTANCE})
        return (whole,), frozenset()
    allowed = sysfs.allowed(root, "Mems_allowed_list")
    if allowed is None or not allowed & folders.keys():
        allowed = frozenset(folders)
    home = {cpu: n for n, f in folders.items() for cpu in sysfs.cpus(f / "cpulist") or ()}
    first = min(folders)  # takes the cores that no node claims, so that none is lost
    nodes = [
        NumaNode(
            id=n,
            cores=tuple(c for c in cores if home.get(c.cpus[0], first) == n),
            memory_nbytes=(sysfs.memory_nbytes(folder / "meminfo") or 0) if n in allowed else 0,
            distances=dict(zip(folders, sysfs.numbers(folder / "distance"), strict=False)),
        )
        for n, folder in folders.items()
    ]
    return tuple(nodes), frozenset(folders) - allowed


def memory_limit(topology: Topology) -> int:
    """The smaller of the machine's or cgroup's limit and what is available now, in bytes."""
    import psutil  # not for everyone who asks where processors are

    return min(topology.memory_limit_nbytes, int(psutil.virtual_memory().available))


def _caches(root: Path, online: frozenset[int]) -> tuple[Cache, ...]:
    """Every cache of the online CPUs once, nearest level first."""
    found: set[Cache] = set()
    for cpu in online:
        for folder in sysfs.numbered(root / CPU_FOLDER / f"cpu{cpu}" / "cache", "index").values():
            level, kind = sysfs.number(folder / "level"), sysfs.text(folder / "type") or ""
            nbytes, cpus = sysfs.nbytes(folder / "size"), sysfs.cpus(folder / "shared_cpu_list")
            # Without the sharers a share cannot be told; as a rule they list the cache too.
            if level and kind in CACHE_KINDS and nbytes and cpus:
                found.add(Cache(level, kind, nbytes, cpus))
    return tuple(sorted(found, key=lambda c: (c.level, c.kind, sorted(c.cpus))))


def _whole_memory_nbytes(root: Path) -> int:
    said = sysfs.memory_nbytes(root / "proc/meminfo")
    return said or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
