"""The lease table's rules, one by one; their interplay is test_lending's."""

from __future__ import annotations

from jobs.leases import FATAL_FAILURES, IN_FLIGHT, LeaseTable
from pipeline.shards import Shard


def shard(index: int, nbytes: int = 100) -> Shard:
    return Shard(index, f"/in/{index}", "parquet", (0,), 10, nbytes, 0, nbytes, 0)


def table(*nbytes: int) -> LeaseTable:
    return LeaseTable(shard(i, n) for i, n in enumerate(nbytes))


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
