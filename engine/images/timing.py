"""How long a convolution takes with its weights packed in one way or another: a visit, on one core.

It is the visit in the middle of a picture, of a segment that holds the convolution alone: its rings
are as small as depth first makes them, its rows and weights come from the caches that they fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from engine.images.building import lone
from engine.images.ready import words_of
from engine.measuring import SHORT_BUDGET, call_seconds, in_turns, shortest
from engine.ops.image_work import Convolution
from engine.weights import Weights, room

TURNS = 8
"""On a machine with six processes for its two cores, one layer of ten was called 1.24 times as fast
another way after 4 turns, which it is not."""
OUTPUTS = 256
"""Of a convolution that are timed at most: they tell what all of them take, and are packed fast."""


def time_structures(
    work: Convolution, structures: Sequence[str], lanes: int, budget: float = SHORT_BUDGET
) -> Mapping[str, float]:
    """Seconds of all its pixels for a lane group, by structure; these take turns."""
    part = _part(work)
    visits = {structure: _Visit(part, structure, lanes) for structure in structures}
    found = in_turns({name: visit.seconds for name, visit in visits.items()}, budget, TURNS)
    scale = len(work.weights) / len(part.weights) * work.plane.height
    return {name: seconds * scale / visits[name].rows for name, seconds in found.items()}


def _part(work: Convolution) -> Convolution:
    """Its first outputs, with names of its own: x and r may be one value."""
    outputs = min(len(work.weights), OUTPUTS) if work.group == 1 else len(work.weights)
    x, *rest = work.reads
    plane = replace(work.plane, channels=outputs)
    return replace(
        work,
        reads=(replace(x, value="x"), *(replace(r, value="r", plane=plane) for r in rest)),
        write="y",
        plane=plane,
        weights=work.weights[:outputs],
        bias=work.bias[:outputs],
    )


class _Visit:
    """The calls of one visit, on made-up pixels."""

    def __init__(self, work: Convolution, structure: str, lanes: int) -> None:
        segment = lone(work, structure, lanes)
        steps = [i for i, step in enumerate(segment.steps) if step.node]
        mine = np.flatnonzero(np.isin(segment.tape[:, 0], steps))
        middle = segment.tape[mine[len(mine) // 2], 1]
        mine = mine[segment.tape[mine, 1] == middle]
        self.rows = int(segment.tape[mine[0], 2])
        self._held = Weights()
        """Kept: the words have their addresses."""
        self._words = np.ascontiguousarray(words_of(segment, self._held)[mine])
        self._lanes = lanes
        self._arena = room(segment.arena.nbytes, large_pages=True)
        pixels = self._arena.view(np.float32)
        pixels[:] = np.random.default_rng(1).standard_normal(len(pixels), np.float32)

    def seconds(self, budget: float) -> float:
        return shortest(self._calls, budget)

    def _calls(self, count: int) -> float:
        return call_seconds(self._words, self._lanes, count, self._arena.ctypes.data)
