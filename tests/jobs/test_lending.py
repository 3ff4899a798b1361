"""The driver's loop against scorers that die, freeze, fail, and report late and twice."""

from __future__ import annotations

import contextlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_executor import DriverKilled, ScriptedExecutor, Spec, part, shard

from jobs.endings import Ending, Limits
from jobs.errors import DONE, INCOMPLETE, INFRASTRUCTURE, USER
from jobs.executors import Seat
from jobs.leases import MOST_HOLDERS, LeaseTable
from jobs.lending import Lending
from numa.placement import Place
from pipeline.errors import MemoryPlanError
from pipeline.events import (
    Event,
    MachineRefused,
    PartCommitted,
    PartDiscarded,
    PartWritten,
    ScorerDied,
    ScorerJoined,
    ScorerLeft,
    ScorerReady,
    ShardFailed,
    ShardLent,
    ShardSetAside,
)
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

    def __init__(
        self,
        executor: ScriptedExecutor,
        shards: int,
        limits: Limits = LIMITS,
        ledger: Ledger | None = None,
    ) -> None:
        self.executor = executor
        self.ledger = ledger or Ledger()
        left = [i for i in range(shards) if i not in self.committed]
        self.table = LeaseTable([shard(i, nbytes=100 + i % 3) for i in left], executor.clock)
        self.told: list[Event] = []
        self.lending = Lending(
            executor, range(executor.scorers), self.table, self.ledger, limits, self.told.append,
            admit=lambda seats: tuple(Spec(seat.scorer) for seat in seats),  # type: ignore[misc]
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
        elastic=data.draw(st.booleans(), "elastic"),
    )
    run = Run(executor, shards)
    ending = run.run()
    check_told(run)
    published = {p.shard for p in run.ledger.commits}
    assert not published & poison
    if ending.exit_code in (DONE, INCOMPLETE):
        assert published | set(run.table.set_aside) == set(range(shards))
        assert ending.exit_code == (INCOMPLETE if run.table.set_aside else DONE)
    elif "in the same way" in ending.message:
        failed = {e.lease.shard.index for e in run.told if isinstance(e, ShardFailed)}
        assert not published and len(failed) == 3 and ending.exit_code in (USER, INFRASTRUCTURE)
    else:
        assert ending.exit_code == INFRASTRUCTURE, ending
        died = Counter(e.scorer for e in run.told if isinstance(e, ScorerDied))
        left = {e.scorer for e in run.told if isinstance(e, ScorerLeft)}
        for number, life in executor.lives.items():
            assert died[number] > LIMITS.max_restarts or number in left or life.draining


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_shard_ends_once_though_the_driver_dies(data: st.DataObject) -> None:
    """Loops that are killed and started again upon what the earlier ones had committed."""
    shards = data.draw(st.integers(1, 6), "shards")
    ledger = Ledger()
    for mortal in (True, True, False):
        before = {p.shard for p in ledger.commits}
        executor = ScriptedExecutor(
            lambda options: data.draw(st.sampled_from(options)),
            scorers=data.draw(st.integers(1, 3), "scorers"),
            adversities=data.draw(st.integers(0, 8), "adversities") if mortal else 0,
            mortal=mortal,
        )
        run = Run(executor, shards, ledger=ledger)
        with contextlib.suppress(DriverKilled):
            run.run()
        check_told(run)
        assert not before & {lease.shard.index for _, lease in executor.lent}, "computed again"
    assert sorted(p.shard for p in ledger.commits) == list(range(shards))


