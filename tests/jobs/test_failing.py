"""The driver's loop against shards, files and writes that fail, and a signal."""

from __future__ import annotations

from array import array

import pytest
from lent_jobs import Run, kindly
from scripted_executor import ScriptedExecutor, part

from jobs.endings import Ending, Limits
from jobs.errors import DONE, INCOMPLETE, INFRASTRUCTURE, USER
from pipeline.events import (
    Event,
    PartWritten,
    ScorerDied,
    ScorerReady,
    ShardFailed,
)
from pipeline.shards import Lease


class Replies(ScriptedExecutor):
    """Every lease gets the event that `reply` makes of it."""

    reply = staticmethod(lambda scorer, lease: PartWritten(scorer, part(lease)))

    def events(self, timeout: float) -> list[Event]:
        found: list[Event] = []
        for number, life in self.lives.items():
            if not life.ready:
                life.ready = True
                found.append(ScorerReady(number, "", {}))
            found += [self.reply(number, life.leases.pop(0)) for _ in list(life.leases)]
        return found


@pytest.mark.parametrize("kind", ["rows", "input"])
def test_bad_input_stops_the_job_with_its_own_words(kind: str) -> None:
    executor = Replies(kindly, scorers=2)
    said = "/in/3 row 7, field 'x': null"
    executor.reply = lambda scorer, lease: (  # type: ignore[method-assign]
        ShardFailed(scorer, lease, kind, said)
        if lease.shard.index == 3
        else PartWritten(scorer, part(lease))
    )
    run = Run(executor, shards=40)
    ending = run.run()
    assert ending.exit_code == USER and ending.message.startswith(said)
    assert ("--on-error skip" in ending.message) == (kind == "rows"), "skip saves no damaged file"
    assert len(run.executor.lent) < 40, "lending stopped"


def test_damaged_file_is_set_aside_when_errors_are_tolerated() -> None:
    executor = Replies(kindly, scorers=1)
    executor.reply = lambda scorer, lease: (  # type: ignore[method-assign]
        ShardFailed(scorer, lease, "input", "damaged")
        if lease.shard.index == 3
        else PartWritten(scorer, part(lease))
    )
    run = Run(executor, shards=6, limits=Limits(30.0, 3, None, stop_on_bad_input=False))
    assert run.run().exit_code == INCOMPLETE
    assert run.table.set_aside == {3: "damaged"} and len(run.committed) == 5
    assert len(executor.lent) == 6, "a damaged file is not tried twice"


@pytest.mark.parametrize(("kind", "code"), [("engine", INCOMPLETE), ("output", INFRASTRUCTURE)])
def test_repeated_failure(kind: str, code: int) -> None:
    executor = Replies(kindly, scorers=2)
    tries: list[int] = []

    def reply(scorer: int, lease: Lease) -> Event:
        if lease.shard.index:
            return PartWritten(scorer, part(lease))
        tries.append(scorer)
        return ShardFailed(scorer, lease, kind, "no space left" if kind == "output" else "NaN")

    executor.reply = reply  # type: ignore[method-assign]
    run = Run(executor, shards=6)
    assert run.run().exit_code == code
    assert len(tries) == 2 and tries[0] != tries[1], "once more, on the other scorer"


@pytest.mark.parametrize(("kind", "code"), [("engine", USER), ("internal", INFRASTRUCTURE)])
def test_what_fails_the_first_shards_alike_stops_the_job(kind: str, code: int) -> None:
    executor = Replies(kindly, scorers=2)
    executor.reply = lambda scorer, lease: ShardFailed(  # type: ignore[method-assign]
        scorer, lease, kind, f"{lease.shard}: no kernel for row {lease.shard.index}"
    )
    run = Run(executor, shards=60)
    ending = run.run()
    assert (
        ending.exit_code == code and "the first 3 shards failed in the same way" in ending.message
    )
    assert "no kernel for row" in ending.message and len(executor.lent) <= 4


def test_failures_that_differ_or_come_after_a_success_do_not_stop_the_job() -> None:
    for good, word in ((0, "alike"), (99, "")):
        executor = Replies(kindly, scorers=1)

        def reply(scorer: int, lease: Lease, good: int = good, word: str = word) -> Event:
            if lease.shard.index == good:
                return PartWritten(scorer, part(lease))
            return ShardFailed(scorer, lease, "engine", word or "abcdefgh"[lease.shard.index])

        executor.reply = reply  # type: ignore[method-assign]
        run = Run(executor, shards=6)
        run.table._fresh = array("q", reversed(range(6)))  # shard 0 first
        ending = run.run()
        assert ending.exit_code == INCOMPLETE and len(run.table.set_aside) >= 5, ending


def test_second_failed_write_in_a_row_stops_the_job() -> None:
    executor = Replies(kindly, scorers=1)
    executor.reply = lambda scorer, lease: ShardFailed(  # type: ignore[method-assign]
        scorer, lease, "output", f"/out: no space left, shard {lease.shard.index}"
    )
    run = Run(executor, shards=60)
    ending = run.run()
    assert ending.exit_code == INFRASTRUCTURE and "no space left" in ending.message
    assert len(executor.lent) == 2, "two shards, each once"


def test_scorer_that_refuses_to_start_is_not_started_again() -> None:
    executor = Replies(kindly, scorers=2)
    executor.events = lambda timeout: [  # type: ignore[method-assign]
        ScorerDied(number, "another model", refused=True) for number in executor.lives
    ]
    run = Run(executor, shards=5)
    assert run.run() == Ending(USER, "another model")
    assert not executor.restarts


def test_budget_of_rejects() -> None:
    def rejecting(scorer: int, lease: Lease) -> Event:
        return PartWritten(scorer, part(lease, rejects=1))

    for budget, code, commits in ((5, DONE, 5), (4, INCOMPLETE, 5), (0, INCOMPLETE, 1)):
        executor = Replies(kindly, scorers=1)
        executor.reply = rejecting  # type: ignore[method-assign]
        run = Run(executor, shards=5, limits=Limits(30.0, 3, budget, stop_on_bad_input=False))
        ending = run.run()
        assert ending.exit_code == code, ending
        assert len(run.committed) == commits
        assert code == DONE or f"over --max-errors {budget}" in ending.message


def test_signal_ends_the_loop_and_keeps_what_was_finished() -> None:
    executor = Replies(kindly, scorers=1)
    run = Run(executor, shards=50)

    def reply(scorer: int, lease: Lease) -> Event:
        run.lending.signal = 15
        return PartWritten(scorer, part(lease))

    executor.reply = reply  # type: ignore[method-assign]
    assert run.run().exit_code == 143
    assert len(run.committed) == 2, "both leases that had been finished"
