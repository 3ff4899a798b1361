"""The report: its words on made-up facts, and the truth about real processes."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from numa import launch
from numa.memory import pages, policy
from numa.placement import Place, places
from numa.report import PlacementReport, report
from numa.topology import Topology

ROOT = Path(__file__).parents[2]
TOPOLOGY = Topology.discover()
MIB = 1 << 20
GOOD = PlacementReport(
    pid=7, node=0, cpus=(0, 1), threads=12, threads_off_place=0,
    pages={0: 306 * MIB, 1: 6 * MIB}, share_local=306 / 312, policy="bind 0", note="",
)  # fmt: skip

WITNESS = """
import json, sys, threading
from numa.placement import Place
from numa.report import report
place = Place(0, int(sys.argv[1]), tuple(map(int, sys.argv[2].split(","))))
block, gate = bytearray(b"x") * (64 << 20), threading.Event()
threads = [threading.Thread(target=gate.wait) for _ in range(3)]
for thread in threads: thread.start()
if sys.argv[3:] == ["stray"]:
    import os
    os.sched_setaffinity(threads[0].native_id, range(4096))
print(json.dumps([report(place).to_json(), str(report(place))]))
gate.set()
"""


def witness(place: Place, *words: str, prefix: list[str]) -> tuple[dict[str, Any], str]:
    arguments = [str(place.node), ",".join(map(str, place.cpus)), *words]
    done = subprocess.run(
        [*prefix, sys.executable, "-c", WITNESS, *arguments],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts, line = json.loads(done.stdout)
    return facts, line


def test_says_in_one_line_what_people_want_to_know() -> None:
    assert str(GOOD) == (
        "engine on node 0, cpus 0-1: 12 of 12 threads in place, 98% of 312 MiB local, "
        "memory bound to it"
    )
    assert str(replace(GOOD, threads_off_place=2, note="EPERM, not permitted")) == (
        "engine on node 0, cpus 0-1: 10 of 12 threads in place, 98% of 312 MiB local, "
        "memory not bound: EPERM, not permitted"
    )
    assert "in place, memory's whereabouts unknown, memory bound to it" in str(
        replace(GOOD, pages={}, share_local=None)
    )


def test_says_how_it_is_with_several_nodes() -> None:
    assert str(replace(GOOD, others=(1,))).startswith("engine on nodes 0-1, cpus 0-1: 12 of 12 ")


def test_as_planned_only_if_all_is() -> None:
    assert GOOD.as_planned
    assert replace(GOOD, pages={}, share_local=None).as_planned
    assert not replace(GOOD, threads_off_place=1).as_planned
    assert not replace(GOOD, share_local=0.5).as_planned
    assert not replace(GOOD, note="not permitted").as_planned


def test_travels() -> None:
    assert pickle.loads(pickle.dumps(GOOD)) == GOOD
    said = json.loads(json.dumps(GOOD.to_json()))
    assert said["pages"] == {"0": 306 * MIB, "1": 6 * MIB}
    assert said["as_planned"] is True
    assert PlacementReport(**{k: v for k, v in GOOD.to_json().items() if k != "as_planned"})


@pytest.mark.parametrize("place", places(TOPOLOGY), ids=str)
def test_a_launched_engine_is_as_planned(place: Place) -> None:
    facts, line = witness(place, prefix=launch.command(place))
    assert facts["threads"] == 4
    assert facts["threads_off_place"] == 0
    assert "4 of 4 threads in place" in line
    if facts["share_local"] is not None:
        assert facts["share_local"] >= 0.9
    if policy().startswith("unknown"):
        assert "memory not bound: set_mempolicy to node" in line
    else:
        assert facts["as_planned"], line
        assert line.endswith("memory bound to it")


@pytest.mark.skipif(len(TOPOLOGY.allowed_cpus) < 2, reason="a stray thread needs a second CPU")
def test_a_thread_that_strays_is_counted() -> None:
    place = Place(0, TOPOLOGY.nodes[0].id, (min(TOPOLOGY.allowed_cpus),))
    facts, line = witness(place, "stray", prefix=launch.command(place))
    assert facts["threads_off_place"] == 1
    assert not facts["as_planned"]
    assert "3 of 4 threads in place" in line


@pytest.mark.skipif(
    sum(1 for node in TOPOLOGY.nodes if node.memory_nbytes) < 2, reason="needs two nodes"
)
def test_memory_on_another_node_is_seen() -> None:
    here, there = (node.id for node in TOPOLOGY.nodes[:2])
    cpus = (min(TOPOLOGY.nodes[0].cpus),)
    facts, line = witness(
        Place(0, here, cpus), prefix=launch.command(Place(0, there, cpus))
    )  # the launcher is told the wrong node
    assert facts["policy"] == f"bind {there}"
    assert facts["share_local"] < 0.1
    assert not facts["as_planned"]
    assert f"memory not bound: policy is bind {there};" in line


@pytest.mark.skipif(not pages(), reason="this kernel shows no numa_maps")
def test_a_node_that_holds_nothing_has_no_share() -> None:
    found = report(Place(0, 99, tuple(os.sched_getaffinity(0))))
    assert found.share_local == 0
    assert found.pages == pytest.approx(pages(files=False), rel=0.1)
    assert not found.as_planned


def test_without_the_launcher_the_report_says_so() -> None:
    place = Place(0, TOPOLOGY.nodes[0].id, tuple(sorted(os.sched_getaffinity(0))))
    facts, line = witness(place, prefix=[])
    assert facts["threads_off_place"] == 0
    assert "memory not bound: policy is" in line
    assert line.endswith("; start through numa.launch")
