"""Calls to actors when Ray loses some of them: what is made again, and what that changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from threading import Timer
from typing import Any
from unittest.mock import Mock, patch

import pytest
from ray.exceptions import ActorUnavailableError
from scripted_executor import shard

from jobs.errors import InfrastructureError
from jobs.executors import ray as executor
from jobs.executors import ray_actor
from jobs.executors.ray_actor import MOST_EVENTS, Outbox, ScorerActor
from jobs.spec import JobSpec
from pipeline.events import Event, PartDiscarded, RowsScored
from pipeline.shards import Lease

LEASES = tuple(Lease(shard(index), 0) for index in range(3))


class Still(ScorerActor):
    """An actor that takes leases and does nothing."""

    def _serve(self) -> None:
        pass

    @property
    def leases(self) -> list[Lease]:
        return [self._leases.get() for _ in range(self._leases.qsize())]


@dataclass(frozen=True, eq=False)
class Answer:
    value: Any


class Method:
    """What an actor's handle has for a method."""

    def __init__(self, ray: LossyRay, call: Callable[[Any], Any]) -> None:
        self.remote = lambda argument: ray.call(call, argument)


class LossyRay:
    """The little of Ray that is needed to call one actor of this process, and a handle on it.

    Of the calls, those whose number is in `lost` are not made, and those in `deaf` are made but
    not answered.
    """

    def __init__(self, actor: ScorerActor, lost: set[int], deaf: set[int]) -> None:
        self._lost, self._deaf = lost, deaf
        self._calls = 0
        self.lend = Method(self, actor.lend)
        self.events = Method(self, lambda seen: actor._outbox.after(seen, 0.0))

    def call(self, method: Callable[[Any], Any], argument: Any) -> Answer:
        number, self._calls = self._calls, self._calls + 1
        value = None if number in self._lost else method(argument)
        gone = number in self._lost | self._deaf
        return Answer(ActorUnavailableError("lost", None) if gone else value)

    def get(self, answer: Answer) -> Any:
        if isinstance(answer.value, ActorUnavailableError):
            raise answer.value
        return answer.value

    def wait(
        self, answers: list[Answer], num_returns: int, timeout: float
    ) -> tuple[list[Answer], list[Answer]]:
        return answers, []


def told(actor: executor._Actor, turns: int) -> list[Event]:
    return [event for _ in range(turns) for event in actor.collect()]


@pytest.mark.parametrize("lost", [set(), {0}, {1, 2}, {0, 1, 3, 4, 6}])
@pytest.mark.parametrize("deaf", [set(), {0}, {1, 2}, {2, 5, 8}])
def test_leases_and_events_arrive_once(
    monkeypatch: pytest.MonkeyPatch, lost: set[int], deaf: set[int]
) -> None:
    there = Still(0)
    lossy = LossyRay(there, lost, deaf)
    monkeypatch.setattr(executor, "ray", lossy)
    actor = executor._Actor(lossy)
    for lease in LEASES:
        actor.send(lossy.lend, lease)
    happened = [PartDiscarded(0, number, 0) for number in range(4)]
    got = []
    for event in happened:
        there._outbox.put(event)
        got += told(actor, turns=2)
    got += told(actor, turns=10)
    assert got == happened
    assert sorted(there.leases, key=lambda lease: lease.shard.index) == list(LEASES)


def test_events_stay_until_they_are_acknowledged() -> None:
    outbox = Outbox()
    one, two = (PartDiscarded(0, number, 0) for number in (1, 2))
    outbox.put(one)
    assert outbox.after(0, 0.0) == [one]
    outbox.put(two)
    assert outbox.after(0, 0.0) == [one, two], "the first answer was lost"
    assert outbox.after(2, 0.0) == []
    assert outbox.after(1, 0.0) == [], "an older request that comes late"


def test_progress_is_dropped_when_nobody_asks() -> None:
    outbox = Outbox()
    for rows in range(MOST_EVENTS + 10):
        outbox.put(RowsScored(0, 1, 0, rows))
    outbox.put(PartDiscarded(0, 1, 0))
    assert len(outbox.after(0, 0.0)) == MOST_EVENTS + 1


def test_progress_waits_for_more_and_a_result_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, result = RowsScored(0, 1, 0, 5), PartDiscarded(0, 1, 0)
    outbox = Outbox()
    outbox.put(progress)
    monkeypatch.setattr(ray_actor, "LINGER_SECONDS", 60.0)
    Timer(0.2, outbox.put, [result]).start()
    assert outbox.after(0, 60.0) == [progress, result], "both in one answer"
    assert outbox.after(0, 60.0) == [progress, result], "at once"
    monkeypatch.setattr(ray_actor, "LINGER_SECONDS", 0.01)
    outbox.put(progress)
    assert outbox.after(2, 60.0) == [progress], "progress is not kept for ever"


def test_a_ray_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine its node is late, which Ray says by an exception of no kind."""
    late = Mock(side_effect=Exception("The current node timed out during startup."))
    monkeypatch.setattr(executor.ray, "init", late)
    spec = JobSpec(model="m", input=("in",), output="out", executor="ray")
    with (
        patch.dict(os.environ),
        pytest.raises(InfrastructureError, match="timed out during startup"),
    ):
        executor.RayExecutor(spec).seats(1, 1, warm=False)
