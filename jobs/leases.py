"""LeaseTable: which shard is lent to whom, and what becomes of it when a scorer fails.

Pure bookkeeping: no process, no file. The rules it keeps:

- A scorer holds two leases, one that runs and one that is read ahead; the largest shards go
  out first, so that the end of the job is not one long shard on one scorer.
- Every lease of a shard has its own attempt number, and counts while its scorer holds it and
  the shard is open. A result of any other is late, and is thrown away.
- When nothing is left to lend, a shard that is overdue is lent a second time, to an idle scorer
  (a twin). The first result closes the shard, so that it is committed at most once; the other
  scorer then holds a void lease, until it is done with it.
- A shard that was in flight when a scorer died is suspected and goes out alone from then on,
  so that the second death tells which shard it was: that one is set aside.
- A shard that failed in the engine or on output goes to another scorer once, then is set aside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from jobs.pace import Pace
from pipeline.shards import Lease, by_size

if TYPE_CHECKING:
    from pipeline.shards import Shard

IN_FLIGHT = 2
"""Leases a scorer holds: one runs, one is read ahead."""

FATAL_DEATHS = 2
"""A shard that was in flight at so many deaths of scorers, the last time alone, is set aside."""

MOST_HOLDERS = 2
"""Scorers that work on one shard at once: a twin has no twin."""

FATAL_FAILURES = 2
"""A shard that failed so many times on scorers that lived on is set aside."""


@dataclass(slots=True)
class _Case:
    """What has happened to one shard so far."""

    shard: Shard
    attempt: int = -1
    """Number of the latest lease; -1 before the first."""
    holders: int = 0
    """Scorers that hold a lease of it."""
    closed: bool = False
    """Committed or set aside: what still comes is late."""
    deaths: int = 0
    failures: int = 0
    avoid: frozenset[int] = frozenset()
    """Scorers that it failed on."""
    reason: str = ""
    """The latest failure, in the words of whoever reported it."""
    seconds: float = 0.0
    """How long the lease was out that was settled last."""

    @property
    def troubled(self) -> bool:
        return bool(self.deaths or self.failures)


@dataclass(frozen=True, slots=True)
class _Loan:
    """A lease in a scorer's hands."""

    lease: Lease
    since: float


