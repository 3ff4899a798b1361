"""The driver's loop: lend shards, collect events, commit parts, and see that it ends.

The loop owns no process and no file: executors start scorers, the run folder publishes parts.
It ends in one of five ways: everything committed; some shards set aside; a row, a budget or a
damaged file that stops the job; every scorer given up; a signal. It cannot wait for ever: a
scorer that says nothing is killed, and one that keeps dying is given up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from jobs.endings import Ending, Limits, Streak, count, over_budget, shards_set_aside
from jobs.errors import DONE, INFRASTRUCTURE, INTERRUPTED, USER
from pipeline.events import (
    PartCommitted,
    PartDiscarded,
    PartWritten,
    RowsScored,
    ScorerDied,
    ScorerReady,
    ShardFailed,
    ShardLent,
    ShardSetAside,
)

if TYPE_CHECKING:
    from jobs.executors import Executor
    from jobs.leases import LeaseTable
    from pipeline.events import Event
    from pipeline.parts import Part

_POLL_SECONDS = 0.25
"""Longest wait for events: signals and silent scorers are looked at that often."""


class Committer(Protocol):
    """What the loop needs of pipeline.manifest.RunFolder."""

    def commit(self, part: Part) -> object | None: ...
    def discard(self, part: Part) -> None: ...


@dataclass(slots=True)
class _Post:
    """What the driver knows of one scorer."""

    heard: float
    """Time of its latest event, or of its start."""
    alive: bool = True
    ready: bool = False
    given_up: bool = False
    deaths: int = 0
    """Since it last finished a shard."""

    @property
    def takes_leases(self) -> bool:
        """After a death a scorer must be ready first, so that shards are not blamed for it."""
        return self.alive and (self.ready or not self.deaths)


class Lending:
    """One run of the loop over scorers `0 .. scorers - 1`."""

    def __init__(
        self,
        executor: Executor,
        scorers: int,
        table: LeaseTable,
        folder: Committer,
        limits: Limits,
        tell: Callable[[Event], None],
        *,
        rejects: int = 0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._executor = executor
        self._table = table
        self._folder = folder
        self._limits = limits
        self._tell = tell
        self._rejects = rejects
        self._clock = clock
        self._posts = {number: _Post(clock()) for number in range(scorers)}
        self._streak = Streak()
        self._ending: Ending | None = None
        self.signal = 0
        """Set by a signal handler: the loop then ends before the next event."""

    def run(self) -> Ending:
        """Until everything is committed or set aside, or something stops the job."""
        self._check_budget()
        while self._ending is None and not self._table.finished:
            self._lend()
            for event in self._executor.events(_POLL_SECONDS):
                if self._ending is not None:
                    break
                self._handle(event)
            if self.signal:
                return Ending(INTERRUPTED + self.signal, "interrupted")
            self._end_silent()
            self._revive()
        return self._ending or self._finished()

    def _lend(self) -> None:
        """Fill every scorer in turn, so that the first round gives each one a shard."""
        living = [number for number, post in self._posts.items() if post.takes_leases]
        progress = True
        while progress:
            progress = False
            for number in living:
                lease = self._table.next_for(number, others=len(living) > 1)
                if lease is not None:
                    self._executor.lend(number, lease)
                    self._tell(ShardLent(number, lease))
                    progress = True

    def _handle(self, event: Event) -> None:
        post = self._posts.get(getattr(event, "scorer", -1))
        if post is None or not post.alive:
            return
        post.heard = self._clock()
        match event:
            case ScorerReady():
                post.ready = True
                self._tell(event)
            case RowsScored():
                self._tell(event)
            case PartWritten(scorer, part):
                self._take(scorer, part)
            case ShardFailed():
                self._fail(event)
            case ScorerDied():
                self._bury(event)

    def _take(self, scorer: int, part: Part) -> None:
        """Commit a part whose lease is still good, throw a late one away."""
        good = self._table.settle(scorer, part.shard, part.attempt)
        if not good:
            self._folder.discard(part)
        if not good or self._folder.commit(part) is None:
            self._tell(PartDiscarded(scorer, part.shard, part.attempt))
            return
        self._posts[scorer].deaths = 0
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

    def _fail(self, event: ShardFailed) -> None:
        index = event.lease.shard.index
        if not self._table.settle(event.scorer, index, event.lease.attempt):
            return
        self._tell(event)
        bad_input = event.kind in ("rows", "input")
        if bad_input and self._limits.stop_on_bad_input:
            advice = "do --on-error skip or null to go on without such rows"
            bad_row = event.kind == "rows"
            self._ending = Ending(USER, event.message + (f"; {advice}" if bad_row else ""))
        elif bad_input:
            self._table.withdraw(index, event.message)
            self._tell(ShardSetAside(index, event.message))
        elif (ending := self._streak.failed(event)) is not None:
            self._ending = ending
        elif not self._table.failed(event.scorer, index, event.message):
            if event.kind == "output":  # the disk, not the shard
                self._ending = Ending(INFRASTRUCTURE, event.message)
            else:
                self._tell(ShardSetAside(index, event.message))

    def _bury(self, death: ScorerDied) -> None:
        """Take back what a dead scorer held, and decide whether it may live again."""
        post = self._posts[death.scorer]
        before = set(self._table.set_aside)
        self._table.died(death.scorer, death.reason, blame=post.ready)
        post.alive = post.ready = False
        post.deaths += 1
        post.given_up = death.refused or post.deaths > self._limits.max_restarts
        self._tell(death)
        for index in sorted(set(self._table.set_aside) - before):
            self._tell(ShardSetAside(index, self._table.set_aside[index]))
        if all(p.given_up for p in self._posts.values()):
            self._ending = _given_up(death, post.deaths)

    def _end_silent(self) -> None:
        """Kill scorers that owe an event and have not sent one for too long."""
        now = self._clock()
        for number, post in self._posts.items():
            owes = not post.ready or bool(self._table.held(number))
            if post.alive and owes and now - post.heard > self._limits.stall_seconds:
                self._executor.kill(number)
                silent = f"said nothing for {self._limits.stall_seconds:g} s"
                self._bury(ScorerDied(number, silent))

    def _revive(self) -> None:
        for number, post in self._posts.items():
            if not post.alive and not post.given_up and self._table.waiting:
                self._executor.restart(number)
                post.alive, post.heard = True, self._clock()

    def _check_budget(self) -> None:
        self._ending = over_budget(self._rejects, self._limits) or self._ending

    def _finished(self) -> Ending:
        aside = self._table.set_aside
        return shards_set_aside(aside) if aside else Ending(DONE, "")


def _given_up(death: ScorerDied, starts: int) -> Ending:
    """No scorer is left; `death` is the latest."""
    if death.refused:
        return Ending(USER, death.reason)
    return Ending(
        INFRASTRUCTURE,
        f"every scorer was given up after {count(starts, 'start')} without a finished shard; "
        f"the latest: {death.reason}",
    )
