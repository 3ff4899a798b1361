"""The driver's loop: lend shards, collect events, commit parts, and see that it ends.

The loop owns no process and no file: executors start scorers, the run folder publishes parts.
It ends in one of five ways: everything committed; some shards set aside; a row, a budget or a
damaged file that stops the job; every scorer given up or gone; a signal. It cannot wait for
ever: a scorer that says nothing is killed, one that keeps dying is given up, and where all
machines left, others are waited for as long as for a silent scorer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from jobs.endings import Ending, Limits, count, shards_set_aside
from jobs.errors import DONE, INFRASTRUCTURE, INTERRUPTED, USER
from jobs.results import Committer, Results
from jobs.roster import Roster
from pipeline.errors import PipelineError
from pipeline.events import (
    MachineRefused,
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
        self._limits = limits
        self._tell = tell
        self._admit = admit
        self._results = Results(table, folder, limits, tell, rejects=rejects)
        self._clock = clock
        self._roster = Roster(scorers, clock)
        self._unstaffed: Ending | None = None
        """Set when nobody is left to work."""
        self.signal = 0
        """Set by a signal handler: the loop then ends before the next event."""

    def run(self) -> Ending:
        """Until everything is committed or set aside, or something stops the job."""
        while self._stopped is None and not self._table.finished:
            began = self._clock()
            self._welcome()
            self._lend()
            for event in self._executor.events(_POLL_SECONDS):
                if self._stopped is not None:
                    break
                self._handle(event)
            if self.signal:
                return Ending(INTERRUPTED + self.signal, "interrupted")
            # A slow disk, or a driver that was stopped: what scorers said meanwhile was not heard.
            self._roster.excuse(self._clock() - began - _POLL_SECONDS)
            self._end_silent()
            self._see_off()
            self._revive()
        return self._stopped or self._finished()

    @property
    def _stopped(self) -> Ending | None:
        """What ends the job before its last shard."""
        return self._results.ending or self._unstaffed

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
            if self._table.held(number):
                continue
            if not self._pass_on(number, self._table.twin_for(number, leaving)):
                break  # nothing is overdue: not for the others, either

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
                self._results.fail(event)
            case ScorerDraining():
                self._roster.drain(scorer)
                self._tell(event)
            case ScorerDied():
                self._bury(event)
            case ScorerLeft():
                self._part_from(event)

    def _take(self, scorer: int, part: Part) -> None:
        if self._results.take(scorer, part):
            self._roster.succeeded(scorer)

    def _bury(self, death: ScorerDied) -> None:
        """Take back what a dead scorer held, and decide whether it may live again."""
        blame = self._roster.may_blame_shards(death.scorer)
        starts = self._roster.bury(
            death.scorer, most_deaths=0 if death.refused else self._limits.max_restarts
        )
        self._tell(death)
        self._take_back(death.scorer, death.reason, blame=blame)
        if self._roster.given_up:
            self._unstaffed = _given_up(death, starts)

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
            self._unstaffed = self._unstaffed or _deserted(self._limits.stall_seconds)

    def _revive(self) -> None:
        dead = self._roster.returning
        if dead and self._table.wants_more(self._roster.draining):
            for number in dead:
                self._executor.restart(number)
                self._roster.join(number)

    def _recall(self) -> None:
        """End scorers whose lease a twin has closed: the folder is about to be swept."""
        void = {number: self._table.held(number) for number in self._roster.alive}
        self._executor.kill(*(number for number, leases in void.items() if leases))
        for number, leases in void.items():
            for lease in leases:
                self._tell(PartDiscarded(number, lease.shard.index, lease.attempt))

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