class LeaseTable:
    """Shards waiting, lent, done and set aside."""

    def __init__(self, shards: Sequence[Shard], clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._pace = Pace()
        self._cases: dict[int, _Case] = {}
        """Of shards that are lent, or were and are not closed."""
        self._shards = shards
        self._fresh = by_size(shards)
        """Places of those that were never lent; the last, which is the largest, goes out first."""
        self._returned: list[Shard] = []
        """Came back through no fault of theirs; they go out before the fresh ones."""
        self._troubled: list[int] = []
        """Indices of shards that failed before, oldest first; they go out after the fresh ones."""
        self._lent: dict[int, list[_Loan]] = {}
        self._open = len(self._fresh)
        """Shards that are not closed."""
        self.set_aside: dict[int, str] = {}
        """Index of a shard that is given up -> why."""

    @property
    def waiting(self) -> int:
        """Shards that nobody holds and that are still to be done."""
        return len(self._fresh) + len(self._returned) + len(self._troubled)

    @property
    def finished(self) -> bool:
        return not self._open

    def held(self, scorer: int) -> tuple[Lease, ...]:
        """Leases of the scorer, void ones included, the one that runs first."""
        return tuple(loan.lease for loan in self._lent.get(scorer, ()))

    def next_for(self, scorer: int, others: bool) -> Lease | None:
        """A new lease for the scorer, or None when nothing is fit for it now.

        `others`: whether another scorer lives that could take a shard which failed on this one.
        """
        held = self._lent.get(scorer, ())
        if len(held) >= IN_FLIGHT or any(self._case(loan).deaths for loan in held):
            return None
        case = self._take_fresh() or self._take_troubled(scorer, others, alone=not held)
        return None if case is None else self._lend(scorer, case)

    def twin_for(self, scorer: int, leaving: Collection[int] = ()) -> Lease | None:
        """A second lease, for an idle scorer, of the shard that is most overdue elsewhere.

        What a scorer that is `leaving` holds may never be done, and is due at once. A shard that
        ever failed has no twin: what killed one scorer shall not kill two at once.
        """
        case = None if self._lent.get(scorer) else self._most_overdue(leaving)
        return None if case is None else self._lend(scorer, case)

    def wants_more(self, leaving: Collection[int] = ()) -> bool:
        """Whether one more scorer would have something to do."""
        return self.waiting > 0 or self._most_overdue(leaving) is not None

    def live(self, scorer: int, index: int, attempt: int) -> bool:
        """Whether a result on that lease would count."""
        loan = self._loan(scorer, index, attempt)
        return loan is not None and not self._case(loan).closed

    def settle(self, scorer: int, index: int, attempt: int) -> bool:
        """End the lease on which a result came; False when the result is late."""
        loan = self._loan(scorer, index, attempt)
        if loan is None:
            return False
        self._lent[scorer].remove(loan)
        case = self._case(loan)
        self._let_go(case)
        case.seconds = self._clock() - loan.since
        return not case.closed

    def done(self, index: int) -> None:
        """A settled shard is committed."""
        case = self._cases[index]
        self._pace.took(case.seconds, case.shard.nbytes)
        self._close(case)

    def failed(self, scorer: int, index: int, reason: str) -> bool:
        """A settled lease failed on a scorer that lives; False when its shard is set aside."""
        case = self._cases[index]
        case.failures += 1
        case.avoid |= {scorer}
        return self._again(case, reason, fatal=case.failures >= FATAL_FAILURES)

    def died(self, scorer: int, reason: str, *, blame: bool) -> list[int]:
        """Take back what a dead scorer held; `blame` unless it died before it began to work, or
        with its machine. Returns the shards that are set aside for it.
        """
        taken = self._lent.pop(scorer, [])
        given_up: list[int] = []
        for loan in taken:
            case = self._case(loan)
            self._let_go(case)
            if not case.closed:
                case.deaths += blame
                guilty = blame and len(taken) == 1
                if not self._again(case, reason, fatal=guilty and case.deaths >= FATAL_DEATHS):
                    given_up.append(case.shard.index)
        return given_up

    def withdraw(self, index: int, reason: str) -> None:
        """Set a settled shard aside at once: another attempt could not change its fate."""
        self.set_aside[index] = reason
        self._close(self._cases[index])

    def _lend(self, scorer: int, case: _Case) -> Lease:
        case.attempt += 1
        case.holders += 1
        lease = Lease(case.shard, case.attempt)
        self._lent.setdefault(scorer, []).append(_Loan(lease, self._clock()))
        return lease

    def _case(self, loan: _Loan) -> _Case:
        return self._cases[loan.lease.shard.index]

    def _loan(self, scorer: int, index: int, attempt: int) -> _Loan | None:
        for loan in self._lent.get(scorer, ()):
            if loan.lease.shard.index == index and loan.lease.attempt == attempt:
                return loan
        return None

    def _overdue(self, loan: _Loan) -> float:
        return self._pace.overdue(self._clock() - loan.since, loan.lease.shard.nbytes)

    def _again(self, case: _Case, reason: str, *, fatal: bool) -> bool:
        """Let a shard be tried again, by a twin that has it already or by whoever comes."""
        case.reason = reason
        if fatal:
            self.withdraw(case.shard.index, reason)
        elif not case.holders:
            self._put_back(case)
        return not fatal

    def _close(self, case: _Case) -> None:
        self._open -= not case.closed
        case.closed = True
        self._forget(case)

    def _let_go(self, case: _Case) -> None:
        case.holders -= 1
        self._forget(case)

    def _forget(self, case: _Case) -> None:
        """A million closed cases would be half a gigabyte."""
        if case.closed and not case.holders:
            self._cases.pop(case.shard.index, None)

    def _put_back(self, case: _Case) -> None:
        if case.troubled:
            self._troubled.append(case.shard.index)
        else:
            self._returned.append(case.shard)

    def _most_overdue(self, leaving: Collection[int]) -> _Case | None:
        late = [
            (inf if holder in leaving else self._overdue(loan), -loan.lease.shard.index)
            for holder, loans in self._lent.items()
            for loan in loans
            if self._may_have_twin(self._case(loan))
        ]
        worst, index = max(late, default=(0.0, 0))
        return self._cases[-index] if worst > 0 else None

    def _may_have_twin(self, case: _Case) -> bool:
        return not (case.closed or case.troubled) and case.holders < MOST_HOLDERS

    def _take_fresh(self) -> _Case | None:
        if not self._fresh and not self._returned:
            return None
        shard = self._returned.pop(0) if self._returned else self._shards[self._fresh.pop()]
        return self._cases.setdefault(shard.index, _Case(shard))

    def _take_troubled(self, scorer: int, others: bool, alone: bool) -> _Case | None:
        for index in self._troubled:
            case = self._cases[index]
            if (case.deaths and not alone) or (others and scorer in case.avoid):
                continue
            self._troubled.remove(index)
            return case
        return None
