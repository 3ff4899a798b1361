"""What a cluster offers and where scorers go, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from machines import BY_NAME, write_tree
from small_job import ROOT

from jobs.errors import InfrastructureError
from jobs.executors import ray_census
from jobs.executors.ray_census import Census, Changes
from jobs.executors.ray_machines import Homes, Machine, first_lines
from numa.topology import Topology


def machine(raylet: str, host: str, cpus: int = 64) -> Machine:
    topology = Topology.discover()
    return Machine(raylet, host, "boot", "/python", cpus, topology, 1 << 30)


def test_raylets_of_one_machine_share_its_places() -> None:
    if len(Topology.discover().cores) < 2:
        pytest.skip("two raylets need two cores")
    homes = Homes(None, 1)
    homes.settle([machine("r1", "alpha"), machine("r2", "alpha")], every=True)
    assert [home.machine.raylet for home in homes.of.values()] == ["r1", "r2"]
    cpus = [cpu for home in homes.of.values() for cpu in home.place.cpus]
    assert len(cpus) == len(set(cpus)), "no core is taken twice"


def test_too_few_cpus_are_refused() -> None:
    with pytest.raises(InfrastructureError, match="alpha: expected at least 1 CPUs"):
        Homes(1, 1).settle([replace(machine("r1", "alpha"), cpus=0)], every=True)


def test_places_of_a_raylet_that_is_gone_go_to_the_next() -> None:
    homes = Homes(1, 1)
    assert homes.settle([machine("r1", "alpha")], every=True) == [0]
    assert homes.settle([machine("r2", "beta")], every=True) == [1]
    place = homes.of[0].place
    with pytest.raises(InfrastructureError, match="expected cores that no scorer has"):
        homes.settle([machine("r3", "alpha")], every=False)
    assert homes.vacate("r1") == [0] and list(homes.of) == [1]
    assert homes.settle([machine("r4", "alpha")], every=False) == [2], "a number is used once"
    assert homes.of[2].place == place and homes.of[2].machine.raylet == "r4"


def test_a_raylet_that_came_too_early_waits_for_the_place_of_one_that_is_gone() -> None:
    """Ray tells of a raylet that was started anew before it has missed the old one."""
    homes = Homes(1, 1)
    homes.begin([[machine("r1", "alpha")], [machine("r2", "beta")]])
    for early in ("r3", "r4", "r5"):
        with pytest.raises(InfrastructureError, match="expected cores that no scorer has"):
            homes.settle([machine(early, "alpha")], every=False)
    homes.forget("r3")  # its machine will be taken away
    assert homes.vacate("r4") == [], "it has no place, and never will"
    assert homes.vacate("r2") == [1] and homes.settle_waiting() == []
    assert homes.vacate("r1") == [0] and homes.settle_waiting() == [2]
    assert homes.of[2].machine.raylet == "r5" and list(homes.of) == [2]


def test_stages_live_across_machines_that_have_no_domain_for_each() -> None:
    homes = Homes(1, 1, 2)
    homes.begin([[machine(f"r{n}", f"host{n}")] for n in range(5)])
    assert [[m.raylet for m, _ in home.rooms] for home in homes.of.values()] == [
        ["r0", "r1"], ["r2", "r3"]
    ]  # fmt: skip
    assert all(home.is_across for home in homes.of.values())
    assert homes.living_at("r1") == [0] and homes.living_at("r4") == []
    assert homes.vacate("r1") == [0] and homes.join() == [2], "r0 goes on with r4"
    assert [m.raylet for m, _ in homes.of[2].rooms] == ["r4", "r0"]
    assert homes.vacate("r4") == [2] and homes.join() == []
    assert homes.settle([machine("r5", "host4")], every=False) == [3]
    assert [m.raylet for m, _ in homes.of[3].rooms] == ["r0", "r5"]


def test_stages_stay_on_a_machine_that_has_a_domain_for_each(tmp_path: Path) -> None:
    """And on one that is alone, which shares its cores among them."""
    four = Topology.discover(write_tree(BY_NAME["sub-NUMA clusters"], tmp_path))
    homes = Homes(None, None, 2)
    homes.begin(
        [[replace(machine(f"r{n}", f"host{n}"), topology=four, cpus=999)] for n in range(2)]
    )
    assert [home.is_across for home in homes.of.values()] == [False] * 4, "two a machine"
    if len(Topology.discover().cores) < 2:
        pytest.skip("two stages need two cores")
    homes = Homes(1, 1, 2)
    homes.begin([[machine("r0", "alpha")]])
    assert not homes.of[0].is_across and len(homes.of[0].places) == 2
    again = homes.in_stages(1)
    assert len(again.of[0].places) == 1


def test_too_few_machines_for_the_stages_are_refused() -> None:
    with pytest.raises(InfrastructureError, match="expected places for 3 stages of a model, got 2"):
        Homes(1, 1, 3).begin([[machine(f"r{n}", f"host{n}")] for n in range(2)])


class Table:
    """Ray's table of its nodes, and of those that will be taken away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.draining: dict[str, int] = {}
        monkeypatch.setattr(ray_census, "_raylets", lambda: list(self.rows.values()))
        monkeypatch.setattr(ray_census, "_draining", lambda: self.draining)

    def put(self, raylet: str, *, alive: bool = True, cpus: float = 1.0, why: str = "") -> None:
        self.rows[raylet] = {
            "NodeID": raylet, "Alive": alive, "Resources": {"CPU": cpus} if cpus else {},
            "DeathReasonMessage": why,
        }  # fmt: skip


def test_census_tells_each_change_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table, census = Table(monkeypatch), Census()
    table.put("head", cpus=0)
    table.put("a")
    table.put("old", alive=False)
    assert census.look() == Changes(came={"a": 1}), "neither those without CPUs, nor dead ones"
    assert census.look() == Changes()
    table.put("b", cpus=2)
    table.put("doomed")
    table.draining = {"a": 0, "doomed": 0}
    assert census.look() == Changes(
        came={"b": 2}, draining={"a": "its machine will be taken away"}
    ), "nobody moves to a machine that is about to go"
    assert census.look() == Changes()
    table.put("a", alive=False, cpus=0, why="preempted\nat noon")
    assert census.look() == Changes(gone={"a": "its machine is gone: preempted"})
    assert census.look() == Changes()


def test_long_coloured_messages_are_cut() -> None:
    text = "\x1b[36mray::f()\x1b[39m\n" + "\n".join(f"frame {i}" for i in range(30)) + "\nboom"
    lines = first_lines(RuntimeError(text)).splitlines()
    assert lines[:2] == ["ray::f()", "..."] and lines[-1] == "boom" and len(lines) == 8


def test_a_probe_imports_nothing_slow() -> None:
    """Each machine's worker imports its module before it can tell of itself."""
    code = (
        "import sys, ray; before = set(sys.modules); import jobs.executors.ray_machines\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert not new & {'pyarrow', 'numba', 'onnx', 'engine', 'pipeline'}, new"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
