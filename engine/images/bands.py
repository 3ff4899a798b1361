"""What one visit of a value touches: its band of rows, the halo in front of it, and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.images.layout import Layout
from engine.images.schedule import Task, Visit
from engine.ops.image_work import Read


@dataclass(frozen=True, slots=True)
class Band:
    """How a value is made: so many rows at once, from so many of others."""

    value: str
    height: int
    width: int
    """Of the whole picture, in pixels."""
    rows: int
    """Of a visit, the last of the picture aside."""
    halo: int
    """Rows of an input that one visit reads and the next one again: k - 1 of a window of k rows and
    stride 1. Rings keep them, so that nothing is computed twice."""
    visits: int
    """Of a group of images."""
    rows_nbytes: int
    """What a visit reads and writes of values."""
    weights_nbytes: int
    """What a visit reads of weights."""

    @property
    def nbytes(self) -> int:
        """What a visit touches."""
        return self.rows_nbytes + self.weights_nbytes

    def __str__(self) -> str:
        halo = f", halo {self.halo}" if self.halo else ""
        return f"band {self.rows} of {self.height}{halo}"


def bands_of(
    tasks: Sequence[Task],
    visits: Sequence[Visit],
    layouts: Mapping[str, Layout],
    weights_nbytes: Sequence[int],
) -> tuple[Band, ...]:
    """Of each task that writes, in their order."""
    found = []
    for index, task in enumerate(tasks):
        if task.write:
            mine = [v for v in visits if v.task == index and v.row < task.plane.height]
            rows = max(v.rows for v in mine)
            read = sum(_rows(r, 0, rows) * layouts[r.value].slot_nbytes for r in task.reads)
            over = layouts[task.write].ring.home != task.write
            written = 0 if over else rows * layouts[task.write].slot_nbytes
            found.append(
                Band(
                    value=task.write,
                    height=task.plane.height,
                    width=task.plane.width,
                    rows=rows,
                    halo=max((_shared(r, rows, task.plane.height) for r in task.reads), default=0),
                    visits=len(mine),
                    rows_nbytes=read + written,
                    weights_nbytes=weights_nbytes[index],
                )
            )
    return tuple(found)


def _rows(read: Read, first: int, end: int) -> int:
    """Rows of the value, padding aside, that rows first..end-1 of the result need."""
    low, high = read.span(first, end)
    return max(0, min(high, read.plane.height - 1) - max(low, 0) + 1)


def _shared(read: Read, rows: int, height: int) -> int:
    """Rows that the first visit reads and the second one again; none where there is one visit."""
    if rows >= height:
        return 0
    end = read.span(0, rows)[1]
    begin = read.span(rows, min(2 * rows, height))[0]
    return max(0, end - max(begin, 0) + 1)
