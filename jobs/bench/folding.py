"""Layers that are alike, shown once.

A transformer is a dozen layers of the same steps. `runs` finds where a list repeats itself, and
`pattern` says under which name the repetitions go.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from engine.profiling import StepTime

LEAST_TIMES = 3
LEAST_PERIOD = 4
"""Fewer or shorter repetitions are shown as they are."""
MOST_PERIOD = 400


@dataclass(frozen=True, slots=True)
class Run:
    """`times` repetitions of `period` items each, from `first` on; 1 for what is not repeated."""

    first: int
    period: int
    times: int

    @property
    def end(self) -> int:
        return self.first + self.period * self.times

    def alike(self, index: int) -> range:
        """All places of the item that stands at `index` of the first repetition."""
        return range(self.first + index, self.end, self.period)


def runs(items: Sequence[Hashable]) -> Iterator[Run]:
    """The whole list as runs in order: the longest repetition first found, then what is around."""
    yield from _runs(items, 0, len(items))


def _runs(items: Sequence[Hashable], first: int, end: int) -> Iterator[Run]:
    best = max(_repetitions(items, first, end), key=_worth, default=None)
    if best is None:
        if first < end:
            yield Run(first, end - first, 1)
        return
    yield from _runs(items, first, best.first)
    yield best
    yield from _runs(items, best.end, end)


def _worth(run: Run) -> tuple[int, int, int]:
    """The more it covers, in the more repetitions, the earlier, the better."""
    return run.period * run.times, run.times, -run.first


def _repetitions(items: Sequence[Hashable], first: int, end: int) -> Iterator[Run]:
    for period in range(LEAST_PERIOD, min(MOST_PERIOD, (end - first) // LEAST_TIMES) + 1):
        start = first
        for place in range(first, end - period + 1):
            if place < end - period and items[place] == items[place + period]:
                continue
            times = (place - start) // period + 1
            if times >= LEAST_TIMES:
                yield Run(start, period, times)
            start = place + 1


def skeleton(name: str) -> str:
    """What names of layers that are alike have in common: everything but their numbers."""
    return re.sub(r"\d+", "*", name)


def pattern(names: Sequence[str]) -> str:
    """What names have in common: numbers that differ become `*`."""
    parts = [re.split(r"(\d+)", name) for name in names]
    if len({len(p) for p in parts}) != 1:
        return names[0]
    columns = [set(column) for column in zip(*parts, strict=True)]
    if any(len(column) > 1 for column in columns[::2]):
        return names[0]
    return "".join(column.pop() if len(column) == 1 else "*" for column in columns)


def folded(steps: Sequence[StepTime]) -> StepTime:
    """Steps that are alike as one that takes as long as all of them."""
    if len(steps) == 1:
        return steps[0]
    return replace(
        steps[0],
        node=pattern([s.node for s in steps]),
        value=pattern([s.value for s in steps]),
        seconds=sum(s.seconds for s in steps),
        share=sum(s.share for s in steps),
        multiply_adds=sum(s.multiply_adds for s in steps),
        nonzeros=sum(s.nonzeros for s in steps),
    )
