"""The driver's loop while machines leave, drain and join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from lent_jobs import LIMITS, Run, dawdling, kindly, scripted
from scripted_executor import ScriptedExecutor, Spec

from jobs.endings import Ending
from jobs.errors import DONE, INFRASTRUCTURE
from jobs.executors import Seat
from numa.placement import Place
from pipeline.errors import MemoryPlanError
from pipeline.events import (
    MachineRefused,
    PartCommitted,
    ScorerJoined,
    ScorerLeft,
)


def test_draining_scorer_ends_what_it_has_and_gets_nothing_new() -> None:
    run, ending = scripted("ready 0", "ready 1", "drain 0")
    assert ending == Ending(DONE, "") and run.committed == list(range(9))
    assert len([s for s, _ in run.executor.lent if s == 0]) == 2, "what it had"
    by = [e.scorer for e in run.told if isinstance(e, PartCommitted)]
    assert by.count(0) == 2
    assert [e for e in run.told if isinstance(e, ScorerLeft)] == [ScorerLeft(0, "drained")]
    assert not run.executor.restarts


def test_machine_that_leaves_is_not_its_shards_fault() -> None:
    run, ending = scripted("ready 0", "leave 0", "ready 1", "leave 1", "join", "join", "ready 3")
    assert ending == Ending(DONE, "") and not run.table.set_aside
    assert [e.scorer for e in run.told if isinstance(e, ScorerJoined)] == [2, 3]
    assert {p.shard for p in run.ledger.commits} == set(range(9))
    assert not run.executor.restarts, "there is nowhere to start it"


@pytest.mark.parametrize("ends", [("leave",), ("drain", "die")])
def test_machines_that_leave_one_after_another_do_not_set_a_shard_aside(ends: tuple[str]) -> None:
    acts: list[str] = []
    for number in range(4):
        acts += [f"ready {number}", *(f"{end} {number}" for end in ends), "join"]
    run, ending = scripted(*acts, scorers=1, shards=1)
    assert ending == Ending(DONE, ""), "alone on each of four scorers, and finished on the fifth"
    assert [lease.attempt for _, lease in run.executor.lent] == [0, 1, 2, 3, 4]


def test_what_a_draining_scorer_may_not_finish_is_lent_elsewhere_at_once() -> None:
    def choose(options: Sequence[str]) -> str:
        if "drain 0" in options and "finish 0" in options:
            return "drain 0"
        return dawdling(0)(options)

    run = Run(ScriptedExecutor(choose, scorers=2, adversities=1, elastic=True), shards=4)
    assert run.run() == Ending(DONE, "")
    assert run.committed == list(range(4)) and run.executor.now < 5, "without a wait"
    assert [s for s, _ in run.executor.lent].count(1) == 4


def test_job_without_machines_waits_for_one_as_long_as_for_a_silent_scorer() -> None:
    run, ending = scripted("leave 0", scorers=1)
    assert ending.exit_code == INFRASTRUCTURE and "none joined for 30 s" in ending.message
    assert LIMITS.stall_seconds < run.executor.now < LIMITS.stall_seconds + 2


def test_draining_scorer_that_dies_is_not_started_again() -> None:
    run, ending = scripted("ready 0", "drain 0", "die 0")
    assert ending.exit_code == DONE and not run.executor.restarts
    assert run.committed == list(range(9))


def test_machine_that_does_not_fit_is_refused_and_the_job_goes_on() -> None:
    executor = ScriptedExecutor(kindly, scorers=1, adversities=0)
    place = Place(0, 0, (0,))
    executor.coming = [Seat(1, "small", place, 1, 1), Seat(2, "large", place, 99, 99)]
    run = Run(executor, shards=9)

    def admit(seats: tuple[Seat, ...]) -> tuple[Any, ...]:
        if seats[0].memory_limit_nbytes < 9:
            raise MemoryPlanError("expected 9 bytes")
        return tuple(Spec(seat.scorer) for seat in seats)

    run.lending._admit = admit
    assert run.run().exit_code == DONE
    assert MachineRefused("small", "expected 9 bytes") in run.told
    assert sorted(executor.lives) == [0, 2] and ScorerJoined(2, "large") in run.told
