"""Places on machines of all shapes: examples first, then what holds for every machine."""

import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machines import BY_NAME, MACHINES, Machine, write_tree

from numa.errors import NumaError
from numa.notation import cpulist
from numa.placement import Place, places
from numa.topology import Core, NumaNode, Topology

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PLACES = {
    ("one node", None, None): ["0: 0-3"],
    ("one node", 2, None): ["0: 0-1", "0: 2-3"],
    ("one node", 3, None): ["0: 0", "0: 1", "0: 2-3"],
    ("one node", None, 2): ["0: 0,2"],
    ("one node", 1, 4): ["0: 0-3"],
    ("uneven nodes", None, 4): ["0: 0-1", "1: 2-3,5-6"],
    ("kernel without NUMA", None, None): ["0: 0-3"],
    ("two sockets with SMT", None, None): ["0: 0-3", "1: 4-7"],
    ("two sockets with SMT", 1, None): ["0: 0-3"],
    ("two sockets with SMT", 3, None): ["0: 0-1", "0: 2-3", "1: 4-7"],
    ("two sockets with SMT", 4, 1): ["0: 0", "0: 2", "1: 4", "1: 6"],
    ("sub-NUMA clusters", None, None): ["0: 0-1", "1: 2-3", "2: 4-5", "3: 6-7"],
    ("sub-NUMA clusters", 6, None): ["0: 0", "0: 1", "1: 2", "1: 3", "2: 4-5", "3: 6-7"],
    ("memory-only node", None, None): ["0: 0-1", "1: 2-3"],
    ("node without memory", None, None): ["0: 0-1", "1: 2-3", "1: 4-5"],
    ("offline CPUs", None, None): ["0: 0-2,11", "1: 4-7"],
    ("uneven nodes", None, None): ["0: 0-1", "1: 2-7"],
    ("uneven nodes", 1, None): ["1: 2-7"],
    ("uneven nodes", 3, None): ["0: 0-1", "1: 2-4", "1: 5-7"],
    ("uneven nodes", 4, None): ["0: 0-1", "1: 2-3", "1: 4-5", "1: 6-7"],
    ("cpuset forbids half", None, None): ["0: 0-1", "1: 4-5"],
    ("cpuset forbids a node", None, None): ["1: 4-7"],
    ("cpuset forbids a node", 2, None): ["1: 4-5", "1: 6-7"],
    ("cpuset forbids a node's memory", None, None): ["0: 0-3", "0: 4-7"],
    ("container with a quota", None, None): ["0: 0,2", "1: 4"],
    ("container with a quota", 3, None): ["0: 0", "0: 2", "1: 4"],
    ("container with a quota", 1, None): ["0: 0-2"],
}
"""By machine, engines and threads: "memory node: CPUs" of each place."""


@pytest.mark.parametrize("case", PLACES, ids=str)
def test_places(case: tuple[str, int | None, int | None], tmp_path: Path) -> None:
    name, engines, threads = case
    topology = Topology.discover(write_tree(BY_NAME[name], tmp_path))
    got = places(topology, engines, threads)
    assert [f"{p.node}: {cpulist(p.cpus)}" for p in got] == PLACES[case]
    assert [p.engine for p in got] == list(range(len(got)))


DOMAIN_PLACES = {
    ("two nodes a socket", "socket", None, False): ["0-1: 0-5", "2-3: 6-11"],
    ("two nodes a socket", "socket", 4, False): ["0: 0-2", "1: 3-5", "2: 6-8", "3: 9-11"],
    ("two nodes a socket", "socket", 3, False): ["0: 0-2", "1: 3-5", "2-3: 6-11"],
    ("two nodes a socket", "l3", None, False): ["0: 0-2", "1: 3-5", "2: 6-8", "3: 9-11"],
    ("many L3 caches a node", "l3", None, False): ["0: 0-3", "0: 4-7", "1: 8-11", "1: 12-15"],
    ("many L3 caches a node", "l3", 1, False): ["0: 0-3"],
    ("many L3 caches a node", "node", None, False): ["0: 0-7", "1: 8-15"],
    ("many L3 caches a node", "node", None, True): ["0: 0-7,16-23", "1: 8-15,24-31"],
    ("many L3 caches a node", "l3", None, True): [
        "0: 0-3,16-19", "0: 4-7,20-23", "1: 8-11,24-27", "1: 12-15,28-31",
    ],
    ("one node", "socket", None, True): ["0: 0-3"],
    ("node without memory", "socket", None, False): ["0: 0-1", "1: 2-3", "1: 4-5"],
}  # fmt: skip
"""By machine, domain, engines and whether siblings are used: "memory nodes: CPUs"."""


@pytest.mark.parametrize("case", DOMAIN_PLACES, ids=str)
def test_places_by_domain(case: tuple[str, str, int | None, bool], tmp_path: Path) -> None:
    name, domain, engines, smt = case
    topology = Topology.discover(write_tree(BY_NAME[name], tmp_path))
    got = places(topology, engines, domain=domain, smt=smt)
    assert [f"{cpulist(p.nodes)}: {cpulist(p.cpus)}" for p in got] == DOMAIN_PLACES[case]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
@pytest.mark.parametrize("domain", ["node", "socket", "l3"])
def test_no_domain_puts_two_threads_on_a_core(
    machine: Machine, domain: str, tmp_path: Path
) -> None:
    topology = Topology.discover(write_tree(machine, tmp_path))
    used = {cpu for place in places(topology, domain=domain) for cpu in place.cpus}
    assert all(len(used & set(core.cpus)) <= 1 for core in topology.cores)
    spread = {cpu for place in places(topology, domain=domain, smt=True) for cpu in place.cpus}
    if topology.cpu_quota is None:
        assert spread == topology.allowed_cpus
        assert len(used) == len(topology.cores)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
