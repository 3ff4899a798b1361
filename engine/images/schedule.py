"""In which order rows are computed, and how many of each value must be kept: all before a row runs.

Depth first: whoever wants rows of a value first wants what those rows need, and so on up to the
input; then come the next rows. So a value lives as a ring of a few rows, however large the image:

    input      rows 0 1 2 3        ... 4 5       ... 6 7
    conv 3x3   row    0 1 2            3 4           5 6
    conv 3x3   row      0 1              2 3           4 5
    (time goes right; each visit is one call of a kernel, on the rows of one band)

A value that is kept *whole* is finished before its first reader begins: there a column stops, and
with all values whole this is layer after layer. Everything here is integers, so that a plan can
be simulated and priced in milliseconds; the tape (tape.py) is made of the cheapest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.ops.image_work import Plane, Read

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """What makes the rows of one value, or hands them on."""

    write: str
    """Empty for what only reads: an export."""
    plane: Plane
    """What it makes in all."""
    band: int
    """Rows of a visit, at most."""
    reads: tuple[Read, ...]


@dataclass(frozen=True, slots=True)
class Visit:
    """Some rows of one task; the padding below its value where they begin behind its last."""

    task: int
    row: int
    rows: int


@dataclass(frozen=True, slots=True)
class Ring:
    """How many rows of a value are kept, and for how long."""

    value: str
    slots: int
    """Row y lies in slot (y + top) mod slots."""
    top: int
    """Rows of padding above the first."""
    bottom: int
    left: int
    right: int
    """Pixels of padding beside each row; all padding is zeros."""
    first: int
    """Visit that writes it first."""
    end: int
    """Visit that touches it last."""


def visits_of(tasks: Sequence[Task], whole: frozenset[str]) -> list[Visit]:
    """Every row of every task once, depth first for the tasks that write nothing."""
    makers = {t.write: i for i, t in enumerate(tasks) if t.write}
    below = [_below(t.write, tasks) for t in tasks]
    done = [0] * len(tasks)
    visits: list[Visit] = []
    for sink in (i for i, t in enumerate(tasks) if not t.write):
        wanted = [(sink, tasks[sink].plane.height)]
        while wanted:
            index, until = wanted[-1]
            task = tasks[index]
            height = task.plane.height
            until = max(until, height) if task.write in whole else until
            if done[index] >= until:
                wanted.pop()
                continue
            if done[index] >= height:
                visits.append(Visit(index, height, below[index]))
                done[index] = height + below[index]
                continue
            end = min(height, done[index] + task.band)
            missing = _missing(task, (done[index], end), makers, done)
            if missing:
                wanted.append(missing)
                continue
            visits.append(Visit(index, done[index], end - done[index]))
            done[index] = end
    return visits


def _missing(
    task: Task, rows: tuple[int, int], makers: dict[str, int], done: Sequence[int]
) -> tuple[int, int] | None:
    """A task that must come first, and until which row; for rows of `task` from one to another."""
    for read in task.reads:
        until = read.span(*rows)[1] + 1
        if not read.padded:
            until = min(read.plane.height, until)
        if done[makers[read.value]] < until:
            return makers[read.value], until
    return None


def rings_of(tasks: Sequence[Task], visits: Sequence[Visit]) -> dict[str, Ring]:
    """A ring for each value, as small as the order of visits allows."""
    return {
        task.write: _ring(task, index, tasks, visits)
        for index, task in enumerate(tasks)
        if task.write
    }


def readers_of(value: str, tasks: Sequence[Task]) -> list[tuple[int, Read]]:
    return [(i, r) for i, t in enumerate(tasks) for r in t.reads if r.value == value]


def _ring(task: Task, index: int, tasks: Sequence[Task], visits: Sequence[Visit]) -> Ring:
    readers = readers_of(task.write, tasks)
    padded = [(tasks[i].plane, r) for i, r in readers if r.padded]
    top = max((r.rows.before for _, r in padded), default=0)
    bottom = _below(task.write, tasks)
    rows = task.plane.height + top + bottom
    last = np.full(rows, -1)
    writes: list[tuple[int, int, int]] = []
    for time, visit in enumerate(visits):
        if visit.task == index:
            low = 0 if visit.row == 0 else visit.row + top
            writes.append((time, low, visit.row + visit.rows + top))
        for i, read in readers:
            if i == visit.task:
                a, b = read.span(visit.row, visit.row + visit.rows)
                last[max(0, a + top) : max(0, b + top + 1)] = time
    return Ring(
        value=task.write,
        slots=_slots(writes, last),
        top=top,
        bottom=bottom,
        left=max((r.pixels.before for _, r in padded), default=0),
        right=max((r.pixels.after(made.width, r.plane.width) for made, r in padded), default=0),
        first=writes[0][0],
        end=max(writes[-1][0], int(last.max())),
    )


def _below(value: str, tasks: Sequence[Task]) -> int:
    """Rows of padding that its readers want behind the last."""
    padded = [(tasks[i].plane, r) for i, r in readers_of(value, tasks) if r.padded]
    return max((r.rows.after(made.height, r.plane.height) for made, r in padded), default=0)


def _slots(writes: Sequence[tuple[int, int, int]], last: Array) -> int:
    """The longest stretch from the oldest row that is still to be read to the newest."""
    oldest, slots = 0, 1
    for time, low, high in writes:
        while oldest < low and last[oldest] <= time:
            oldest += 1
        slots = max(slots, high - min(oldest, low))
    return slots
