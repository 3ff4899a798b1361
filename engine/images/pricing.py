"""What an order of visits costs in memory traffic, so that the planner can choose among orders.

Arithmetic is the same in every order. What differs is how far away a row or a weight is when it is
wanted again: between two touches of it all that other visits touch passes through the caches. If
that is more than L2 holds, it comes from L3; if it is more than a thread's share of L3, from
memory.

The sizes are those of a common machine, not of this one: a program is the same everywhere. Only
how many images go side by side, which is recorded, is chosen by this machine's L3 (lanes.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.images.layout import Layout
from engine.images.schedule import Task, Visit
from numa.notation import size

Array = np.ndarray[Any, Any]

L2_NBYTES = 1 << 20
L3_NBYTES = 16 << 20
"""A thread's share, where few threads share one: as on the machine where orders were timed. With
4 MB MobileNetV1 layer by layer was called cheaper than in columns, which are 1.5 times as fast."""
L3_NBYTES_A_CYCLE, MEMORY_NBYTES_A_CYCLE = 25.0, 3.0
"""What one core waits for, beside its arithmetic, not what it could get: kernels ask for most rows
of L3 ahead. Fitted to what MobileNetV1 and ResNet-50 of 80, 90 and 95 % zeros took on Zen 4 beyond
what their convolutions take in L2 (cycles.py), in groups of 8 and of 16. With 10 and 4, within what
is published of Zen 3, groups of 16 were called cheaper for MobileNetV1 of 80 % zeros, which does
434 pictures a second with them on two cores, and 462 with 8."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one group of images."""

    l3_nbytes: int
    memory_nbytes: int

    @property
    def cycles(self) -> float:
        return self.l3_nbytes / L3_NBYTES_A_CYCLE + self.memory_nbytes / MEMORY_NBYTES_A_CYCLE

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.l3_nbytes + other.l3_nbytes, self.memory_nbytes + other.memory_nbytes)

    def __str__(self) -> str:
        large = self.cycles >= 1e6
        cycles = f"{self.cycles / 1e6:.1f} Mcycles" if large else f"{self.cycles / 1e3:.1f} kcycles"
        return (
            f"{cycles} a group for {size(self.l3_nbytes)} from L3 and "
            f"{size(self.memory_nbytes)} from memory"
        )


class _Distances:
    """How much was touched since a row, or a step's weights, were touched last."""

    def __init__(self, l3_nbytes: int) -> None:
        self.l3_nbytes = l3_nbytes
        self.touched = 0
        self.l3 = self.memory = 0

    def add(self, last: Array, nbytes: int) -> None:
        """Touches of `nbytes` each, the one before of each when so much had been touched."""
        away = self.touched - last
        self.memory += nbytes * int((away > self.l3_nbytes).sum())
        self.l3 += nbytes * int(((away > L2_NBYTES) & (away <= self.l3_nbytes)).sum())


def traffic_of(
    tasks: Sequence[Task],
    visits: Sequence[Visit],
    layouts: Mapping[str, Layout],
    weights_nbytes: Sequence[int],
    l3_nbytes: int = L3_NBYTES,
) -> Traffic:
    """Of an order of visits; `weights_nbytes` of each task pass once a visit."""
    far = -(l3_nbytes + 1)  # never touched: from memory
    homes = {name: np.full(layout.plane.height, far) for name, layout in layouts.items()}
    rows = {name: homes[layout.ring.home] for name, layout in layouts.items()}
    weights = np.full(len(tasks), far)
    found = _Distances(l3_nbytes)
    for visit in visits:
        task = tasks[visit.task]
        if visit.row >= task.plane.height:
            continue
        now = found.touched
        found.add(weights[visit.task : visit.task + 1], weights_nbytes[visit.task])
        weights[visit.task] = now
        now += weights_nbytes[visit.task]
        for read in task.reads:
            first, last = read.span(visit.row, visit.row + visit.rows)
            part = rows[read.value][max(0, first) : max(0, last + 1)]
            nbytes = layouts[read.value].slot_nbytes
            found.add(part, nbytes)
            part[:] = now
            now += nbytes * len(part)
        if task.write:
            now += _write(found, rows[task.write], visit, layouts[task.write])
            rows[task.write][visit.row : visit.row + visit.rows] = now
        found.touched = now
    return Traffic(found.l3, found.memory)


def _write(found: _Distances, rows: Array, visit: Visit, layout: Layout) -> int:
    """Rows written where rows lay that nobody wants any more; bytes touched."""
    if layout.ring.home != layout.ring.value:  # over rows that the visit just read
        return 0
    before = np.arange(visit.row, visit.row + visit.rows) - layout.ring.slots
    found.add(rows[before[before >= 0]], layout.slot_nbytes)
    found.l3 += layout.slot_nbytes * int((before < 0).sum())
    return layout.slot_nbytes * visit.rows
