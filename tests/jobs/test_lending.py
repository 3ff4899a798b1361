"""The driver's loop against scorers that die, freeze, fail, and report late and twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_executor import ScriptedExecutor, part, shard

from jobs.endings import Ending, Limits
from jobs.errors import DONE, INCOMPLETE, INFRASTRUCTURE, USER
from jobs.leases import LeaseTable
from jobs.lending import Lending
from pipeline.events import Event, PartWritten, ScorerDied, ScorerReady, ShardFailed, ShardSetAside
from pipeline.parts import Part
from pipeline.shards import Lease

LIMITS = Limits(stall_seconds=30.0, max_restarts=3, max_errors=None, stop_on_bad_input=True)


class Ledger:
    """What the run folder would publish."""

    def __init__(self) -> None:
        self.commits: list[Part] = []
        self.discards: list[Part] = []

    def commit(self, part: Part) -> object:
        self.commits.append(part)
        return part

    def discard(self, part: Part) -> None:
        self.discards.append(part)


class Run:
    """One run of the loop, with everything that a test asks about afterwards."""

    def __init__(self, executor: ScriptedExecutor, shards: int, limits: Limits = LIMITS) -> None:
        self.executor = executor
        self.table = LeaseTable(shard(i, nbytes=100 + i % 3) for i in range(shards))
        self.ledger = Ledger()
        self.told: list[Event] = []
        self.lending = Lending(
            executor, executor.scorers, self.table, self.ledger, limits, self.told.append,
            clock=executor.clock,
        )  # fmt: skip

    def run(self) -> Ending:
        return self.lending.run()

    @property
    def committed(self) -> list[int]:
        return sorted(p.shard for p in self.ledger.commits)


def kindly(options: Sequence[str]) -> str:
    """Ready first, then the oldest work, never a misfortune."""
    for wanted in ("ready", "finish"):
        for option in options:
            if option.startswith(wanted):
                return option
    return options[0]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_shard_ends_once_whatever_happens(data: st.DataObject) -> None:
    """At most one commit a shard; each one committed or set aside; the job ends."""
    shards = data.draw(st.integers(0, 7), "shards")
    poison = frozenset(data.draw(st.sets(st.integers(0, 6), max_size=2), "poison"))
    executor = ScriptedExecutor(
        lambda options: data.draw(st.sampled_from(options)),
        scorers=data.draw(st.integers(1, 3), "scorers"),
        adversities=data.draw(st.integers(0, 15), "adversities"),
        poison=poison,
    )
    run = Run(executor, shards)
    ending = run.run()

    published = Counter(p.shard for p in run.ledger.commits)
    assert all(count == 1 for count in published.values()), "a shard was committed twice"
    assert not set(published) & set(run.table.set_aside), "committed and set aside"
    assert not set(published) & poison
    attempts: dict[int, list[int]] = {}
    for _, lease in executor.lent:
        attempts.setdefault(lease.shard.index, []).append(lease.attempt)
    for tried in attempts.values():
        assert tried == list(range(len(tried))), "attempts are numbered without a gap"
    for committed in run.ledger.commits:
        assert committed.attempt == attempts[committed.shard][-1], "a late result was committed"
    told_aside = [e.shard for e in run.told if isinstance(e, ShardSetAside)]
    assert sorted(told_aside) == sorted(run.table.set_aside)
    if ending.exit_code in (DONE, INCOMPLETE):
        assert set(published) | set(run.table.set_aside) == set(range(shards))
        assert ending.exit_code == (INCOMPLETE if run.table.set_aside else DONE)
    elif "in the same way" in ending.message:
        failed = {e.lease.shard.index for e in run.told if isinstance(e, ShardFailed)}
        assert not published and len(failed) == 3 and ending.exit_code in (USER, INFRASTRUCTURE)
    else:
        assert ending.exit_code == INFRASTRUCTURE, ending
        died = Counter(e.scorer for e in run.told if isinstance(e, ScorerDied))
        assert all(died[n] > LIMITS.max_restarts for n in range(executor.scorers))


def test_all_goes_well() -> None:
    run = Run(ScriptedExecutor(kindly, scorers=2, adversities=0), shards=9)
    assert run.run() == Ending(DONE, "")
    assert run.committed == list(range(9)) and not run.executor.restarts


def test_poison_is_set_aside_and_the_rest_is_done() -> None:
    executor = ScriptedExecutor(kindly, scorers=2, adversities=0, poison=frozenset({4}))
    run = Run(executor, shards=9)
    ending = run.run()
    assert ending.exit_code == INCOMPLETE and "shard 4: scripted" in ending.message
    assert run.committed == [0, 1, 2, 3, 5, 6, 7, 8]
    assert executor.restarts >= 1
    deaths = [e for e in run.told if isinstance(e, ScorerDied)]
    assert len(deaths) == 2, "a poisonous shard kills two scorers and no more"


def test_frozen_scorer_is_replaced_and_its_late_result_discarded() -> None:
    frozen: list[str] = []

    def choose(options: Sequence[str]) -> str:
        if "freeze 0" in options and "finish 0" in options and not frozen:
            frozen.append("freeze 0")
            return "freeze 0"
        if "replay" in options and len(frozen) == 1 and run.executor.now > 40:
            frozen.append("replay")
            return "replay"
        if options[0] == "0":  # which of the past results: the latest, the frozen scorer's
            return options[-1]
        return kindly([o for o in options if o != "replay"] or options)

    run = Run(ScriptedExecutor(choose, scorers=2, adversities=2), shards=200)
    assert run.run().exit_code == DONE
    assert frozen == ["freeze 0", "replay"]
    assert run.executor.now > LIMITS.stall_seconds
    assert "said nothing for 30 s" in str([e for e in run.told if isinstance(e, ScorerDied)])
    assert run.committed == list(range(200)) and len(run.ledger.discards) == 1


def test_scorer_that_never_gets_ready_is_given_up() -> None:
    executor = ScriptedExecutor(lambda options: options[0], scorers=1, adversities=0)
    executor.choose = lambda options: "none 0"
    executor._do = lambda act, number: []  # type: ignore[method-assign]
    run = Run(executor, shards=1)
    ending = run.run()
    assert ending.exit_code == INFRASTRUCTURE
    assert "given up after 4 starts" in ending.message and "said nothing" in ending.message
    assert executor.restarts == LIMITS.max_restarts


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
        run.table._fresh.sort(key=lambda item: item[1])  # shard 0 first
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