def test_too_many_engines_are_refused_with_the_most_there_can_be(
    machine: Machine, tmp_path: Path
) -> None:
    topology = Topology.discover(write_tree(machine, tmp_path))
    most = min(len(topology.cores), int(topology.cpu_quota or 999))
    assert len(places(topology, engines=most)) == most
    with pytest.raises(NumaError, match=f"expected at most {most} engines.* got {most + 1}; ask"):
        places(topology, engines=most + 1)


@pytest.mark.parametrize(
    ("machine", "engines", "most"),
    [("one node", None, 4), ("one node", 2, 2), ("uneven nodes", None, 6),
     ("container with a quota", 1, 3), ("container with a quota", 2, 2)],
)  # fmt: skip
def test_too_many_threads_are_refused_with_the_most_there_can_be(
    machine: str, engines: int | None, most: int, tmp_path: Path
) -> None:
    topology = Topology.discover(write_tree(BY_NAME[machine], tmp_path))
    places(topology, engines, most)
    with pytest.raises(NumaError, match=f"expected at most {most} threads.* got {most + 1}; ask"):
        places(topology, engines, most + 1)


@pytest.mark.parametrize(("name", "value"), [("engines", 0), ("engines", -1), ("threads", 0)])
def test_counts_below_one_are_refused(name: str, value: int, tmp_path: Path) -> None:
    topology = Topology.discover(write_tree(BY_NAME["one node"], tmp_path))
    with pytest.raises(NumaError, match=f"places: expected {name} of at least 1, got {value}"):
        places(topology, **{name: value})


def test_a_quota_below_one_cpu_still_runs_one_thread(tmp_path: Path) -> None:
    root = write_tree(BY_NAME["container with a quota"], tmp_path)
    (root / "sys/fs/cgroup/pod/cpu.max").write_text("20000 100000\n")
    assert places(Topology.discover(root)) == (Place(0, 0, (0,)),)


def test_a_place_travels_and_prints() -> None:
    place = Place(engine=2, node=1, cpus=(4, 5, 6, 9))
    assert pickle.loads(pickle.dumps(place)) == place
    assert str(place) == "engine 2 on node 1, cpus 4-6,9"
    assert place.nodes == (1,)
    wide = Place(engine=0, node=2, cpus=(4, 5), others=(3,))
    assert wide.nodes == (2, 3)
    assert str(wide) == "engine 0 on nodes 2-3, cpus 4-5"


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """1 to 4 nodes of 0 to 9 cores of 1 to 2 allowed siblings, with or without memory."""
    nodes, next_cpu = [], 0
    counts = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any))
    for n, count in enumerate(counts):
        cores = []
        for _ in range(count):
            siblings = draw(st.integers(1, 2))
            cores.append(Core(tuple(range(next_cpu, next_cpu + siblings))))
            next_cpu += siblings
        distances = {m: 10 if m == n else 21 for m in range(len(counts))}
        nodes.append(NumaNode(n, tuple(cores), draw(st.sampled_from([0, 1 << 30])), distances))
    allowed = frozenset(cpu for node in nodes for cpu in node.cpus)
    quota = draw(st.none() | st.floats(0.1, 40))
    return Topology(tuple(nodes), (), allowed, frozenset(), frozenset(), quota, 1 << 30)


@unhurried
@given(topologies(), st.none() | st.integers(1, 36), st.none() | st.integers(1, 12))
def test_what_holds_for_every_machine(
    topology: Topology, engines: int | None, threads: int | None
) -> None:
    budget = min(len(topology.cores), max(1, int(topology.cpu_quota or 999)))
    if engines is not None and engines > budget:
        with pytest.raises(NumaError):
            places(topology, engines, threads)
        return
    if threads is not None and threads > max(len(p.cpus) for p in places(topology, engines)):
        with pytest.raises(NumaError):
            places(topology, engines, threads)
        return
    got = places(topology, engines, threads)
    homes = [node for node in topology.nodes if node.cores]
    assert len(got) == (min(len(homes), budget) if engines is None else engines)

    used = [cpu for place in got for cpu in place.cpus]
    assert len(used) == len(set(used))  # no CPU twice
    assert set(used) <= topology.allowed_cpus
    for core in topology.cores:  # no physical core twice
        assert len(set(core.cpus) & set(used)) <= 1
    for place in got:  # one node each, at least one thread, no more than asked for
        assert sum(1 for node in homes if set(place.cpus) & set(node.cpus)) == 1
        assert 1 <= len(place.cpus) <= (threads or 99)
        assert list(place.cpus) == sorted(place.cpus)
    assert len(used) <= budget

    stocked = {node.id for node in topology.nodes if node.memory_nbytes}
    assert {p.node for p in got} <= (stocked or {n.id for n in topology.nodes})

    if threads is None and topology.cpu_quota is None:
        assert_fair(topology, got)


def assert_fair(topology: Topology, got: tuple[Place, ...]) -> None:
    """Without limits every core of a chosen node works, shared evenly by the node's engines."""
    for node in topology.nodes:
        sizes = [len(p.cpus) for p in got if set(p.cpus) <= set(node.cpus)]
        if sizes:
            assert sum(sizes) == len(node.cores)
            assert max(sizes) - min(sizes) <= 1


@unhurried
@given(topologies())
def test_a_quota_is_spread_evenly_where_the_nodes_are_equal(topology: Topology) -> None:
    sizes = {len(node.cores) for node in topology.nodes if node.cores}
    if len(sizes) == 1:
        threads = [len(p.cpus) for p in places(topology)]
        assert max(threads) - min(threads) <= 1
