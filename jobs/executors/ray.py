"""RayExecutor: one scorer actor a place on every machine of a Ray cluster.

Only leases and events cross Ray; rows never do. Each actor's interpreter is started through
numa.launch (Ray's `py_executable`), so that all of its threads, Ray's own too, are pinned and
its memory is bound before the first import. Ray knows nothing of this: it counts CPUs.

Without an address a cluster of this one machine is started, and stopped at the end. To join a
cluster, Colonnade must be installed on its machines, and model, input and output must have the
same paths there. Ray 2.60 signs its own traffic with a token by default: RAY_AUTH_MODE and the
token are left as they are found.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from collections.abc import Sequence
from time import sleep
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import InfrastructureError
from jobs.executors import Seat, seat_of, source_environment, stage_seat
from jobs.executors.ray_actor import CONCURRENCY, ScorerActor
from jobs.executors.ray_census import Census, Changes
from jobs.executors.ray_machines import (
    Homes,
    Machine,
    begin_probe,
    check_reachable,
    cpus_of,
    first_lines,
    probed,
    settle_all,
)
from jobs.executors.ray_stages import StageActor
from numa import launch
from numa.errors import NumaError
from numa.placement import Place
from pipeline.events import MachineRefused, ScorerDied, ScorerDraining, ScorerLeft

if TYPE_CHECKING:
    from jobs.spec import JobSpec
    from pipeline.events import Event
    from pipeline.scorer_spec import ScorerSpec
    from pipeline.shards import Lease

_OBJECT_STORE_NBYTES = 80 << 20
"""Ray's least; only leases and events pass, and those travel inline."""

_OURS = {
    "RAY_worker_niceness": "0",  # Ray's is 15
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
}
"""How a cluster of our own is started, unless the environment says otherwise: nobody looks at what
Ray's processes note of each call, and they run on the engines' cores."""

_KILL_SECONDS = 1.0
"""For an actor that is killed to be gone; one that is frozen takes Ray five."""


class _Actor:
    """A living actor, the request for its events that is under way, and what it was sent.

    A call whose answer was lost may or may not have been made: it is made again, which changes
    nothing on the other side.
    """

    def __init__(self, handle: Any, stages: tuple[Any, ...] = ()) -> None:
        """`stages` are actors of later stages of its model, which live and die with it."""
        self.handle = handle
        self.stages = stages
        self._seen = 0
        self.request = handle.events.remote(0)
        self._errands: dict[Any, tuple[Any, Any]] = {}
        """Answers that are still to come -> the method and its argument."""

    def send(self, method: Any, message: ScorerSpec | Lease) -> None:
        self._errands[method.remote(message)] = (method, message)

    def collect(self) -> list[Event]:
        """Events of a request that is done. Raises RayError if the actor is dead."""
        self._send_again()
        events: list[Event] = []
        with contextlib.suppress(ActorUnavailableError):
            events = ray.get(self.request)
        self._seen += len(events)
        self.request = self.handle.events.remote(self._seen)
        return events

    def _send_again(self) -> None:
        answers = list(self._errands)
        done, _ = ray.wait(answers, num_returns=len(answers), timeout=0) if answers else ([], [])
        for answer in done:
            method, message = self._errands.pop(answer)
            try:
                ray.get(answer)
            except ActorUnavailableError:
                self.send(method, message)


def _actor(kind: type, room: tuple[Machine, Place], cpus: int, calls: int = 1) -> Any:
    """An actor class at a place of a machine, which answers so many calls at once."""
    machine, place = room
    prefix = [machine.python, *launch.command(place)[1:]]
    actor: Any = ray.remote(kind)
    return actor.options(
        num_cpus=cpus,
        scheduling_strategy=NodeAffinitySchedulingStrategy(machine.raylet, soft=False),
        max_restarts=0,
        max_concurrency=calls,
        runtime_env={
            "py_executable": shlex.join([*prefix, machine.python]),
            "env_vars": source_environment(),
        },
    )


