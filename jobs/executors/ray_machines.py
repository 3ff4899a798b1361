"""The machines of a Ray cluster: reached, probed for their topology, and where scorers live there.

A raylet is Ray's node: one a machine as a rule, but several may share one, and then they share
its places. Every raylet answers for itself by a task, for only there can the topology be read.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import InfrastructureError
from jobs.executors import groups_of
from jobs.executors.ray_census import Census, lives
from numa.placement import Place
from numa.topology import Topology, memory_limit

_CONNECT_SECONDS = 10.0

_PROBE_SECONDS = 60.0
"""For a task on a machine that is up; a worker starts in about two seconds."""

_PROBE_RETRIES = 10
"""A call that was lost counts as a crash of the task."""

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


Room = tuple[Machine, Place]


@dataclass(frozen=True, slots=True)
class Home:
    """Where a scorer lives."""

    rooms: tuple[Room, ...]
    """One, or one for each stage of its model, the scorer's own first."""

    @property
    def machine(self) -> Machine:
        """Of the scorer itself."""
        return self.rooms[0][0]

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(place for _, place in self.rooms)

    @property
    def place(self) -> Place:
        """Of the scorer itself."""
        return self.places[0]

    @property
    def is_across(self) -> bool:
        """Whether its stages live on several machines."""
        return len({machine.raylet for machine, _ in self.rooms}) > 1


def cpus_of(places: Iterable[Place]) -> int:
    """CPUs that an actor on these places asks Ray for."""
    return sum(len(place.cpus) for place in places)


class Homes:
    """Places of all machines, and which scorer lives where. No core is taken twice: raylets that
    share a machine share its places, and those of one that is gone are free for the next.

    The stages of a model live on one machine where each machine has a domain for each of them.
    Otherwise, if there are several machines, they live `across` them: every machine's places are
    for one stage each, and so many of them as there are stages make a home.
    """

    def __init__(
        self,
        engines: int | None,
        threads: int | None,
        stages: int = 1,
        *,
        domain: str = "node",
        smt: bool = False,
    ) -> None:
        self._engines = engines
        self._threads = threads
        self._stages = stages
        self._domain = domain
        self._smt = smt
        self._free: dict[tuple[str, str], list[tuple[Place, ...]]] = {}
        """(host, boot) -> places where nobody lives."""
        self._groups: dict[tuple[str, str], Sequence[Machine]] = {}
        self._across = False
        self._single: list[Room] = []
        """Across machines: rooms that are not enough for a home yet."""
        self._waiting: dict[str, Machine] = {}
        """Raylets that came when others of their machine had all its places."""
        self._count = 0
        self.of: dict[int, Home] = {}
        """Scorer -> its home; numbers are never used again."""

    def begin(self, groups: Iterable[Sequence[Machine]]) -> None:
        """Settles every place of the machines that a job begins with, each on its raylets."""
        groups = list(groups)
        alone = all(
            len(group) == 1 and len(group[0].topology.domains(self._domain)) >= self._stages
            for group in groups
        )
        self._across = self._stages > 1 and not alone and sum(map(len, groups)) > 1
        for group in groups:
            self.settle(group, every=True)
        if not self.of:
            raise InfrastructureError(
                f"ray: expected places for {self._stages} stages of a model, got "
                f"{len(self._single)}; add machines, or give more --engines or fewer --stages"
            )

    def settle(self, group: Sequence[Machine], *, every: bool) -> list[int]:
        """Numbers of scorers for the free places of one machine, on its raylets in `group`.

        Raises InfrastructureError if there is none; or, where the machine must take part with
        `every` place, if there is one for which no raylet offers enough CPUs: an actor would
        wait there for ever.
        """
        key = (group[0].host, group[0].boot)
        self._groups.setdefault(key, group)
        if key not in self._free:
            wanted = max(self._engines or 1, len(group)) if len(group) > 1 else self._engines
            self._free[key] = groups_of(
                group[0].topology, wanted, self._threads, 1 if self._across else self._stages,
                domain=self._domain, smt=self._smt,
            )  # fmt: skip
        free, left = self._free[key], []
        offered = {machine.raylet: machine.cpus for machine in group}
        found: list[Room] = []
        for places in free:
            machine = max(group, key=lambda machine: offered[machine.raylet])
            if offered[machine.raylet] < cpus_of(places):
                left.append(places)
                continue
            offered[machine.raylet] -= cpus_of(places)
            found += [(machine, place) for place in places]
        self._free[key] = left
        if not found or (every and left):
            self._waiting |= {machine.raylet: machine for machine in group}
            raise InfrastructureError(_no_room(group, free))
        self._single += found
        return self.join()

    def join(self) -> list[int]:
        """Numbers of scorers for rooms where nobody lives, as many as those are enough for."""
        made: list[int] = []
        while len(self._single) >= self._stages:
            rooms, self._single = self._single[: self._stages], self._single[self._stages :]
            self.of[self._count] = Home(tuple(rooms))
            made.append(self._count)
            self._count += 1
        return made

    def in_stages(self, stages: int) -> Homes:
        """Homes on the same machines for scorers of so many stages."""
        homes = Homes(self._engines, self._threads, stages, domain=self._domain, smt=self._smt)
        homes.begin(self._groups.values())
        return homes

    def living_at(self, raylet: str) -> list[int]:
        """Scorers that have a stage there."""
        return [
            number
            for number, home in self.of.items()
            if any(machine.raylet == raylet for machine, _ in home.rooms)
        ]

    def settle_waiting(self) -> list[int]:
        """Numbers of scorers for places that are free by now, on raylets that found none: one that
        was started anew may come before Ray has noticed that its forerunner is gone."""
        made: list[int] = []
        for raylet in list(self._waiting):
            with suppress(InfrastructureError):
                made += self.settle([self._waiting.pop(raylet)], every=False)
        return made

    def forget(self, raylet: str) -> None:
        """It is no room for anybody new: its machine will be taken away."""
        self._waiting.pop(raylet, None)

    def vacate(self, raylet: str) -> list[int]:
        """Scorers whose raylet is gone; their places are free, and those that they had on other
        machines wait for `join`."""
        self.forget(raylet)
        lost = self.living_at(raylet)
        rooms = [self.of.pop(number).rooms for number in lost]
        if not self._across:
            for home in rooms:
                machine = home[0][0]
                places = tuple(place for _, place in home)
                self._free[machine.host, machine.boot].append(places)
            return lost
        self._single += [room for home in rooms for room in home]
        gone = [room for room in self._single if room[0].raylet == raylet]
        self._single = [room for room in self._single if room[0].raylet != raylet]
        for machine, place in gone:
            self._free[machine.host, machine.boot].append((place,))
        return lost


