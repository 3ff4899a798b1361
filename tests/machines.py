"""Machines as folders: a short description of each, written out as the /sys and /proc it has.

`write_tree(machine, root)` makes what the kernel would show, so that `Topology.discover(root)`
reads machines that nobody here owns. MACHINES is the table; tests parametrise over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from numa.notation import cpulist, parse_cpulist


@dataclass(frozen=True)
class Machine:
    """One machine and what this process is allowed of it."""

    name: str
    nodes: tuple[str, ...]
    """CPU list of each NUMA node, offline ones included; "" is a node of memory only."""
    smt: tuple[str, ...] = ()
    """CPU lists of the cores with several threads; every other CPU is a core."""
    l3: tuple[str, ...] = ()
    """CPU lists that share 32 MiB of L3; default, a node each."""
    sockets: tuple[str, ...] = ()
    """CPU lists of the sockets; default, all on one that no file names."""
    gib: tuple[int, ...] = ()
    """Memory of each node; default 16 GiB."""
    near: tuple[tuple[int, int], ...] = ()
    """Pairs of nodes at distance 12 (10 is local, every other pair is at 21)."""
    offline: str = ""
    cpus_allowed: str | None = None
    mems_allowed: str | None = None
    numa: bool = True
    """False is a kernel without /sys/devices/system/node."""
    files: Mapping[str, str] = field(default_factory=dict)
    """More files by path below the root: control groups."""


MACHINES = (
    Machine("one node", nodes=("0-3",)),
    Machine("kernel without NUMA", nodes=("0-3",), numa=False),
    Machine(
        "two sockets with SMT",
        nodes=("0-3,8-11", "4-7,12-15"),
        smt=tuple(f"{c},{c + 8}" for c in range(8)),
    ),
    Machine(
        "sub-NUMA clusters",
        nodes=("0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"),
        smt=tuple(f"{c},{c + 8}" for c in range(8)),
        l3=("0-3,8-11", "4-7,12-15"),
        near=((0, 1), (2, 3)),
    ),
    Machine("memory-only node", nodes=("0-1", "2-3", ""), gib=(16, 16, 64), near=((1, 2),)),
    Machine("node without memory", nodes=("0-1", "2-3", "4-5"), gib=(16, 16, 0), near=((1, 2),)),
    Machine(
        "offline CPUs",
        nodes=("0-3,8-11", "4-7,12-15"),
        smt=tuple(f"{c},{c + 8}" for c in range(8)),
        offline="3,8-10",
    ),
    Machine(
        "many L3 caches a node",
        nodes=("0-7,16-23", "8-15,24-31"),
        smt=tuple(f"{c},{c + 16}" for c in range(16)),
        l3=("0-3,16-19", "4-7,20-23", "8-11,24-27", "12-15,28-31"),
        sockets=("0-7,16-23", "8-15,24-31"),
    ),
    Machine(
        "two nodes a socket",
        nodes=("0-2", "3-5", "6-8", "9-11"),
        l3=("0-2", "3-5", "6-8", "9-11"),
        sockets=("0-5", "6-11"),
        near=((0, 1), (2, 3)),
    ),
    Machine("uneven nodes", nodes=("0-1", "2-7")),
    Machine(
        "cpuset forbids half",
        nodes=("0-3", "4-7"),
        cpus_allowed="0-1,4-5",
    ),
    Machine(
        "cpuset forbids a node",
        nodes=("0-3", "4-7"),
        cpus_allowed="4-7",
        mems_allowed="1",
    ),
    Machine("cpuset forbids a node's memory", nodes=("0-3", "4-7"), mems_allowed="0"),
    Machine(
        "container with a quota",
        nodes=("0-3", "4-7"),
        files={
            "proc/self/cgroup": "0::/pod/box",
            "sys/fs/cgroup/pod/box/cpu.max": "max 100000",
            "sys/fs/cgroup/pod/box/memory.max": "8589934592",
            "sys/fs/cgroup/pod/cpu.max": "350000 100000",
            "sys/fs/cgroup/pod/memory.max": "max",
        },
    ),
)

BY_NAME = {machine.name: machine for machine in MACHINES}


def write_tree(machine: Machine, root: Path) -> Path:
    """The machine's small files below `root`, which is returned."""
    files = {**_process(machine), **_cpus(machine), **machine.files}
    if machine.numa:
        files |= _nodes(machine)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root


def cpus_present(machine: Machine) -> frozenset[int]:
    return frozenset().union(*map(parse_cpulist, machine.nodes))


def gib(machine: Machine) -> tuple[int, ...]:
    return machine.gib or (16,) * len(machine.nodes)


def _process(machine: Machine) -> dict[str, str]:
    # The kernel allows CPUs beyond those present, up to the number it was built for.
    cpus, mems = machine.cpus_allowed or "0-127", machine.mems_allowed or "0-63"
    return {
        "proc/self/status": f"Name:\tx\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{mems}",
        "proc/meminfo": f"MemTotal:  {sum(gib(machine)) << 20} kB\nMemFree:  1 kB",
    }


def _cpus(machine: Machine) -> dict[str, str]:
    present, offline = cpus_present(machine), parse_cpulist(machine.offline)
    online = present - offline
    cores = {c: parse_cpulist(g) for g in machine.smt for c in parse_cpulist(g)}
    l3 = {c: parse_cpulist(g) for g in machine.l3 or machine.nodes for c in parse_cpulist(g)}
    base = "sys/devices/system/cpu"
    socket = {c: n for n, cpus in enumerate(machine.sockets) for c in parse_cpulist(cpus)}
    files = {
        f"{base}/online": cpulist(online),
        f"{base}/present": cpulist(present),
        f"{base}/offline": cpulist(parse_cpulist("0-127") - online),
    }
    for cpu in present:
        files[f"{base}/cpu{cpu}/uevent"] = ""
    for cpu in online:  # an offline CPU has neither topology nor caches
        core = cores.get(cpu, frozenset({cpu})) & online
        files[f"{base}/cpu{cpu}/topology/thread_siblings_list"] = cpulist(core)
        if cpu in socket:
            files[f"{base}/cpu{cpu}/topology/physical_package_id"] = str(socket[cpu])
        caches = (
            ("1", "Data", "32K", core),
            ("1", "Instruction", "64K", core),
            ("2", "Unified", "1024K", core),
            ("3", "Unified", "32768K", l3[cpu] & online),
        )
        for i, (level, kind, size, shared) in enumerate(caches):
            folder = f"{base}/cpu{cpu}/cache/index{i}"
            files |= {
                f"{folder}/level": level,
                f"{folder}/type": kind,
                f"{folder}/size": size,
                f"{folder}/shared_cpu_list": cpulist(shared),
            }
    return files


def _nodes(machine: Machine) -> dict[str, str]:
    near = {pair for a, b in machine.near for pair in ((a, b), (b, a))}
    online = cpus_present(machine) - parse_cpulist(machine.offline)
    count = range(len(machine.nodes))
    files: dict[str, str] = {}
    for n, cpus in enumerate(machine.nodes):
        base = f"sys/devices/system/node/node{n}"
        distances = [10 if m == n else 12 if (m, n) in near else 21 for m in count]
        files |= {
            f"{base}/cpulist": cpulist(parse_cpulist(cpus) & online),
            f"{base}/distance": " ".join(map(str, distances)),
            f"{base}/meminfo": f"Node {n} MemTotal:  {gib(machine)[n] << 20} kB",
        }
    return files
