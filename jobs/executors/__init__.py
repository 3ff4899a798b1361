"""Executors: where scorers run. The driver sees this protocol and nothing of processes or Ray."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from numa.errors import NumaError
from numa.placement import places

if TYPE_CHECKING:
    from jobs.spec import JobSpec
    from numa.placement import Place
    from numa.topology import Topology
    from pipeline.events import Event
    from pipeline.scorer_spec import ScorerSpec
    from pipeline.shards import Lease


@dataclass(frozen=True, slots=True)
class Seat:
    """Room for one scorer: a place on a machine."""

    scorer: int
    """Number of the scorer that sits here, from 0; a restart keeps it."""
    machine: str
    place: Place
    memory_limit_nbytes: int
    """What the machine can give to all its scorers, in bytes."""
    node_memory_nbytes: int
    """Memory of the place's NUMA nodes: bound memory cannot spill to another."""
    stages: tuple[StageSeat, ...] = ()
    """Where the stages of its model live, its own place first; () for a model in one piece."""


@dataclass(frozen=True, slots=True)
class StageSeat:
    """Room for one stage of a scorer's model."""

    machine: str
    place: Place
    memory_limit_nbytes: int
    node_memory_nbytes: int


def stage_seat(
    topology: Topology, machine: str, memory_limit_nbytes: int, place: Place
) -> StageSeat:
    """The seat of a stage, or of a model in one piece, at a place of a machine."""
    return StageSeat(machine, place, memory_limit_nbytes, topology.memory_nbytes(*place.nodes))


def seat_of(number: int, stages: Sequence[StageSeat]) -> Seat:
    """The seat of a scorer whose model's stages sit there."""
    first = stages[0]
    return Seat(
        number, first.machine, first.place, first.memory_limit_nbytes, first.node_memory_nbytes,
        tuple(stages) if len(stages) > 1 else (),
    )  # fmt: skip


def groups_of(
    topology: Topology,
    engines: int | None,
    threads: int | None,
    stages: int,
    *,
    domain: str = "node",
    smt: bool = False,
) -> list[tuple[Place, ...]]:
    """The places of each scorer: one, or one for each stage of its model, on neighbouring domains.

    Without `engines`: as many scorers as the domains hold, at least one.
    """
    if stages > 1:
        domains = len(topology.domains(domain))
        engines = (engines or max(1, domains // stages)) * stages
    try:
        found = places(topology, engines, threads, domain=domain, smt=smt)
    except NumaError as e:
        if stages <= 1:
            raise
        raise NumaError(f"{e}, or fewer --stages: each is an engine of its own") from e
    return [found[i : i + stages] for i in range(0, len(found), stages)]


class Executor(Protocol):
    """Starts scorers, hands them leases, brings back their events.

    Scorers are known by number. Once `kill` or `restart` has returned, no event of the scorer's
    earlier life may be delivered. An executor never decides: retries, commits and giving up
    are the driver's.
    """

    def seats(self, engines: int | None, threads: int | None, *, warm: bool) -> tuple[Seat, ...]:
        """Find the machines and the places on them.

        `warm`: also begin to start a scorer on each, without its spec, so that its imports
        overlap the planning.
        """
        ...

    def reseat(self, stages: int) -> tuple[Seat, ...]:
        """Seats on the same machines for scorers of so many stages, where nobody was started."""
        ...

    def arrivals(self) -> tuple[Seat, ...]:
        """Seats on machines that came since the last call, machine by machine; nobody sits
        there until `start` says so.
        """
        ...

    def start(self, specs: Sequence[ScorerSpec]) -> None:
        """Give scorers their specs; each goes to the seat of its number."""
        ...

    def lend(self, scorer: int, lease: Lease) -> None:
        """Pass a lease on; returns at once, and silently where the scorer is dead."""
        ...

    def events(self, timeout: float) -> list[Event]:
        """What scorers reported, in order for each; waits at most `timeout` seconds for some.

        Beside what scorers say themselves: ScorerDied, ScorerDraining and ScorerLeft, and
        MachineRefused for one that came and has no seat to offer.
        """
        ...

    def kill(self, *scorers: int) -> None:
        """End scorers, and wait a moment for them to be gone; nothing more is reported of them."""
        ...

    def restart(self, scorer: int) -> None:
        """Start a dead scorer anew, with the spec it had."""
        ...

    def close(self) -> None:
        """End everything that was started, within about two seconds. May be called twice."""
        ...


EXECUTORS = {
    "local": "jobs.executors.local:LocalExecutor",
    "ray": "jobs.executors.ray:RayExecutor",
}
"""Name -> home, imported only when chosen: ray costs half a second and is not always wanted."""


_SETTINGS = ("COLONNADE_", "ENGINE_")
"""Prefixes of the environment variables that are ours."""


def make(spec: JobSpec) -> Executor:
    """The executor that the spec names; nothing is started yet."""
    module, _, name = EXECUTORS[spec.executor].partition(":")
    executor: Executor = getattr(importlib.import_module(module), name)(spec)
    return executor


def own_settings() -> dict[str, str]:
    """The environment variables that are ours, as they are set here."""
    return {k: v for k, v in os.environ.items() if k.startswith(_SETTINGS)}


def source_environment() -> dict[str, str]:
    """Environment of a scorer: our packages are importable, our settings hold on other machines
    too, and a crash leaves a trace.
    """
    environment = own_settings()
    environment["PYTHONFAULTHANDLER"] = "1"
    root = Path(__file__).resolve().parents[2]
    if root.name not in ("site-packages", "dist-packages"):  # run from a clone, not installed
        paths = [str(root), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return environment
