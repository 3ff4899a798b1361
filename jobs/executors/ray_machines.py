"""The machines of a Ray cluster: reached, probed for their topology, and told apart.

A raylet is Ray's node: one a machine as a rule, but several may share one, and then they share
its places. Every raylet answers for itself by a task, for only there can the topology be read.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import InfrastructureError
from numa.placement import Place, places
from numa.topology import Topology
from pipeline.plan import memory_limit

_CONNECT_SECONDS = 10.0

_PROBE_SECONDS = 60.0
"""For a task on a machine that is up; a worker starts in about two seconds."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the probe found on the machine of one raylet."""

    raylet: str
    """Ray's node id. Several raylets may share a machine; they share its places, too."""
    host: str
    boot: str
    python: str
    cpus: int
    """What the raylet offers, by Ray's count."""
    topology: Topology
    memory_limit_nbytes: int


def machines(engines: int | None, threads: int | None) -> list[tuple[Machine, Place]]:
    """Every place of every machine, in an order that does not depend on Ray's.

    Raises InfrastructureError for a cluster without CPUs, one that cannot run our packages, and
    places for which a raylet does not offer enough CPUs: an actor would wait there for ever.
    """
    chosen: list[tuple[Machine, Place]] = []
    for group in _by_machine(_probe_all()):
        # Raylets that share a machine share its places, so that no core is taken twice.
        wanted = max(engines or 1, len(group)) if len(group) > 1 else engines
        for place in places(group[0].topology, engines=wanted, threads=threads):
            chosen.append((group[place.engine % len(group)], place))
    needed: dict[str, int] = {}
    for machine, place in chosen:
        needed[machine.raylet] = needed.get(machine.raylet, 0) + len(place.cpus)
        if needed[machine.raylet] > machine.cpus:
            raise InfrastructureError(
                f"ray: {machine.host}: expected at least {needed[machine.raylet]} CPUs, Ray "
                f"offers {machine.cpus}; start Ray there with --num-cpus, or give --engines or "
                "--threads"
            )
    return chosen


def check_reachable(address: str) -> None:
    """Ray tries a dead address for minutes and cannot be interrupted meanwhile."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise InfrastructureError(
            f"ray: expected host:port or 'auto', got {address}; run colonnade on a machine of "
            "the cluster (Ray's client protocol passes no placement)"
        )
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise InfrastructureError(
            f"ray: expected a cluster at {address}, got: {error}; check --address"
        ) from error


def first_lines(error: BaseException, count: int = 8) -> str:
    """Ray's messages are long and coloured; the cause stands in the last lines of a traceback."""
    lines = _COLOUR.sub("", str(error)).strip().splitlines()
    return "\n".join(lines if len(lines) <= count else [lines[0], "...", *lines[2 - count :]])


def probe(raylet: str, cpus: int) -> Machine:
    """Runs as a task on the raylet's machine."""
    topology = Topology.discover()
    boot = Path("/proc/sys/kernel/random/boot_id")
    return Machine(
        raylet,
        socket.gethostname(),
        boot.read_text().strip() if boot.exists() else "",
        sys.executable,
        cpus,
        topology,
        memory_limit(topology),
    )


def _probe_all() -> list[Machine]:
    """Every living raylet that offers CPUs, in an order that does not depend on Ray's."""
    rows = [row for row in _raylets() if row["Alive"]]
    alive = {row["NodeID"]: int(row["Resources"].get("CPU", 0)) for row in rows}
    alive = {raylet: cpus for raylet, cpus in alive.items() if cpus}
    if not alive:
        raise InfrastructureError("ray: expected machines with CPUs, got none; add machines")
    task: Any = ray.remote(probe)
    requests = [
        task.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(raylet, soft=False)
        ).remote(raylet, cpus)
        for raylet, cpus in alive.items()
    ]
    try:
        found: list[Machine] = ray.get(requests, timeout=_PROBE_SECONDS)
    except (RayError, ImportError) as error:
        advice = "look at Ray's logs there"
        if isinstance(error, ImportError):  # Ray's error takes on the class of its cause
            advice = "install colonnade there, in the Python that runs Ray"
        raise InfrastructureError(
            f"ray: expected every machine to tell its topology, got: {first_lines(error)}; "
            + advice
        ) from error
    return sorted(found, key=lambda m: (m.host, m.boot, m.raylet))


def _raylets() -> list[dict[str, Any]]:
    """Ray's table of its nodes."""
    table: Any = ray.nodes  # not typed by Ray
    rows: list[dict[str, Any]] = table()
    return rows


def _by_machine(found: Iterable[Machine]) -> list[list[Machine]]:
    groups: dict[tuple[str, str], list[Machine]] = {}
    for machine in found:
        groups.setdefault((machine.host, machine.boot), []).append(machine)
    return list(groups.values())
