"""The driver's loop against scorers that die, freeze, and report late and twice."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from lent_jobs import LIMITS, Ledger, Run, dawdling, kindly
from scripted_executor import DriverKilled, ScriptedExecutor

from jobs.endings import Ending
from jobs.errors import DONE, INCOMPLETE, INFRASTRUCTURE, USER
from jobs.leases import MOST_HOLDERS
from pipeline.events import (
    PartCommitted,
    PartDiscarded,
    ScorerDied,
    ScorerLeft,
    ScorerReady,
    ShardFailed,
    ShardLent,
    ShardSetAside,
)
from pipeline.parts import Part


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


def test_a_scorer_dies_once() -> None:
    executor = ScriptedExecutor(kindly, scorers=2, adversities=0)
    run = Run(executor, shards=4)
    executor.kill(0)
    run.lending._handle(ScorerDied(0, "killed"))
    run.lending._handle(ScorerDied(0, "killed, as another call says"))
    run.lending._handle(ScorerReady(0, "", {}))
    assert run.told == [ScorerDied(0, "killed")]
    assert run.run() == Ending(DONE, "") and executor.restarts == 1


def test_scorer_that_never_gets_ready_is_given_up() -> None:
    executor = ScriptedExecutor(lambda options: options[0], scorers=1, adversities=0)
    executor.choose = lambda options: "none 0"
    executor._do = lambda act, number: []  # type: ignore[method-assign]
    run = Run(executor, shards=1)
    ending = run.run()
    assert ending.exit_code == INFRASTRUCTURE
    assert "given up after 4 starts" in ending.message and "said nothing" in ending.message
    assert executor.restarts == LIMITS.max_restarts
