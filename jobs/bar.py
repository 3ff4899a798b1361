"""--progress bar: rows, shards, rate, time left on one line; troubles scroll by above it."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from jobs.endings import count
from jobs.tally import Tally, clock
from jobs.troubles import Troubles
from pipeline.events import Event, JobStarted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

BAR_SECONDS = 0.1
"""Between two redraws of the bar."""

_BAR_CELLS = 28
"""Width of the bar proper where there is room."""

_LEAST_BAR_CELLS = 8

_MARGIN = 3
"""Cells left free: `^C`, which a terminal echoes at the end of the line, must not wrap it."""


class Bar:
    """A line of the terminal, redrawn."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or _console()
        self._progress: RichProgress | None = None
        self._task: TaskID | None = None
        self._troubles = Troubles()
        self._drawn = 0.0

    def show(self, event: Event, tally: Tally) -> None:
        if self._progress is None or self._task is None:
            if isinstance(event, JobStarted):
                self._open(tally)
            return
        trouble = self._troubles.line(event)
        if trouble:
            self._console.print(trouble, style="yellow", markup=False, highlight=False)
        now = monotonic()
        if now - self._drawn < BAR_SECONDS and tally.share < 1:
            return
        self._drawn = now
        self._progress.update(
            self._task, completed=tally.share, text=self._text(tally), refresh=True
        )

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _open(self, tally: Tally) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            BarColumn(bar_width=self._bar_cells),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}", markup=False),
            console=self._console,
            auto_refresh=False,  # a thread of its own would meet a closed terminal unguarded
        )
        self._task = self._progress.add_task("", total=1.0, text=self._text(tally))
        self._progress.update(self._task, completed=tally.share)
        self._progress.start()

    @property
    def _bar_cells(self) -> int:
        return max(_LEAST_BAR_CELLS, min(_BAR_CELLS, self._console.width // 4))

    def _text(self, tally: Tally) -> str:
        """What stands behind the bar: the most important first, as much as there is room for."""
        room = self._console.width - _MARGIN - self._bar_cells - len(" 100% ")
        text = ""
        for piece in _pieces(tally):
            longer = f"{text}, {piece}" if text else piece
            if len(longer) > room:
                break
            text = longer
        return text


def _console() -> Console:
    """stderr, where a closed pipe is an error like any other; rich would end the process."""
    from rich.console import Console  # rich: only where a bar is drawn

    class Stderr(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Stderr(stderr=True)


def _pieces(tally: Tally) -> list[str]:
    rows = f"{tally.rows_done:,}/{tally.rows:,} rows"
    if not tally.reports:
        return [*tally.beginning, rows]
    left = [] if tally.seconds_left is None else [f"{clock(tally.seconds_left)} left"]
    return [
        *([f"{tally.set_aside} set aside"] if tally.set_aside else []),
        f"{tally.committed_shards}/{tally.shards} shards",
        f"{tally.rate:,.0f} rows/s",
        *left,
        rows,
        *([f"{tally.rejects:,} rejected"] if tally.rejects else []),
        count(tally.engines, "scorer"),
    ]
