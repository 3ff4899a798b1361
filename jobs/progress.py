"""Progress: the driver's events as a bar, as log lines, as JSON lines, or as nothing.

People's progress goes to stderr, machines' to stdout. Rows are known from the footers, so the
percentage is true and the remaining time an honest one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TextIO

from jobs.tally import Tally
from pipeline.events import (
    Event,
    JobStarted,
    ScorerDied,
    ShardFailed,
    ShardSetAside,
    to_json,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from jobs.tally import Summary

LOG_SECONDS = 10.0
"""At most so long between two log lines of a job that moves."""

LOG_SHARE = 0.1
"""A log line at every tenth, too."""

BAR_SECONDS = 0.1
"""Between two redraws of the bar."""


class Progress(Protocol):
    """Told of every event after the tally has counted it."""

    def show(self, event: Event, tally: Tally) -> None: ...
    def close(self) -> None: ...


class Silent:
    """--progress none."""

    def show(self, event: Event, tally: Tally) -> None:
        pass

    def close(self) -> None:
        pass


class JsonLines:
    """--progress json: one event a line on stdout, rows of every batch included."""

    def show(self, event: Event, tally: Tally) -> None:
        print(to_json(event), flush=True)

    def close(self) -> None:
        pass


class Log:
    """--progress log: a line every ten seconds or ten percent, and one for each trouble."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._next_share = 0.0
        self._next_time = 0.0

    def show(self, event: Event, tally: Tally) -> None:
        trouble = describe(event)
        if trouble:
            self._print(trouble)
        elif not isinstance(event, JobStarted) and self._due(tally):
            self._print(str(tally))

    def close(self) -> None:
        pass

    def _due(self, tally: Tally) -> bool:
        now = monotonic()
        self._next_time = self._next_time or now + LOG_SECONDS
        self._next_share = self._next_share or tally.share // LOG_SHARE * LOG_SHARE + LOG_SHARE
        # 0.3 // 0.1 is 2: shares are compared with a little room.
        if tally.share < self._next_share - 1e-9 and now < self._next_time:
            return False
        self._next_time = now + LOG_SECONDS
        self._next_share = (tally.share + 1e-9) // LOG_SHARE * LOG_SHARE + LOG_SHARE
        return True

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Bar:
    """--progress bar: rows, shards, rate, time left; troubles scroll by above it."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console  # rich: only where a bar is drawn

        self._console = console or Console(stderr=True)
        self._progress: RichProgress | None = None
        self._task: TaskID | None = None
        self._drawn = 0.0

    def show(self, event: Event, tally: Tally) -> None:
        if self._progress is None or self._task is None:
            if isinstance(event, JobStarted):
                self._open(tally)
            return
        trouble = describe(event)
        if trouble:
            self._console.print(trouble, style="yellow", markup=False, highlight=False)
        now = monotonic()
        if now - self._drawn < BAR_SECONDS and tally.share < 1:
            return
        self._drawn = now
        self._progress.update(
            self._task, completed=tally.share, shards=_shards(tally), rate=f"{tally.rate:,.0f}",
            rows=f"{tally.rows_done:,}/{tally.rows:,}",
        )  # fmt: skip

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _open(self, tally: Tally) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]} rows"),
            TextColumn("[dim]{task.fields[shards]}"),
            TextColumn("[bold]{task.fields[rate]}[/] rows/s"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
        )
        self._task = self._progress.add_task(
            "", total=1.0, rate="-", shards=_shards(tally),
            rows=f"{tally.rows_done:,}/{tally.rows:,}",
        )  # fmt: skip
        self._progress.update(self._task, completed=tally.share)
        self._progress.start()


PROGRESS: dict[str, Callable[[], Progress]] = {
    "bar": Bar,
    "log": Log,
    "json": JsonLines,
    "none": Silent,
}


def make(name: str) -> Progress:
    """The display of a --progress option; `auto` is a bar where stderr is a terminal."""
    if name == "auto":
        name = "bar" if sys.stderr.isatty() else "log"
    return PROGRESS[name]()


def describe(event: Event) -> str:
    """A line for an event that people must see, "" for the others."""
    match event:
        case ScorerDied():
            return f"scorer {event.scorer} died: {event.reason}"
        case ShardFailed():
            return f"{event.lease.shard} failed on scorer {event.scorer}: {event.message}"
        case ShardSetAside():
            return f"shard {event.shard} set aside: {event.reason}"
    return ""


def print_summary(summary: Summary) -> None:
    """The table at the end of a job, on stdout; plain text where that is not a terminal."""
    if not sys.stdout.isatty():
        width = max(len(label) for label, _ in summary.figures)
        for label, value in summary.figures:
            print(f"{label:<{width}}  {value}")
        return
    from rich.console import Console  # rich: only where it is seen
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in summary.figures:
        table.add_row(label, Text(value))
    Console().print(table)


def _shards(tally: Tally) -> str:
    if not tally.reports:  # the first start on a machine compiles kernels, for many seconds
        return f"starting {tally.engines} scorers"
    return f"{tally.committed_shards}/{tally.shards} shards, {tally.engines} scorers"
