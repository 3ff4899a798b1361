"""The driver's loop: lend shards, collect events, commit parts, and see that it ends.

The loop owns no process and no file: executors start scorers, the run folder publishes parts.
It ends in one of five ways: everything committed; some shards set aside; a row, a budget or a
damaged file that stops the job; every scorer given up or gone; a signal. It cannot wait for
ever: a scorer that says nothing is killed, one that keeps dying is given up, and where all
machines left, others are waited for as long as for a silent scorer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from jobs.endings import Ending, Limits, Streak, count, over_budget, shards_set_aside
from jobs.errors import DONE, INFRASTRUCTURE, INTERRUPTED, USER
from jobs.roster import Roster
from pipeline.errors import PipelineError
from pipeline.events import (
    MachineRefused,
    PartCommitted,
    PartDiscarded,
    PartWritten,
    RowsScored,
    ScorerDied,
    ScorerDraining,
    ScorerJoined,
    ScorerLeft,
    ScorerReady,
    ShardFailed,
    ShardLent,
    ShardSetAside,
)

if TYPE_CHECKING:
    from jobs.executors import Executor, Seat
    from jobs.leases import LeaseTable
    from pipeline.events import Event
    from pipeline.parts import Part
    from pipeline.scorer_spec import ScorerSpec
    from pipeline.shards import Lease

_POLL_SECONDS = 0.25
"""Longest wait for events: signals and silent scorers are looked at that often."""


class Admit(Protocol):
    """Makes the specs of scorers for seats on a machine that came; PipelineError if they do not
    fit there.
    """

    def __call__(self, seats: tuple[Seat, ...]) -> tuple[ScorerSpec, ...]: ...


class Committer(Protocol):
    """What the loop needs of pipeline.manifest.RunFolder."""

    def commit_all(self, parts: Sequence[Part]) -> Sequence[object | None]: ...
    def discard(self, part: Part) -> None: ...


class Lending:
    """One run of the loop over the scorers that the executor has, and those that join it."""

    def __init__(
        self,
        executor: Executor,
        scorers: Iterable[int],
        table: LeaseTable,
        folder: Committer,
        limits: Limits,
        tell: Callable[[Event], None],
        *,
        admit: Admit,
        rejects: int = 0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._executor = executor
        self._table = table
        self._folder = folder
        self._limits = limits
        self._tell = tell
        self._admit = admit
        self._rejects = rejects
        self._roster = Roster(scorers, clock)
        self._streak = Streak()
        self._ending: Ending | None = None
        self._written: list[tuple[int, Part]] = []
        """Scorers and their parts of this turn; they are committed together."""
        self.signal = 0
        """Set by a signal handler: the loop then ends before the next event."""

    def run(self) -> Ending:
        """Until everything is committed or set aside, or something stops the job."""
        self._check_budget()
        while self._ending is None and not self._table.finished:
            self._welcome()
            self._lend()
            for event in self._executor.events(_POLL_SECONDS):
                if self._ending is not None:
                    break
                self._handle(event)
            self._commit()
            if self.signal:
                return Ending(INTERRUPTED + self.signal, "interrupted")
            self._end_silent()
            self._see_off()
            self._revive()
        return self._ending or self._finished()

    def _welcome(self) -> None:
        """Start scorers on machines that came, where they fit."""
        for machine, seats in groupby(self._executor.arrivals(), key=lambda seat: seat.machine):
            try:
                specs = self._admit(tuple(seats))
            except PipelineError as error:
                self._tell(MachineRefused(machine, str(error)))
                continue
            self._executor.start(specs)
            for spec in specs:
                self._roster.join(spec.scorer)
                self._tell(ScorerJoined(spec.scorer, machine))

    def _lend(self) -> None:
        """Fill every scorer in turn, so that the first round gives each one a shard; then lend
        twins of what is overdue to those that nothing is left for.
        """
        takers, leaving = self._roster.takers, self._roster.draining
        hungry = takers
        while hungry:
            hungry = [
                number
                for number in hungry
                if self._pass_on(number, self._table.next_for(number, others=len(takers) > 1))
            ]
        for number in takers:
            self._pass_on(number, self._table.twin_for(number, leaving))

    def _pass_on(self, number: int, lease: Lease | None) -> bool:
        if lease is None:
            return False
        self._executor.lend(number, lease)
        self._tell(ShardLent(number, lease))
        return True

    def _handle(self, event: Event) -> None:
        if isinstance(event, MachineRefused):
            self._tell(event)
            return
        scorer = getattr(event, "scorer", -1)
        if not self._roster.hear(scorer):
            return
        match event:
            case ScorerReady():
                self._roster.ready(scorer)
                self._tell(event)
            case RowsScored(_, shard, attempt):
                if self._table.live(scorer, shard, attempt):
                    self._tell(event)
            case PartWritten(_, part):
                self._take(scorer, part)
            case ShardFailed():
                self._fail(event)
            case ScorerDraining():
                self._roster.drain(scorer)
                self._tell(event)
            case ScorerDied():
                self._bury(event)
            case ScorerLeft():
                self._part_from(event)

    def _take(self, scorer: int, part: Part) -> None:
        """Keep a part whose lease is still good, throw a late one away."""
        if self._table.settle(scorer, part.shard, part.attempt):
            self._table.done(part.shard)
            self._roster.succeeded(scorer)
            self._streak.succeeded()
            self._written.append((scorer, part))
        else:
            self._folder.discard(part)
            self._tell(PartDiscarded(scorer, part.shard, part.attempt))

    def _commit(self) -> None:
        """Publish the parts of this turn."""
        written, self._written = self._written, []
        entries = self._folder.commit_all([part for _, part in written]) if written else ()
        for (scorer, part), entry in zip(written, entries, strict=True):
            if entry is None:
                self._tell(PartDiscarded(scorer, part.shard, part.attempt))
            else:
                self._tell_committed(scorer, part)
        self._check_budget()

    def _tell_committed(self, scorer: int, part: Part) -> None:
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
        blame = self._roster.is_ready(death.scorer)
        starts = self._roster.bury(
            death.scorer, most_deaths=0 if death.refused else self._limits.max_restarts
        )
        self._tell(death)
        self._take_back(death.scorer, death.reason, blame=blame)
        if self._roster.given_up:
            self._ending = _given_up(death, starts)

    def _part_from(self, event: ScorerLeft) -> None:
        """Take back what a scorer held that went with its machine: nobody is to blame."""
        self._roster.leave(event.scorer)
        self._tell(event)
        self._take_back(event.scorer, event.reason, blame=False)

    def _take_back(self, scorer: int, reason: str, *, blame: bool) -> None:
        for index in self._table.died(scorer, reason, blame=blame):
            self._tell(ShardSetAside(index, reason))

    def _end_silent(self) -> None:
        """Kill scorers that owe an event and have not sent one for too long."""
        seconds = self._limits.stall_seconds
        for number in self._roster.silent(seconds, lambda n: bool(self._table.held(n))):
            self._executor.kill(number)
            self._bury(ScorerDied(number, f"said nothing for {seconds:g} s"))

    def _see_off(self) -> None:
        """Let scorers go whose machine wants to go and that have ended what they held; end the
        job when all have gone and none has come.
        """
        for number in self._roster.draining:
            if not self._table.held(number):
                self._executor.kill(number)
                self._part_from(ScorerLeft(number, "drained"))
        if self._roster.deserted(self._limits.stall_seconds):
            self._ending = self._ending or _deserted(self._limits.stall_seconds)

    def _revive(self) -> None:
        for number in self._roster.returning if self._table.waiting else ():
            self._executor.restart(number)
            self._roster.join(number)

    def _recall(self) -> None:
        """End scorers whose lease a twin has closed: the folder is about to be swept."""
        for number in self._roster.alive:
            void = self._table.held(number)
            if void:
                self._executor.kill(number)
            for lease in void:
                self._tell(PartDiscarded(number, lease.shard.index, lease.attempt))

    def _check_budget(self) -> None:
        self._ending = over_budget(self._rejects, self._limits) or self._ending

    def _finished(self) -> Ending:
        self._recall()
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


def _deserted(seconds: float) -> Ending:
    return Ending(
        INFRASTRUCTURE,
        f"every machine left, and none joined for {seconds:g} s; run again when there are some",
    )
