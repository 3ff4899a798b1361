"""The lease table's rules, one by one; their interplay is test_lending's."""

from __future__ import annotations

from jobs.leases import FATAL_FAILURES, IN_FLIGHT, LeaseTable
from jobs.pace import LEAST_SECONDS, PATIENCE, Pace
from pipeline.shards import Shard


def shard(index: int, nbytes: int = 100) -> Shard:
    return Shard(index, f"/in/{index}", "parquet", (0,), 10, nbytes, 0, nbytes, 0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def table(*nbytes: int, clock: Clock | None = None) -> LeaseTable:
    return LeaseTable([shard(i, n) for i, n in enumerate(nbytes)], clock or Clock())


def take(leases: LeaseTable, scorer: int, others: bool = True) -> int | None:
    lease = leases.next_for(scorer, others)
    return None if lease is None else lease.shard.index


def test_largest_first_ties_in_order() -> None:
    leases = table(5, 9, 7, 9)
    assert [take(leases, s) for s in (0, 1, 2, 3)] == [1, 3, 2, 0]


def test_two_in_flight() -> None:
    leases = table(1, 1, 1)
    assert [take(leases, 0) for _ in range(3)] == [0, 1, None]
    assert IN_FLIGHT == 2
    assert leases.settle(0, 0, 0)
    assert take(leases, 0) == 2


def test_result_of_an_older_attempt_is_late() -> None:
    leases = table(1)
    assert take(leases, 0) == 0
    leases.died(0, "gone", blame=False)
    again = leases.next_for(1, others=True)
    assert again is not None and again.attempt == 1
    assert not leases.settle(0, 0, 0), "the dead scorer's result"
    assert not leases.settle(1, 0, 0), "a result with the old attempt's number"
    assert leases.settle(1, 0, 1)
    leases.done(0)
    assert not leases.settle(1, 0, 1), "the same result twice"
    assert leases.finished


def test_suspects_go_out_alone_and_the_second_death_sets_aside() -> None:
    leases = table(3, 2, 1)
    assert (take(leases, 0), take(leases, 0)) == (0, 1)
    leases.died(0, "signal 9", blame=True)
    assert take(leases, 0) == 2, "what is not suspected goes first"
    assert take(leases, 0) is None, "a suspect is not added to other work"
    assert leases.settle(0, 2, 0)
    assert take(leases, 0) == 0
    assert take(leases, 0) is None, "nothing is added to a suspect"
    leases.died(0, "signal 11", blame=True)
    assert leases.set_aside == {0: "signal 11"}
    assert take(leases, 1) == 1
    assert leases.settle(1, 1, 1)
    leases.done(1)
    leases.done(2)
    assert leases.finished


def test_no_blame_no_suspicion() -> None:
    leases = table(1, 1)
    for _ in range(5):
        assert (take(leases, 0), take(leases, 0)) == (0, 1)
        leases.died(0, "killed before it was ready", blame=False)
    assert not leases.set_aside


def test_failed_shard_goes_to_another_scorer_once() -> None:
    leases = table(1)
    assert take(leases, 0) == 0
    assert leases.settle(0, 0, 0)
    assert leases.failed(0, 0, "first")
    assert take(leases, 0, others=True) is None
    assert take(leases, 1, others=True) == 0
    assert leases.settle(1, 0, 1)
    assert not leases.failed(1, 0, "second")
    assert leases.set_aside == {0: "second"} and leases.finished
    assert FATAL_FAILURES == 2


def test_failed_shard_returns_to_the_only_scorer() -> None:
    leases = table(1)
    assert take(leases, 0) == 0
    assert leases.settle(0, 0, 0)
    leases.failed(0, 0, "first")
    assert take(leases, 0, others=False) == 0


def overdue_table(clock: Clock) -> LeaseTable:
    """Scorer 1 did its shard in ten seconds; scorer 0 has shards 0 and 1 for a hundred."""
    leases = table(1, 1, 1, clock=clock)
    assert (take(leases, 0), take(leases, 0), take(leases, 1)) == (0, 1, 2)
    clock.now = 10.0
    assert leases.settle(1, 2, 0)
    leases.done(2)
    assert leases.twin_for(1) is None, "ten seconds are usual"
    clock.now = 100.0
    return leases


def test_twin_of_what_is_overdue_and_the_first_result_counts() -> None:
    leases = overdue_table(Clock())
    twin = leases.twin_for(1)
    assert twin is not None and (twin.shard.index, twin.attempt) == (0, 1)
    assert leases.twin_for(1) is None, "one at a time"
    assert leases.twin_for(2) is not None and leases.twin_for(3) is None, "no third lease"
    assert leases.settle(1, 0, 1)
    leases.done(0)
    assert not leases.live(0, 0, 0) and leases.held(0), "void, but still in its hands"
    assert not leases.settle(0, 0, 0), "the slower result"
    assert leases.live(0, 1, 0) and not leases.finished


def test_twin_does_not_count_for_what_happens_to_the_other() -> None:
    clock = Clock()
    leases = overdue_table(clock)
    assert leases.twin_for(1) is not None
    assert leases.died(1, "signal 9", blame=True) == [] and leases.waiting == 0, "0 has it yet"
    assert leases.died(0, "signal 9", blame=True) == [], "0 held two: either may be guilty"
    assert leases.waiting == 2 and leases.next_for(0, others=True) is not None
    clock.now = 1000.0
    assert leases.twin_for(1) is None, "a suspect has no twin"


def test_what_leaves_is_due_at_once() -> None:
    leases = table(1, 1)
    assert take(leases, 0) == 0
    assert leases.twin_for(1) is None
    assert leases.twin_for(1, leaving=(0,)) is not None


def test_pace() -> None:
    pace = Pace()
    assert pace.overdue(1e9, 1) < 0, "nothing is known"
    for seconds in (9.0, 10.0, 50.0):
        pace.took(seconds, 100)
    assert pace.overdue(PATIENCE * 10.0, 100) == 0.0
    assert pace.overdue(PATIENCE * 10.0, 300) == -PATIENCE * 20.0, "thrice the bytes"
    assert pace.overdue(PATIENCE * 10.0, 1) == 0.0, "small ones have fixed costs, too"
    pace = Pace()
    pace.took(0.001, 100)
    assert pace.overdue(LEAST_SECONDS, 100) == 0.0


def test_what_is_closed_and_let_go_is_forgotten() -> None:
    leases = table(2, 1)
    assert (take(leases, 0), take(leases, 1)) == (0, 1)
    assert leases.settle(0, 0, 0)
    leases.done(0)
    assert list(leases._cases) == [1], "a million closed cases would be half a gigabyte"
