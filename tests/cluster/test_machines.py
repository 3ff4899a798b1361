"""What a cluster offers and where scorers go, without a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.errors import InfrastructureError
from jobs.executors import ray_machines
from jobs.executors.ray_machines import Machine, first_lines, machines
from numa.topology import Topology


def machine(raylet: str, host: str, cpus: int = 64) -> Machine:
    topology = Topology.discover()
    return Machine(raylet, host, "boot", "/python", cpus, topology, 1 << 30)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """What the probes return; a test fills it."""
    found: list[Machine] = []
    monkeypatch.setattr(ray_machines, "_probe_all", lambda: found)
    return found


def test_every_machine_gets_its_places(cluster: list[Machine]) -> None:
    cluster += [machine("r1", "alpha"), machine("r2", "beta")]
    chosen = machines(1, 1)
    assert [(m.host, place.engine) for m, place in chosen] == [("alpha", 0), ("beta", 0)]


def test_raylets_of_one_machine_share_its_places(cluster: list[Machine]) -> None:
    if len(Topology.discover().cores) < 2:
        pytest.skip("two raylets need two cores")
    cluster += [machine("r1", "alpha"), machine("r2", "alpha")]
    chosen = machines(None, 1)
    assert [m.raylet for m, _ in chosen] == ["r1", "r2"]
    cpus = [cpu for _, place in chosen for cpu in place.cpus]
    assert len(cpus) == len(set(cpus)), "no core is taken twice"


def test_too_few_cpus_are_refused(cluster: list[Machine]) -> None:
    cluster.append(replace(machine("r1", "alpha"), cpus=0))
    with pytest.raises(InfrastructureError, match="alpha: expected at least 1 CPUs"):
        machines(1, 1)


def test_long_coloured_messages_are_cut() -> None:
    text = "\x1b[36mray::f()\x1b[39m\n" + "\n".join(f"frame {i}" for i in range(30)) + "\nboom"
    lines = first_lines(RuntimeError(text)).splitlines()
    assert lines[:2] == ["ray::f()", "..."] and lines[-1] == "boom" and len(lines) == 8