def check_told(run: Run) -> None:
    """What was told of a run, or of its beginning, against what its ledger holds."""
    published = Counter(p.shard for p in run.ledger.commits)
    assert all(count == 1 for count in published.values()), "a shard was committed twice"
    assert not set(published) & set(run.table.set_aside), "committed and set aside"
    told_aside = [e.shard for e in run.told if isinstance(e, ShardSetAside)]
    assert sorted(told_aside) == sorted(run.table.set_aside)
    attempts: Counter[int] = Counter()
    out: dict[int, dict[int, int]] = defaultdict(dict)
    """Shard -> scorers that hold a lease of it, by what was told, and the attempt of each."""
    closed: set[int] = set()
    for event in run.told:
        match event:
            case ShardLent(scorer, lease):
                index = lease.shard.index
                assert lease.attempt == attempts[index], "attempts are numbered without a gap"
                assert index not in closed, "lent after it was closed"
                assert scorer not in out[index] and len(out[index]) < MOST_HOLDERS
                attempts[index] += 1
                out[index][scorer] = lease.attempt
            case PartCommitted(scorer, index):
                assert scorer in out[index], "a late result was committed"
                del out[index][scorer]
                closed.add(index)
            case ShardFailed(scorer, lease):
                assert scorer in out[lease.shard.index], "a late failure was counted"
                del out[lease.shard.index][scorer]
            case PartDiscarded(scorer, index, attempt):
                if out[index].get(scorer) == attempt:
                    del out[index][scorer]
            case ShardSetAside(index):
                closed.add(index)
            case ScorerDied(scorer) | ScorerLeft(scorer):
                for holders in out.values():
                    holders.pop(scorer, None)


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


def test_nobody_is_silent_while_the_driver_does_not_listen() -> None:
    """It waits for its disk, or was stopped: what scorers said lies unheard in their pipes."""

    class SlowDisk(Ledger):
        def commit(self, part: Part) -> object:
            run.executor.now += 10 * LIMITS.stall_seconds
            return super().commit(part)

    run = Run(ScriptedExecutor(kindly, scorers=2, adversities=0), shards=9, ledger=SlowDisk())
    assert run.run() == Ending(DONE, "")
    assert run.executor.restarts == 0 and not [e for e in run.told if isinstance(e, ScorerDied)]


def dawdling(number: int) -> Callable[[Sequence[str]], str]:
    """Ready first; then the scorer of that number never ends its work, the others do."""

    def choose(options: Sequence[str]) -> str:
        ready = [o for o in options if o.startswith("ready")]
        done = [o for o in options if o.startswith("finish") and o != f"finish {number}"]
        return (ready or done or ["dawdle"])[0]

    return choose


def test_stragglers_run_elsewhere_and_the_slow_scorer_is_recalled() -> None:
    run = Run(ScriptedExecutor(dawdling(0), scorers=2, adversities=99), shards=9)
    assert run.run() == Ending(DONE, "")
    assert run.committed == list(range(9)), "by the other one"
    assert not run.executor.lives[0].alive, "it would have written into a folder that is done"
    discarded = [e for e in run.told if isinstance(e, PartDiscarded)]
    assert {e.scorer for e in discarded} == {0} and len(discarded) == 2
    assert not [e for e in run.told if isinstance(e, ScorerDied)]


def test_dead_scorer_is_started_again_for_a_straggler() -> None:
    """When it died nothing was left to lend, and the other one froze with the last two shards."""
    died: list[str] = []

    def choose(options: Sequence[str]) -> str:
        if not died and run.executor.lives[1].ready and "finish 1" not in options:
            died.append("die 1")
            return "die 1"
        return dawdling(0)(options)

    run = Run(ScriptedExecutor(choose, scorers=2, adversities=99), shards=3)
    assert run.run() == Ending(DONE, "")
    assert run.executor.restarts == 1 and run.executor.now < LIMITS.stall_seconds


def scripted(
    *acts: str, scorers: int = 2, shards: int = 9, limits: Limits = LIMITS
) -> tuple[Run, Ending]:
    """A run in which those acts are done as soon as they can be, and then all goes well."""
    script = list(acts)

    def choose(options: Sequence[str]) -> str:
        if script and script[0] in options:
            return script.pop(0)
        return kindly([o for o in options if o not in ("replay", "dawdle", "join")] or options)

    executor = ScriptedExecutor(choose, scorers=scorers, adversities=len(acts), elastic=True)
    run = Run(executor, shards, limits)
    ending = run.run()
    assert not script, f"never possible: {script}"
    return run, ending


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


def test_a_scorer_dies_once() -> None:
    executor = ScriptedExecutor(kindly, scorers=2, adversities=0)
    run = Run(executor, shards=4)
    executor.kill(0)
    run.lending._handle(ScorerDied(0, "killed"))
    run.lending._handle(ScorerDied(0, "killed, as another call says"))
    run.lending._handle(ScorerReady(0, "", {}))
    assert run.told == [ScorerDied(0, "killed")]
    assert run.run() == Ending(DONE, "") and executor.restarts == 1


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
