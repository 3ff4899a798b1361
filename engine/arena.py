"""Lifetimes to offsets: panels that never live at the same time share memory.

Greedy by size, largest first, each at the lowest offset where no panel alive at the same time
lies (the scheme of Pisarchyk and Lee, "Efficient memory management for deep neural net
inference", 2020). Plain to see right, and for chains of layers it is optimal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LINE = 64
"""Bytes of a cache line: panels start on one (unaligned panels cost 15 %)."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A panel that must exist from the step that writes it to the last that reads it."""

    name: str
    nbytes: int
    first: int
    last: int
    spells: tuple[tuple[int, int], ...] = ()
    """First and last step of each time that it is in use, in order, where others may lie in its
    place in between."""

    def meets(self, other: Lifetime) -> bool:
        if self.first > other.last or other.first > self.last:
            return False
        mine = np.array(self.spells or ((self.first, self.last),))
        theirs = np.array(other.spells or ((other.first, other.last),))
        # of spells in order, the only one that can meet (a, b) is the last that begins by b
        begun = np.searchsorted(theirs[:, 0], mine[:, 1], side="right") - 1
        return bool(((begun >= 0) & (theirs[begun, 1] >= mine[:, 0])).any())


@dataclass(frozen=True, slots=True)
class Span:
    """Where a panel lies: bytes from the arena's start."""

    name: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Arena:
    """The memory of one column."""

    spans: tuple[Span, ...]
    nbytes: int

    def offset(self, name: str) -> int:
        return next(s.offset for s in self.spans if s.name == name)


def plan(lifetimes: Sequence[Lifetime]) -> Arena:
    """Offsets for all panels, in cache lines."""
    placed: dict[str, tuple[Lifetime, Span]] = {}
    for life in sorted(lifetimes, key=lambda x: (-x.nbytes, x.first, x.name)):
        others = [span for other, span in placed.values() if life.meets(other)]
        offset = 0
        for span in sorted(others, key=lambda s: s.offset):
            if offset + life.nbytes <= span.offset:
                break
            offset = max(offset, _line(span.offset + span.nbytes))
        placed[life.name] = (life, Span(life.name, offset, life.nbytes))
    spans = tuple(placed[life.name][1] for life in lifetimes)
    return Arena(spans, _line(max((s.offset + s.nbytes for s in spans), default=0)))


def _line(nbytes: int) -> int:
    return -(-nbytes // LINE) * LINE
