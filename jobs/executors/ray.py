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

import logging
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import InfrastructureError
from jobs.executors import Seat, source_environment
from jobs.executors.ray_machines import Machine, check_reachable, first_lines, machines
from jobs.executors.serving import serve, warm_up
from numa import launch
from numa.placement import Place
from pipeline.events import ScorerDied

if TYPE_CHECKING:
    from jobs.spec import JobSpec
    from pipeline.events import Event
    from pipeline.scorer_spec import ScorerSpec
    from pipeline.shards import Lease

_OBJECT_STORE_NBYTES = 80 << 20
"""Ray's least; only leases and events pass, and those travel inline."""

_POLL_SECONDS = 5.0
"""How long an actor holds a request for events when there are none."""

_CONCURRENCY = 4
"""Calls an actor answers at once: one waits for events, one takes a lease."""


@dataclass(slots=True)
class _Actor:
    """A living actor and its pending request for events."""

    handle: Any
    request: Any


class RayExecutor:
    """Implements Executor with actors; scorers are numbered over machines in sorted order."""

    def __init__(self, spec: JobSpec) -> None:
        self._address = spec.address
        self._connected = False
        self._homes: dict[int, tuple[Machine, Place]] = {}
        self._specs: dict[int, ScorerSpec] = {}
        self._actors: dict[int, _Actor] = {}

    def seats(self, engines: int | None, threads: int | None, *, warm: bool) -> tuple[Seat, ...]:
        self._connect()
        self._homes = dict(enumerate(machines(engines, threads)))
        if warm:
            for number in self._homes:
                self._spawn(number)
        return tuple(
            Seat(
                number,
                machine.host,
                place,
                machine.memory_limit_nbytes,
                machine.topology.memory_nbytes(place.node),
            )
            for number, (machine, place) in self._homes.items()
        )

    def start(self, specs: Sequence[ScorerSpec]) -> None:
        self._specs = dict(zip(self._homes, specs, strict=True))
        for number, spec in self._specs.items():
            if number not in self._actors:
                self._spawn(number)
            self._actors[number].handle.begin.remote(spec)

    def lend(self, scorer: int, lease: Lease) -> None:
        actor = self._actors.get(scorer)
        if actor is not None:
            actor.handle.lend.remote(lease)

    def events(self, timeout: float) -> list[Event]:
        waiting = {actor.request: number for number, actor in self._actors.items()}
        ready, _ = ray.wait(list(waiting), timeout=timeout) if waiting else ([], [])
        found: list[Event] = []
        for request in ready:
            found += self._collect(waiting[request], request)
        return found

    def kill(self, scorer: int) -> None:
        actor = self._actors.pop(scorer, None)
        if actor is not None:
            ray.kill(actor.handle)

    def restart(self, scorer: int) -> None:
        self.kill(scorer)
        self._spawn(scorer)
        self._actors[scorer].handle.begin.remote(self._specs[scorer])

    def close(self) -> None:
        if not self._connected:
            return
        self._connected = False
        for number in list(self._actors):
            self.kill(number)
        ray.shutdown()  # stops the cluster if we started it, leaves it otherwise

    def _connect(self) -> None:
        if self._address is not None:
            check_reachable(self._address)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        environment = source_environment()
        if self._address is None:
            # The raylet hands its environment on: packages, and workers without Ray's nice 15.
            os.environ.update(environment)
            os.environ.setdefault("RAY_worker_niceness", "0")
            options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_NBYTES}
        else:
            options["runtime_env"] = {"env_vars": environment}
        try:
            ray.init(address=self._address or "local", **options)
        except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise InfrastructureError(
                f"ray: expected a cluster at {self._address or 'this machine'}, got: {error}; "
                "check --address and RAY_AUTH_MODE"
            ) from error
        self._connected = True

    def _spawn(self, number: int) -> None:
        machine, place = self._homes[number]
        prefix = [machine.python, *launch.command(place)[1:]]
        strategy = NodeAffinitySchedulingStrategy(machine.raylet, soft=False)
        handle: Any = (
            ray.remote(ScorerActor)
            .options(
                num_cpus=len(place.cpus),
                scheduling_strategy=strategy,
                max_restarts=0,
                max_concurrency=_CONCURRENCY,
                runtime_env={
                    "py_executable": shlex.join([*prefix, machine.python]),
                    "env_vars": source_environment(),
                },
            )
            .remote(number)
        )
        self._actors[number] = _Actor(handle, handle.events.remote())

    def _collect(self, number: int, request: Any) -> list[Event]:
        actor = self._actors[number]
        try:
            events: list[Event] = ray.get(request)
        except RayActorError as error:
            del self._actors[number]
            return [ScorerDied(number, first_lines(error))]
        except RayError as error:
            self.kill(number)
            return [ScorerDied(number, first_lines(error))]
        if any(isinstance(event, ScorerDied) for event in events):
            self.kill(number)
        else:
            actor.request = actor.handle.events.remote()
        return events


class ScorerActor:
    """A scorer on the far side: queues in, a queue out, pipeline.scorer between them."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._spec: SimpleQueue[ScorerSpec] = SimpleQueue()
        self._leases: SimpleQueue[Lease] = SimpleQueue()
        self._outbox: SimpleQueue[Event] = SimpleQueue()
        Thread(target=self._serve, name="serve", daemon=True).start()

    def begin(self, spec: ScorerSpec) -> None:
        """May be called before or after the first leases: calls run concurrently, in any order."""
        self._spec.put(spec)

    def lend(self, lease: Lease) -> None:
        self._leases.put(lease)

    def events(self) -> list[Event]:
        """What has happened since the last call; waits a few seconds for something to happen."""
        try:
            found = [self._outbox.get(timeout=_POLL_SECONDS)]
        except Empty:
            return []
        while not self._outbox.empty():
            found.append(self._outbox.get())
        return found

    def _serve(self) -> None:
        try:
            warm_up()
            serve(self._spec.get(), self._leases.get, self._outbox.put)
        except BaseException as error:
            self._outbox.put(ScorerDied(self._number, f"{type(error).__name__}: {error}"))