def settle_all(census: Census, homes: Homes) -> Homes:
    """Settles every place of every machine that the census finds and that lives to tell of itself.

    Raises InfrastructureError for a cluster without CPUs, a machine that cannot run our packages,
    and as `Homes.settle` does.
    """
    found: list[Machine] = []
    while came := census.look().came:
        probes = {raylet: begin_probe(raylet, cpus) for raylet, cpus in came.items()}
        ray.wait(list(probes.values()), num_returns=len(probes), timeout=_PROBE_SECONDS)
        for raylet, probe in probes.items():
            try:
                found.append(probed(probe))
            except InfrastructureError:
                if lives(raylet):
                    raise
    if not found:
        raise InfrastructureError("ray: expected machines with CPUs, got none; add machines")
    groups: dict[tuple[str, str], list[Machine]] = {}
    for machine in sorted(found, key=lambda m: (m.host, m.boot, m.raylet)):
        groups.setdefault((machine.host, machine.boot), []).append(machine)
    homes.begin(groups.values())
    return homes


def _no_room(group: Sequence[Machine], free: Sequence[tuple[Place, ...]]) -> str:
    host, offered = group[0].host, sum(machine.cpus for machine in group)
    if not free:
        return (
            f"ray: {host}: expected cores that no scorer has, got none; several raylets share "
            "this machine"
        )
    return (
        f"ray: {host}: expected at least {sum(map(cpus_of, free))} CPUs, Ray "
        f"offers {offered}; start Ray there with --num-cpus, or give --engines or --threads"
    )


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
    """Runs as a task on the raylet's machine, whose worker imports this file for it alone: nothing
    slow is imported here."""
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


def begin_probe(raylet: str, cpus: int) -> Any:
    """A reference to the Machine that the raylet will tell of."""
    task: Any = ray.remote(probe)
    return task.options(
        num_cpus=0,
        max_retries=_PROBE_RETRIES,
        scheduling_strategy=NodeAffinitySchedulingStrategy(raylet, soft=False),
    ).remote(raylet, cpus)


def probed(probe: Any) -> Machine:
    """What a probe found that is done. Raises InfrastructureError for a machine that is not there
    any more, or cannot run our packages.
    """
    try:
        found: Machine = ray.get(probe, timeout=0)
    except (RayError, ImportError) as error:
        advice = "look at Ray's logs there"
        if isinstance(error, ImportError):  # Ray's error takes on the class of its cause
            advice = "install colonnade there, in the Python that runs Ray"
        raise InfrastructureError(
            f"ray: expected every machine to tell its topology, got: {first_lines(error)}; "
            + advice
        ) from error
    return found
