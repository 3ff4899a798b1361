"""History: what happened in a run and when, in a bounded amount of memory.

A job may have a million shards and run for days: rows a second are kept in BINS bins, which
double their width when time runs out of them, and of shards and troubles only the first or the
worst few.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappush, heappushpop
from time import monotonic

from jobs.troubles import Troubles
from pipeline.events import (
    Event,
    JobEnded,
    PartCommitted,
    PartDiscarded,
    RowsScored,
    ScorerDied,
    ScorerLeft,
    ScorerReady,
    ShardFailed,
)

BINS = 120
"""Points of a curve at most; once they are full, two become one."""

FIRST_BIN_SECONDS = 0.1

SLOWEST = 10
"""Shards that are told by name."""

TROUBLES = 50
"""Troubles that are told with their words; all are counted."""


@dataclass(frozen=True, slots=True)
class SlowShard:
    """A committed shard by its time on the run thread, waiting included."""

    seconds: float
    shard: int
    scorer: int
    rows: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that people were told of, `at` seconds after the start."""

    at: float
    text: str


@dataclass(slots=True)
class Bins:
    """Rows of each scorer over time. `seconds` is the width of a bin, the same for all."""

    seconds: float = FIRST_BIN_SECONDS
    rows: defaultdict[int, list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0] * BINS)
    )
    """Scorer -> rows of each bin."""

    def add(self, scorer: int, at: float, rows: int) -> None:
        """Counts rows that were done `at` seconds after the start."""
        while at >= self.seconds * BINS:
            self._halve()
        self.rows[scorer][int(at / self.seconds)] += rows

    def _halve(self) -> None:
        self.seconds *= 2
        for scorer, bins in self.rows.items():
            pairs = [a + b for a, b in zip(bins[::2], bins[1::2], strict=True)]
            self.rows[scorer] = pairs + [0] * (BINS // 2)


class History:
    """Told of every event of a run; the page is drawn from it."""

    def __init__(self) -> None:
        self.began = datetime.now(UTC)
        self.bins = Bins()
        self.troubles: list[Trouble] = []
        self.troubles_in_all = 0
        self.ready: dict[int, float] = {}
        """Scorer -> when it was first ready, in seconds from the start."""
        self.ended = 0.0
        """The same of the job's end."""
        self._start = monotonic()
        self._words = Troubles()
        self._slowest: list[tuple[float, int, SlowShard]] = []
        self._running: dict[tuple[int, int], int] = {}
        """(scorer, shard) -> rows of the lease that are in the bins."""

    def add(self, event: Event) -> None:
        at = monotonic() - self._start
        if text := self._words.line(event):
            self._trouble(at, text)
        match event:
            case ScorerReady(scorer):
                self.ready.setdefault(scorer, at)
            case RowsScored(scorer, shard, _, rows):
                self._count(scorer, shard, at, rows)
            case PartCommitted():
                self._commit(event, at)
            case ShardFailed(scorer, lease):
                self._running.pop((scorer, lease.shard.index), None)
            case PartDiscarded(scorer, shard):
                self._running.pop((scorer, shard), None)
            case ScorerDied(scorer) | ScorerLeft(scorer):
                for key in [key for key in self._running if key[0] == scorer]:
                    del self._running[key]
            case JobEnded():
                self.ended = at

    @property
    def slowest(self) -> list[SlowShard]:
        """The slowest shards, slowest first."""
        return [slow for _, _, slow in sorted(self._slowest, reverse=True)]

    def _count(self, scorer: int, shard: int, at: float, rows: int) -> None:
        """`rows` of a lease are done by now; those that were not yet counted go into a bin.

        Rows of a lease that is lost later stay in theirs: they were work of that time.
        """
        known = self._running.get((scorer, shard), 0)
        self._running[scorer, shard] = rows
        if rows > known:
            self.bins.add(scorer, at, rows - known)

    def _commit(self, event: PartCommitted, at: float) -> None:
        self._count(event.scorer, event.shard, at, event.rows_in)
        del self._running[event.scorer, event.shard]
        spent = event.seconds.run + event.seconds.wait
        slow = SlowShard(spent, event.shard, event.scorer, event.rows_in)
        keep = heappush if len(self._slowest) < SLOWEST else heappushpop
        keep(self._slowest, (spent, event.shard, slow))

    def _trouble(self, at: float, text: str) -> None:
        self.troubles_in_all += 1
        if len(self.troubles) < TROUBLES:
            self.troubles.append(Trouble(at, text))
