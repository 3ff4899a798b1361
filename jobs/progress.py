"""Progress: the driver's events as a bar, as log lines, as JSON lines, or as nothing.

People's progress goes to stderr, machines' to stdout. Rows are known from the footers, so the
percentage is true and the remaining time an honest one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TextIO

from jobs.bar import Bar
from jobs.streams import stdout
from jobs.tally import Tally
from jobs.troubles import Troubles
from pipeline.events import Event, JobStarted, PartCommitted, RowsScored
from pipeline.wire import to_plain

if TYPE_CHECKING:
    from jobs.tally import Summary

LOG_SECONDS = 10.0
"""At most so long between two log lines of a job that moves."""

LOG_SHARE = 0.1
"""A log line at every tenth, too."""


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
    """--progress json: one event a line on stdout, rows of every batch included.

    Events that move the job carry how far it is under "progress".
    """

    def show(self, event: Event, tally: Tally) -> None:
        said = {"event": type(event).__name__, **to_plain(event)}
        if isinstance(event, JobStarted | RowsScored | PartCommitted):
            said["progress"] = tally.progress
        # in one piece: print writes the end of a line on its own, and other threads print, too
        stream = stdout()
        stream.write(json.dumps(said) + "\n")
        stream.flush()

    def close(self) -> None:
        pass


class Log:
    """--progress log: a line every ten seconds or ten percent, and one for each trouble."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._troubles = Troubles()
        self._next_share = 0.0
        self._next_time = 0.0

    def show(self, event: Event, tally: Tally) -> None:
        trouble = self._troubles.line(event)
        if trouble:
            self._print(trouble)
        elif isinstance(event, JobStarted) and tally.uncompiled:
            self._print(", ".join(tally.beginning))
        elif not isinstance(event, JobStarted) and self._due(tally):
            self._print(str(tally))

    def close(self) -> None:
        pass

    def _due(self, tally: Tally) -> bool:
        now = monotonic()
        self._next_time = self._next_time or now + LOG_SECONDS
        self._next_share = self._next_share or tally.share // LOG_SHARE * LOG_SHARE + LOG_SHARE
        if tally.share >= 1 and tally.committed_shards < tally.shards and now < self._next_time:
            return False  # the last tenth is told when all of it is committed, too
        # 0.3 // 0.1 is 2: shares are compared with a little room.
        if tally.share < self._next_share - 1e-9 and now < self._next_time:
            return False
        self._next_time = now + LOG_SECONDS
        self._next_share = (tally.share + 1e-9) // LOG_SHARE * LOG_SHARE + LOG_SHARE
        return True

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


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


def print_summary(summary: Summary) -> None:
    """The table at the end of a job, on stdout; plain text where that is not a terminal."""
    if not stdout().isatty():
        width = max(len(label) for label, _ in summary.figures)
        for label, value in summary.figures:
            print(f"{label:<{width}}  {value}", file=stdout())
        return
    from rich.console import Console  # rich: only where it is seen
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in summary.figures:
        table.add_row(label, Text(value))
    Console(file=stdout()).print(table)
