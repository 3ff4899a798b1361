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

A residual is added where it lies: y = conv(x) + r may be written over the rows of r, if whoever
else reads a row of r has done so before that row of y is made. Then both live in one ring, r's rows
in front and y's behind, and so do the blocks of a whole stage: the rows in flight are as many as
the blocks lag behind each other, and no sum goes to a line that is not in the cache yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np

from engine.ops.image_work import POINT, Plane, Read

Array = np.ndarray[Any, Any]


WHOLE_BANDS = 8
"""Bands of a visit that makes a whole value from whole values: weights pass less often, and their
rows are all kept in any case."""


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
    over: int | None = None
    """Which of its reads it may write over: one that it reads pixel by pixel, of its own shape."""


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
    spells: tuple[tuple[int, int], ...]
    """First and last visit of each time that any of its rows is wanted: padding always is."""
    home: str
    """The value whose memory it is: its own, or the one that it is written over."""


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
            end = min(height, done[index] + _rows_at_once(task, whole))
            missing = _missing(task, (done[index], end), makers, done)
            if missing:
                wanted.append(missing)
                continue
            visits.append(Visit(index, done[index], end - done[index]))
            done[index] = end
    return visits


def _rows_at_once(task: Task, whole: frozenset[str]) -> int:
    whole_to_whole = task.write in whole and all(r.value in whole for r in task.reads)
    return task.band * (WHOLE_BANDS if whole_to_whole else 1)


def _missing(
    task: Task, rows: tuple[int, int], makers: dict[str, int], done: Sequence[int]
) -> tuple[int, int] | None:
    """A task that must come first, and until which row; for rows of `task` from one to another."""
    for read in task.reads:
        until = max(1, read.span(*rows)[1] + 1)  # whoever makes the first row clears what is above
        if not read.padded:
            until = min(read.plane.height, until)
        if done[makers[read.value]] < until:
            return makers[read.value], until
    return None


def rings_of(tasks: Sequence[Task], visits: Sequence[Visit]) -> dict[str, Ring]:
    """A ring for each value, as small as the order of visits allows."""
    found = {}
    turns: list[list[tuple[int, Visit]]] = [[] for _ in tasks]
    for time, visit in enumerate(visits):
        turns[visit.task].append((time, visit))
    for members in _sharing(tasks, visits):
        ring = _ring(members, tasks, turns)
        for index in members:
            found[tasks[index].write] = replace(ring, value=tasks[index].write)
    return {t.write: found[t.write] for t in tasks if t.write}


def _sharing(tasks: Sequence[Task], visits: Sequence[Visit]) -> list[list[int]]:
    """Tasks that write to one ring, each over the one before it; most of them write alone."""
    rings: dict[str, list[int]] = {}
    for index, task in enumerate(tasks):
        if task.write:
            over = task.reads[task.over].value if task.over is not None else ""
            shared = rings[over] if over and _may_write_over(index, tasks, visits) else []
            shared.append(index)
            rings[task.write] = shared
    return list({id(members): members for members in rings.values()}.values())


def _may_write_over(index: int, tasks: Sequence[Task], visits: Sequence[Visit]) -> bool:
    """Whether each row has been read by all others before the task's visit that makes it. Rings
    with padding are not shared: it would have to outlive the rows beside it."""
    task = tasks[index]
    assert task.over is not None
    over = task.reads[task.over]
    readers = [(i, r) for i, r in readers_of(over.value, tasks) if r is not over]
    if over.listed or over.rows != POINT:  # a row of it may be wanted for a later one of y
        return False
    if any(_needs_padding(value, tasks) for value in (over.value, task.write)):
        return False
    made, read = np.zeros(task.plane.height), np.full(task.plane.height, -1)
    for time, visit in enumerate(visits):
        if visit.task == index:
            made[visit.row : visit.row + visit.rows] = time
        for i, other in readers:
            if i == visit.task:
                first, last = other.span(visit.row, visit.row + visit.rows)
                read[max(0, first) : max(0, last + 1)] = time
    return bool((read < made).all())


def readers_of(value: str, tasks: Sequence[Task]) -> list[tuple[int, Read]]:
    return [(i, r) for i, t in enumerate(tasks) for r in t.reads if r.value == value]


def _needs_padding(value: str, tasks: Sequence[Task]) -> bool:
    return any(_padding(value, tasks))


def _padding(value: str, tasks: Sequence[Task]) -> tuple[int, int, int, int]:
    """Rows above and below a value and pixels left and right of it that its readers want."""
    padded = [(tasks[i].plane, r) for i, r in readers_of(value, tasks) if r.padded]
    return (
        max((r.rows.before for _, r in padded), default=0),
        _below(value, tasks),
        max((r.pixels.before for _, r in padded), default=0),
        max((r.pixels.after(made.width, r.plane.width) for made, r in padded), default=0),
    )


def _ring(
    members: Sequence[int], tasks: Sequence[Task], turns: Sequence[Sequence[tuple[int, Visit]]]
) -> Ring:
    """Of tasks that write to it one over the other; those with padding write alone. `turns` are
    the visits of each task, each with its place among all."""
    home = tasks[members[0]]
    readers = [reader for m in members for reader in readers_of(tasks[m].write, tasks)]
    top, bottom, left, right = _padding(home.write, tasks)
    rows = home.plane.height + top + bottom
    last, made = np.full(rows, -1), np.full(rows, sum(map(len, turns)))
    writes: list[tuple[int, int, int]] = []
    concerned = {*members, *(i for i, _ in readers)}
    for time, visit in sorted((turn for i in concerned for turn in turns[i]), key=itemgetter(0)):
        if visit.task in members:
            low, high = 0 if visit.row == 0 else visit.row + top, visit.row + visit.rows + top
            writes.append((time, low, high))
            made[low:high] = np.minimum(made[low:high], time)
            last[low:high] = np.maximum(last[low:high], time)
        for i, read in readers:
            if i == visit.task:
                a, b = read.span(visit.row, visit.row + visit.rows)
                last[max(0, a + top) : max(0, b + top + 1)] = time
    first, end = writes[0][0], int(last.max())
    return Ring(
        value=home.write,
        slots=_slots(writes, last),
        top=top,
        bottom=bottom,
        left=left,
        right=right,
        first=first,
        end=end,
        spells=((first, end),) if top + bottom + left + right else _spells(made, last),
        home=home.write,
    )


def _spells(made: Array, last: Array) -> tuple[tuple[int, int], ...]:
    """When any row is wanted, from the visits that make each and that touch it last."""
    found: list[tuple[int, int]] = []
    for begin, end in zip(made.tolist(), last.tolist(), strict=True):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return tuple(found)


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
