"""Results: what comes of a lease, and whether the job goes on after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from jobs.endings import Ending, Limits, Streak, over_budget
from jobs.errors import INFRASTRUCTURE, USER
from pipeline.events import PartCommitted, PartDiscarded, ShardFailed, ShardSetAside

if TYPE_CHECKING:
    from jobs.leases import LeaseTable
    from pipeline.events import Event
    from pipeline.parts import Part


class Committer(Protocol):
    """What is needed of pipeline.manifest.RunFolder."""

    def commit(self, part: Part) -> object | None: ...
    def discard(self, part: Part) -> None: ...


class Results:
    """Commits parts, judges failures, and counts rejects."""

    def __init__(
        self,
        table: LeaseTable,
        folder: Committer,
        limits: Limits,
        tell: Callable[[Event], None],
        *,
        rejects: int,
    ) -> None:
        self._table = table
        self._folder = folder
        self._limits = limits
        self._tell = tell
        self._rejects = rejects
        self._streak = Streak()
        self.ending: Ending | None = None
        """Set by what ends the job before its last shard."""
        self._check_budget()

    def take(self, scorer: int, part: Part) -> bool:
        """Commit a part whose lease is still good, throw a late one away. Whether it counts."""
        good = self._table.settle(scorer, part.shard, part.attempt)
        if not good:
            self._folder.discard(part)
        if not good or self._folder.commit(part) is None:
            self._tell(PartDiscarded(scorer, part.shard, part.attempt))
            return False
        self._table.done(part.shard)
        self._streak.succeeded()
        self._rejects += part.rejects
        self._tell(
            PartCommitted(
                scorer,
                part.shard,
                part.rows_in,
                part.rows_out,
                part.rejects,
                part.nbytes,
                part.seconds,
            )
        )
        self._check_budget()
        return True

    def fail(self, event: ShardFailed) -> None:
        """Let the shard of a failure be tried again, set it aside, or end the job for it."""
        index = event.lease.shard.index
        if not self._table.settle(event.scorer, index, event.lease.attempt):
            return
        self._tell(event)
        bad_input = event.kind in ("rows", "input")
        if bad_input and self._limits.stop_on_bad_input:
            advice = "do --on-error skip or null to go on without such rows"
            bad_row = event.kind == "rows"
            self.ending = Ending(USER, event.message + (f"; {advice}" if bad_row else ""))
        elif bad_input:
            self._table.withdraw(index, event.message)
            self._tell(ShardSetAside(index, event.message))
        elif (ending := self._streak.failed(event)) is not None:
            self.ending = ending
        elif not self._table.failed(event.scorer, index, event.message):
            if event.kind == "output":  # the disk, not the shard
                self.ending = Ending(INFRASTRUCTURE, event.message)
            else:
                self._tell(ShardSetAside(index, event.message))

    def _check_budget(self) -> None:
        self.ending = over_budget(self._rejects, self._limits) or self.ending
