"""The topology of machines that nobody here owns, and of the one the tests run on."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import BY_NAME, MACHINES, Machine, cpus_present, gib, write_tree

import numa
from numa.errors import NumaError
from numa.notation import cpulist, parse_cpulist
from numa.topology import DEFAULT_CACHE_NBYTES, Topology

CORES = {
    "one node": ["0 1 2 3"],
    "kernel without NUMA": ["0 1 2 3"],
    "two sockets with SMT": ["0,8 1,9 2,10 3,11", "4,12 5,13 6,14 7,15"],
    "sub-NUMA clusters": ["0,8 1,9", "2,10 3,11", "4,12 5,13", "6,14 7,15"],
    "memory-only node": ["0 1", "2 3", ""],
    "node without memory": ["0 1", "2 3", "4 5"],
    "offline CPUs": ["0 1 2 11", "4,12 5,13 6,14 7,15"],
    "many L3 caches a node": [
        " ".join(f"{c},{c + 16}" for c in range(8)),
        " ".join(f"{c},{c + 16}" for c in range(8, 16)),
    ],
    "two nodes a socket": ["0 1 2", "3 4 5", "6 7 8", "9 10 11"],
    "uneven nodes": ["0 1", "2 3 4 5 6 7"],
    "cpuset forbids half": ["0 1", "4 5"],
    "cpuset forbids a node": ["", "4 5 6 7"],
    "cpuset forbids a node's memory": ["0 1 2 3", "4 5 6 7"],
    "container with a quota": ["0 1 2 3", "4 5 6 7"],
}
"""By machine and node: the cores, each as the CPUs that share it."""


@pytest.fixture(params=MACHINES, ids=lambda machine: machine.name)
def machine(request: pytest.FixtureRequest) -> Machine:
    chosen: Machine = request.param
    return chosen


def discover(name: str, root: Path) -> Topology:
    return Topology.discover(write_tree(BY_NAME[name], root))


def test_our_numa_is_the_one_imported() -> None:
    # The registry has other distributions that import as numa.
    assert Path(numa.__file__).parent == Path(__file__).parents[2] / "numa"


def test_cores_by_node(machine: Machine, tmp_path: Path) -> None:
    topology = Topology.discover(write_tree(machine, tmp_path))
    said = [" ".join(",".join(map(str, c.cpus)) for c in node.cores) for node in topology.nodes]
    assert said == CORES[machine.name]


def test_every_cpu_is_allowed_forbidden_or_offline(machine: Machine, tmp_path: Path) -> None:
    t = Topology.discover(write_tree(machine, tmp_path))
    assert t.offline_cpus == parse_cpulist(machine.offline)
    assert t.allowed_cpus | t.forbidden_cpus | t.offline_cpus == cpus_present(machine)
    assert len(t.allowed_cpus) + len(t.forbidden_cpus) == len(
        cpus_present(machine) - t.offline_cpus
    )
    if machine.cpus_allowed is not None:
        assert t.allowed_cpus == parse_cpulist(machine.cpus_allowed)
    assert sorted(t.allowed_cpus) == sorted(cpu for core in t.cores for cpu in core.cpus)


def test_memory_of_the_allowed_nodes(machine: Machine, tmp_path: Path) -> None:
    t = Topology.discover(write_tree(machine, tmp_path))
    allowed = parse_cpulist(machine.mems_allowed or "0-63")
    expected = [g << 30 if n in allowed else 0 for n, g in enumerate(gib(machine))]
    assert [node.memory_nbytes for node in t.nodes] == expected
    assert t.forbidden_nodes == {n for n in range(len(machine.nodes)) if n not in allowed}
    limit = 8 << 30 if machine.files else sum(expected)
    assert t.memory_limit_nbytes == limit


def test_distances(tmp_path: Path) -> None:
    nodes = discover("sub-NUMA clusters", tmp_path).nodes
    assert nodes[0].distances == {0: 10, 1: 12, 2: 21, 3: 21}
    assert nodes[3].distances == {0: 21, 1: 21, 2: 12, 3: 10}


DOMAINS = {
    ("one node", "socket"): ["0-3"],
    ("two sockets with SMT", "l3"): ["0-3,8-11", "4-7,12-15"],
    ("sub-NUMA clusters", "node"): ["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"],
    # Two nodes share each L3, and a domain of caches never reaches over nodes.
    ("sub-NUMA clusters", "l3"): ["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"],
    ("many L3 caches a node", "node"): ["0-7,16-23", "8-15,24-31"],
    ("many L3 caches a node", "socket"): ["0-7,16-23", "8-15,24-31"],
    ("many L3 caches a node", "l3"): ["0-3,16-19", "4-7,20-23", "8-11,24-27", "12-15,28-31"],
    ("two nodes a socket", "socket"): ["0-5", "6-11"],
    ("memory-only node", "l3"): ["0-1", "2-3"],
    ("cpuset forbids half", "l3"): ["0-1", "4-5"],
}


@pytest.mark.parametrize("case", DOMAINS, ids=" by ".join)
def test_domains(case: tuple[str, str], tmp_path: Path) -> None:
    name, kind = case
    topology = discover(name, tmp_path)
    assert topology.to_json()["domains"][kind] == DOMAINS[case]
    found = [core for cores in topology.domains(kind) for core in cores]
    assert sorted(c.cpus for c in found) == sorted(c.cpus for c in topology.cores)


def test_an_unknown_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NumaError, match="expected one of node, socket, l3, got 'die'"):
        discover("one node", tmp_path).domains("die")


def test_quota(tmp_path: Path) -> None:
    assert discover("container with a quota", tmp_path / "a").cpu_quota == 3.5
    assert discover("one node", tmp_path / "b").cpu_quota is None


@pytest.mark.parametrize(
    ("name", "l3_share"),
    [
        ("one node", 8 << 20),  # 32 MiB for 4 cores
        ("two sockets with SMT", 8 << 20),  # for 8 CPUs, but 4 cores
        ("sub-NUMA clusters", 8 << 20),  # two nodes share one
        ("offline CPUs", 8 << 20),  # CPU 11 lost its sibling 3, and still is a core
        ("cpuset forbids half", 8 << 20),  # the others' half is not ours
    ],
)
def test_cache_share_of_a_core(name: str, l3_share: int, tmp_path: Path) -> None:
    topology = discover(name, tmp_path)
    shares = [topology.cache_nbytes(level) for level in (1, 2, 3)]
    assert shares == [32 << 10, 1 << 20, l3_share]


def test_the_smallest_core_counts(tmp_path: Path) -> None:
    root = write_tree(BY_NAME["cpuset forbids half"], tmp_path)
    cache = root / "sys/devices/system/cpu/cpu{}/cache/index2/size"
    Path(str(cache).format(2)).write_text("128K")  # a forbidden core's cache
    assert Topology.discover(root).cache_nbytes(2) == 1 << 20
    Path(str(cache).format(5)).write_text("256K")
    assert Topology.discover(root).cache_nbytes(2) == 256 << 10


def test_caches_are_listed_once(tmp_path: Path) -> None:
    caches = discover("two sockets with SMT", tmp_path).caches
    assert [(c.level, cpulist(c.cpus)) for c in caches if c.level == 3] == [
        (3, "0-3,8-11"),
        (3, "4-7,12-15"),
    ]
    assert len([c for c in caches if c.level == 1 and c.kind == "Data"]) == 8


def test_unknown_cache_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NumaError, match="expected level 1, 2 or 3, got 4"):
        discover("one node", tmp_path).cache_nbytes(4)


def test_caller_narrows_the_cpus(tmp_path: Path) -> None:
    root = write_tree(BY_NAME["two sockets with SMT"], tmp_path)
    topology = Topology.discover(root, allowed=frozenset({2, 10, 12, 99}))
    assert topology.allowed_cpus == {2, 10, 12}
    assert [core.cpus for core in topology.cores] == [(2, 10), (12,)]


def test_no_cpu_left_is_an_error_that_names_both_sides(tmp_path: Path) -> None:
    root = write_tree(BY_NAME["one node"], tmp_path)
    with pytest.raises(NumaError, match=r"got online 0-3, allowed 64; widen"):
        Topology.discover(root, allowed=frozenset({64}))


def test_an_empty_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NumaError, match="got online none, allowed none"):
        Topology.discover(tmp_path)


def test_no_sys_at_all_leaves_one_node(tmp_path: Path) -> None:
    root = write_tree(BY_NAME["two sockets with SMT"], tmp_path)
    shutil.rmtree(root / "sys")
    topology = Topology.discover(root, allowed=frozenset({0, 1}))
    assert [(n.id, n.cpus, n.memory_nbytes) for n in topology.nodes] == [(0, (0, 1), 32 << 30)]
    assert [topology.cache_nbytes(k) for k in (1, 2, 3)] == list(DEFAULT_CACHE_NBYTES.values())


@pytest.mark.parametrize("damage", ["missing", "empty", "odd"])
def test_any_one_damaged_file_leaves_a_whole_topology(damage: str, tmp_path: Path) -> None:
    """No CPU is lost or doubled when a container hides a file or a hypervisor garbles it."""
    machine = Machine("small", nodes=("0,2", "1,3"), smt=("0,2", "1,3"))
    root = write_tree(machine, tmp_path)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        kept = path.read_text()
        if damage == "missing":
            path.unlink()
        else:
            path.write_text("" if damage == "empty" else "?? -1 \x00 MemTotal: lots\n")
        topology = Topology.discover(root)
        cpus = sorted(cpu for node in topology.nodes for cpu in node.cpus)
        assert cpus == [0, 1, 2, 3], path
        assert topology.cache_nbytes(2) == 1 << 20, path
        assert topology.memory_limit_nbytes >= 16 << 30, path
        assert str(topology), path
        path.write_text(kept)


def test_one_sibling_that_says_nothing_still_shares_its_core(tmp_path: Path) -> None:
    root = write_tree(BY_NAME["two sockets with SMT"], tmp_path)
    (root / "sys/devices/system/cpu/cpu0/topology/thread_siblings_list").unlink()
    assert Topology.discover(root).nodes[0].cores[0].cpus == (0, 8)


def test_travels_and_compares(machine: Machine, tmp_path: Path) -> None:
    topology = Topology.discover(write_tree(machine, tmp_path))
    assert pickle.loads(pickle.dumps(topology)) == topology
    assert hash(topology) == hash(pickle.loads(pickle.dumps(topology)))
    said = json.loads(json.dumps(topology.to_json()))
    assert said["allowed_cpus"] == cpulist(topology.allowed_cpus)
    assert [n["cores"] for n in said["nodes"]] == [
        [list(c.cpus) for c in n.cores] for n in topology.nodes
    ]


def test_prints_as_a_table(tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    tables = [
        f"# {m.name}\n{Topology.discover(write_tree(m, tmp_path / str(i)))}\n"
        for i, m in enumerate(MACHINES)
    ]
    golden("topology", "\n".join(tables))


def test_this_machine() -> None:
    topology = Topology.discover()
    assert topology.allowed_cpus == os.sched_getaffinity(0)
    assert topology.cores
    assert topology.memory_limit_nbytes > 64 << 20
    assert 1 << 12 <= topology.cache_nbytes(1) <= topology.cache_nbytes(2)
    nodes = {n.id for n in topology.nodes}
    online = Path("/sys/devices/system/node/online")
    assert nodes == (parse_cpulist(online.read_text()) if online.exists() else {0})


def test_this_machines_affinity_is_respected() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert Topology.discover().allowed_cpus == {min(before)}
    finally:
        os.sched_setaffinity(0, before)
