"""LeaseTable: which shard is lent to whom, and what becomes of it when a scorer fails.

Pure bookkeeping: no clock, no process, no file. The rules it keeps:

- A scorer holds two leases, one that runs and one that is read ahead; the largest shards go
  out first, so that the end of the job is not one long shard on one scorer.
- Every lease of a shard has its own attempt number, and only the latest one counts: a result
  of an older attempt is late, and is thrown away. So a shard is committed at most once.
- A shard that was in flight when a scorer died is suspected and goes out alone from then on,
  so that the second death tells which shard it was: that one is set aside.
- A shard that failed in the engine or on output goes to another scorer once, then is set aside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from pipeline.shards import Lease

if TYPE_CHECKING:
    from pipeline.shards import Shard

IN_FLIGHT = 2
"""Leases a scorer holds: one runs, one is read ahead."""

FATAL_DEATHS = 2
"""A shard that was in flight at so many deaths of scorers, the last time alone, is set aside."""

FATAL_FAILURES = 2
"""A shard that failed so many times on scorers that lived on is set aside."""


@dataclass(slots=True)
class _Case:
    """What has happened to one shard so far."""

    shard: Shard
    attempt: int = -1
    """Number of the latest lease; -1 before the first."""
    deaths: int = 0
    failures: int = 0
    avoid: set[int] = field(default_factory=set)
    """Scorers that it failed on."""
    reason: str = ""
    """The latest failure, in the words of whoever reported it."""

    @property
    def troubled(self) -> bool:
        return bool(self.deaths or self.failures)


class LeaseTable:
    """Shards waiting, lent, done and set aside."""

    def __init__(self, shards: Iterable[Shard]) -> None:
        self._cases: dict[int, _Case] = {}
        self._fresh: list[tuple[int, int]] = []
        """Heap of (-nbytes, index): what was never lent, or came back through no fault of its."""
        self._troubled: list[int] = []
        """Indices of shards that failed before, oldest first; they go out after the fresh ones."""
        self._lent: dict[int, list[Lease]] = {}
        self.set_aside: dict[int, str] = {}
        """Index of a shard that is given up -> why."""
        for shard in shards:
            case = self._cases[shard.index] = _Case(shard)
            self._put_back(case)

    @property
    def waiting(self) -> int:
        """Shards that nobody holds and that are still to be done."""
        return len(self._fresh) + len(self._troubled)

    @property
    def finished(self) -> bool:
        return not self.waiting and not any(self._lent.values())

    def held(self, scorer: int) -> tuple[Lease, ...]:
        """Leases of the scorer, the one that runs first."""
        return tuple(self._lent.get(scorer, ()))

    def next_for(self, scorer: int, others: bool) -> Lease | None:
        """A new lease for the scorer, or None when nothing is fit for it now.

        `others`: whether another scorer lives that could take a shard which failed on this one.
        """
        held = self._lent.setdefault(scorer, [])
        if len(held) >= IN_FLIGHT or any(self._cases[x.shard.index].deaths for x in held):
            return None
        case = self._take_fresh() or self._take_troubled(scorer, others, alone=not held)
        if case is None:
            return None
        case.attempt += 1
        lease = Lease(case.shard, case.attempt)
        held.append(lease)
        return lease

    def settle(self, scorer: int, index: int, attempt: int) -> bool:
        """End the lease on which a result came; False when the result is late."""
        for lease in self._lent.get(scorer, ()):
            if lease.shard.index == index and lease.attempt == attempt:
                self._lent[scorer].remove(lease)
                return True
        return False

    def failed(self, scorer: int, index: int, reason: str) -> bool:
        """A settled lease failed on a scorer that lives; False when its shard is set aside."""
        case = self._cases[index]
        case.failures += 1
        case.avoid.add(scorer)
        return self._again(case, reason)

    def died(self, scorer: int, reason: str, *, blame: bool) -> tuple[Lease, ...]:
        """Take back what a dead scorer held; `blame` unless it died before it began to work."""
        taken = tuple(self._lent.pop(scorer, ()))
        for lease in taken:
            case = self._cases[lease.shard.index]
            case.deaths += blame
            self._again(case, reason)
        return taken

    def withdraw(self, index: int, reason: str) -> None:
        """Set a settled shard aside at once: another attempt could not change its fate."""
        self.set_aside[index] = reason

    def attempt(self, index: int) -> int:
        return self._cases[index].attempt

    def _again(self, case: _Case, reason: str) -> bool:
        case.reason = reason
        if case.deaths >= FATAL_DEATHS or case.failures >= FATAL_FAILURES:
            self.set_aside[case.shard.index] = reason
            return False
        self._put_back(case)
        return True

    def _put_back(self, case: _Case) -> None:
        if case.troubled:
            self._troubled.append(case.shard.index)
        else:
            heappush(self._fresh, (-case.shard.nbytes, case.shard.index))

    def _take_fresh(self) -> _Case | None:
        return self._cases[heappop(self._fresh)[1]] if self._fresh else None

    def _take_troubled(self, scorer: int, others: bool, alone: bool) -> _Case | None:
        for index in self._troubled:
            case = self._cases[index]
            if (case.deaths and not alone) or (others and scorer in case.avoid):
                continue
            self._troubled.remove(index)
            return case
        return None
