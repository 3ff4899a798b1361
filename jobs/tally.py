"""Tally: what the events of a job add up to. Progress displays and the summary read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from jobs.endings import count
from numa.notation import size
from pipeline.events import (
    Event,
    JobStarted,
    PartCommitted,
    RowsScored,
    ScorerDied,
    ScorerJoined,
    ScorerLeft,
    ScorerReady,
    ShardFailed,
    ShardLent,
    ShardSetAside,
)
from pipeline.parts import Seconds


@dataclass(slots=True)
class Share:
    """What one scorer did in this run, all its lives together."""

    rows: int = 0
    """Of its committed parts, as are shards, nbytes and seconds."""
    shards: int = 0
    nbytes: int = 0
    seconds: Seconds = Seconds()  # noqa: RUF009 - it is frozen
    retries: int = 0
    """Leases of shards that had been lent before."""
    failures: int = 0
    deaths: int = 0


@dataclass(slots=True)
class Tally:
    """Counts, kept up to date by `add`."""

    shards: int = 0
    rows: int = 0
    engines: int = 0
    uncompiled: int = 0
    """Kernels to compile before the first scorer is ready."""
    committed_shards: int = 0
    committed_rows: int = 0
    earlier_rows: int = 0
    """Of the committed, rows of an earlier run of the same job."""
    rejects: int = 0
    """Of this run alone."""
    nbytes: int = 0
    """Of the parts that this run committed."""
    deaths: int = 0
    set_aside: int = 0
    started: float = field(default_factory=monotonic)
    """Time at which the first scorer was ready, so that rates do not count the start."""
    in_flight: dict[tuple[int, int], int] = field(default_factory=dict)
    """(scorer, shard) -> rows scored and not yet committed."""
    shares: defaultdict[int, Share] = field(default_factory=lambda: defaultdict(Share))
    """Scorer -> its share of the work."""
    reports: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Scorer -> what it said of itself when it was ready."""

    def add(self, event: Event) -> None:
        match event:
            case JobStarted():
                self.shards, self.rows, self.engines = event.shards, event.rows, event.engines
                self.uncompiled, self.committed_shards = event.uncompiled, event.committed_shards
                self.committed_rows = self.earlier_rows = event.committed_rows
                self.started = monotonic()
            case ScorerReady():
                if not self.reports:
                    self.started = monotonic()
                self.reports[event.scorer] = event.report
            case RowsScored():
                self.in_flight[event.scorer, event.shard] = event.rows
            case PartCommitted():
                self._commit(event)
            case ShardLent(scorer, lease):
                self.shares[scorer].retries += lease.attempt > 0
            case ShardFailed():
                self.shares[event.scorer].failures += 1
                self.in_flight.pop((event.scorer, event.lease.shard.index), None)
            case ScorerDied():
                self.deaths += 1
                self.shares[event.scorer].deaths += 1
                self._forget(lambda scorer, shard: scorer == event.scorer)
            case ScorerJoined():
                self.engines += 1
            case ScorerLeft():
                self.engines -= 1
                self._forget(lambda scorer, shard: scorer == event.scorer)
            case ShardSetAside():
                self.set_aside += 1
            case _:
                pass

    @property
    def rows_done(self) -> int:
        """Committed rows and those that scorers have finished but not handed over; of a shard
        that two of them have, those of the faster one.
        """
        best: dict[int, int] = {}
        for (_, shard), rows in self.in_flight.items():
            best[shard] = max(rows, best.get(shard, 0))
        return min(self.rows, self.committed_rows + sum(best.values()))

    @property
    def share(self) -> float:
        """Of all rows, 0 to 1; a job without rows is measured in shards."""
        if self.rows:
            return self.rows_done / self.rows
        return self.committed_shards / self.shards if self.shards else 1.0

    @property
    def rate(self) -> float:
        """Rows a second since the first scorer was ready."""
        return (self.rows_done - self.earlier_rows) / max(monotonic() - self.started, 1e-3)

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before the first row."""
        rate = self.rate
        return (self.rows - self.rows_done) / rate if rate > 0 else None

    @property
    def progress(self) -> dict[str, float | None]:
        """How far the job is, for machines; `share` is 0 to 1, `seconds_left` null at first."""
        return {
            "rows_done": self.rows_done,
            "rows": self.rows,
            "share": round(self.share, 6),
            "rows_per_second": round(self.rate, 1),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
        }

    @property
    def beginning(self) -> tuple[str, ...]:
        """What is waited for before the first scorer is ready."""
        compiling = f"compiling {count(self.uncompiled, 'kernel')} (once on a machine)"
        return f"starting {count(self.engines, 'scorer')}", *([compiling] * bool(self.uncompiled))

    def __str__(self) -> str:
        """One line, as logged."""
        text = (
            f"{self.share:4.0%}  {self.rows_done:,} of {self.rows:,} rows, "
            f"{self.committed_shards} of {self.shards} shards, {self.rate:,.0f} rows/s"
        )
        if self.seconds_left is not None:
            text += f", {clock(self.seconds_left)} left"
        for number, word in ((self.rejects, "rejected"), (self.set_aside, "set aside")):
            if number:
                text += f", {number} {word}"
        return text

    def _commit(self, event: PartCommitted) -> None:
        self._forget(lambda scorer, shard: shard == event.shard)
        self.committed_shards += 1
        self.committed_rows += event.rows_in
        self.rejects += event.rejects
        self.nbytes += event.nbytes
        share = self.shares[event.scorer]
        share.rows += event.rows_in
        share.shards += 1
        share.nbytes += event.nbytes
        share.seconds += event.seconds

    def _forget(self, lost: Callable[[int, int], bool]) -> None:
        """Take rows out of flight: `lost(scorer, shard)` says whose."""
        for key in [key for key in self.in_flight if lost(*key)]:
            del self.in_flight[key]


@dataclass(frozen=True, slots=True)
class Summary:
    """How a job ended; printed as a table, or as JSON."""

    exit_code: int
    message: str
    over_budget: bool
    """More rejects than --max-errors tolerates."""
    output: str
    rows_in: int
    """Committed, those of earlier runs included."""
    rows_out: int
    rejects: int
    parts: int
    seconds: float
    """From the start of the command."""
    rows_per_second: float
    """Rows of this run over `seconds`."""
    nbytes: int
    """Of the parts of this run."""
    scorers: Mapping[int, str]
    """Where each scorer really was, with the rows it scored."""
    filtered: int = 0
    """Rows that --where leaves out; they are of rows_in, too."""
    report: str = ""
    """Path of the page, or why there is none; "" if none was wanted."""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def figures(self) -> tuple[tuple[str, str], ...]:
        """Label and value of each line of the table."""
        rows = f"{self.rows_in:,} in, {self.rows_out:,} out"
        rows += f", {self.filtered:,} left out" if self.filtered else ""
        lines = [
            ("rows", rows + (f", {self.rejects:,} rejected" if self.rejects else "")),
            ("parts", f"{self.parts:,}, {size(self.nbytes)} written by this run"),
            ("time", f"{self.seconds:.1f} s, {self.rows_per_second:,.0f} rows/s in all"),
            ("output", self.output),
        ]
        if self.report:
            lines.append(("report", self.report))
        return (*lines, *((f"scorer {n}", text) for n, text in sorted(self.scorers.items())))


def clock(seconds: float) -> str:
    """4:07 or 1:04:07."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