class RayExecutor:
    """Implements Executor with actors; scorers are numbered over machines in sorted order."""

    def __init__(self, spec: JobSpec) -> None:
        self._address = spec.address
        self._spec = spec
        self._connected = False
        self._census = Census()
        self._homes = Homes(None, None)
        self._specs: dict[int, ScorerSpec] = {}
        self._actors: dict[int, _Actor] = {}
        self._probes: dict[Any, str] = {}
        """Probes of machines that came -> raylet."""
        self._came: list[int] = []
        """Scorers for which seats were found since `arrivals` was called."""
        self._news: list[Event] = []
        """What is known of scorers and was not yet told."""

    def seats(self, engines: int | None, threads: int | None, *, warm: bool) -> tuple[Seat, ...]:
        self._connect()
        spec = self._spec
        homes = Homes(engines, threads, max(1, spec.stages), domain=spec.domain, smt=spec.smt)
        self._homes = settle_all(self._census, homes)
        if warm:
            for number in self._homes.of:
                self._spawn(number)
        return tuple(map(self._seat, self._homes.of))

    def reseat(self, stages: int) -> tuple[Seat, ...]:
        self._homes = self._homes.in_stages(stages)
        return tuple(map(self._seat, self._homes.of))

    def arrivals(self) -> tuple[Seat, ...]:
        came, self._came = self._came, []
        return tuple(self._seat(number) for number in came if number in self._homes.of)

    def start(self, specs: Sequence[ScorerSpec]) -> None:
        for spec in specs:
            self._specs[spec.scorer] = spec
            self._begin(spec.scorer)

    def lend(self, scorer: int, lease: Lease) -> None:
        actor = self._actors.get(scorer)
        if actor is not None:
            actor.send(actor.handle.lend, lease)

    def events(self, timeout: float) -> list[Event]:
        if self._census.due():
            self._follow(self._census.look())
        found, self._news = self._news, []
        if found:
            return found
        waiting = {actor.request: number for number, actor in self._actors.items()}
        anything = [*waiting, *self._probes]
        if not anything:
            sleep(timeout)
            return []
        ready, _ = ray.wait(anything, timeout=timeout)
        if ready:  # whatever else is there by now, too
            ready, _ = ray.wait(anything, num_returns=len(anything), timeout=0)
        for request in ready:
            if request not in waiting:
                found += self._probed(request)
            elif waiting[request] in self._actors:  # not gone with another's machine meanwhile
                found += self._collect(waiting[request])
        return found

    def kill(self, *scorers: int) -> None:
        killed = [self._actors.pop(number) for number in scorers if number in self._actors]
        for actor in killed:
            for handle in (actor.handle, *actor.stages):
                ray.kill(handle)
        requests = [actor.request for actor in killed]
        if requests:
            ray.wait(requests, num_returns=len(requests), timeout=_KILL_SECONDS)

    def restart(self, scorer: int) -> None:
        self.kill(scorer)
        self._begin(scorer)

    def close(self) -> None:
        if not self._connected:
            return
        self._connected = False
        self.kill(*self._actors)
        ray.shutdown()  # stops the cluster if we started it, leaves it otherwise

    def _connect(self) -> None:
        if self._address is not None:
            check_reachable(self._address)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        environment = source_environment()
        if self._address is None:
            # The raylet hands its environment on.
            os.environ.update(environment)
            for name, value in _OURS.items():
                os.environ.setdefault(name, value)
            options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_NBYTES}
        else:
            options["runtime_env"] = {"env_vars": environment}
        try:
            ray.init(address=self._address or "local", **options)
        except Exception as error:  # a raylet that is late is a bare Exception in Ray
            raise InfrastructureError(
                f"ray: expected a cluster at {self._address or 'this machine'}, got: {error}; "
                "check --address and RAY_AUTH_MODE"
            ) from error
        self._connected = True

    def _seat(self, number: int) -> Seat:
        rooms = self._homes.of[number].rooms
        return seat_of(
            number,
            [stage_seat(m.topology, m.host, m.memory_limit_nbytes, place) for m, place in rooms],
        )

    def _begin(self, number: int) -> None:
        """A scorer with its spec, where its machine is still there."""
        if number not in self._actors and number in self._homes.of:
            self._spawn(number)
        if number in self._actors:
            actor = self._actors[number]
            actor.send(actor.handle.begin, self._specs[number])
        else:
            self._news.append(ScorerLeft(number, "its machine is gone"))

    def _spawn(self, number: int) -> None:
        home = self._homes.of[number]
        far = tuple(
            _actor(StageActor, room, len(room[1].cpus)).remote()
            for room in (home.rooms[1:] if home.is_across else ())
        )
        cpus = cpus_of(home.places[:1] if home.is_across else home.places)
        handle = _actor(ScorerActor, home.rooms[0], cpus, CONCURRENCY).remote(number, far)
        self._actors[number] = _Actor(handle, far)

    def _collect(self, number: int) -> list[Event]:
        try:
            events = self._actors[number].collect()
        except RayError as error:
            home = self._homes.of[number].machine
            self._follow(self._census.look())  # may find that the machine is gone
            if number not in self._actors:
                return []  # and that is among the news
            self.kill(number)
            if getattr(error, "preempted", False):
                return [ScorerLeft(number, f"{home.host} was preempted")]
            return [ScorerDied(number, first_lines(error))]
        if any(isinstance(event, ScorerDied) for event in events):
            self.kill(number)
        return events

    def _follow(self, changes: Changes) -> None:
        """Turn what became of raylets into news of scorers, and probe those that came."""
        for raylet, cpus in changes.came.items():
            self._probes[begin_probe(raylet, cpus)] = raylet
        for raylet, reason in changes.draining.items():
            self._homes.forget(raylet)
            self._news += [ScorerDraining(n, reason) for n in self._homes.living_at(raylet)]
        for raylet, reason in changes.gone.items():
            lost = self._homes.vacate(raylet)
            self.kill(*lost)
            self._came += self._homes.join() + self._homes.settle_waiting()
            self._news += [ScorerLeft(number, reason) for number in lost]

    def _probed(self, probe: Any) -> list[Event]:
        """Make seats on a machine that came."""
        raylet = self._probes.pop(probe)
        try:
            self._came += self._homes.settle([probed(probe)], every=False)
        except (InfrastructureError, NumaError) as error:
            return [MachineRefused(f"raylet {raylet:.12}", str(error))]
        return []
