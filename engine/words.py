"""Steps as the machine code reads them: words, and the patches that move panels from tile to tile.

A word is a number, an address, or an offset into the thread's arena. The offset of a panel that
lives within a stretch moves through the tiles of a group, and back; that of one that lives from
stretch to stretch moves through all tiles of a column. See kernels/running.py, which moves them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.kernels.building import address
from engine.segments import Code, Panel, Sequences, Step, Stretch
from engine.weights import Weights

Array = np.ndarray[Any, Any]
STEP_WORDS = 24
"""int64 of a step: the kernel's address and its operands."""
STEP_NBYTES = 8 * STEP_WORDS


@dataclass(frozen=True, slots=True)
class Patch:
    """A word that moves from tile to tile."""

    place: int
    """Which word of its step."""
    stride: int
    """Bytes."""


@dataclass(slots=True)
class _Patches:
    """Of one step."""

    local: list[Patch] = field(default_factory=list)
    spread: list[Patch] = field(default_factory=list)


class Words:
    """A segment's words for arenas of any size; weights are copied by who makes this."""

    def __init__(self, segment: Sequences, weights: Weights) -> None:
        self.segment = segment
        self._fixed = np.zeros((len(segment.steps), STEP_WORDS), np.int64)
        self._grouped = np.zeros_like(self._fixed)
        """What is added for each tile of a group that the arena has room for."""
        self._tiled = np.zeros_like(self._fixed)
        """What is added for each tile of a column that the arena has room for."""
        self._patches = [_Patches() for _ in segment.steps]
        steps = ((stretch, step) for stretch in segment.stretches for step in stretch.steps)
        for number, (stretch, step) in enumerate(steps):
            self._write(number, step, stretch, weights)

    def _write(self, number: int, step: Step, stretch: Stretch, weights: Weights) -> None:
        self._fixed[number, 0] = address(step.kernel)
        for place, operand in enumerate(step.operands, 1):
            if isinstance(operand, Panel):
                self._panel(operand, number, place, stretch)
            elif isinstance(operand, np.ndarray):
                self._fixed[number, place] = weights.address(operand)
            elif isinstance(operand, Code):
                self._fixed[number, place] = address(operand.kernel)
            else:
                assert isinstance(operand, int)
                self._fixed[number, place] = operand

    def _panel(self, panel: Panel, number: int, place: int, stretch: Stretch) -> None:
        at = (number, place)
        self._fixed[at] = panel.shift * self.segment.points * 4
        spans = {s.name: s for s in self.segment.spread.spans}
        if panel.value in spans:  # behind the panels of a group
            self._grouped[at] = self.segment.local.nbytes
            self._tiled[at] = spans[panel.value].offset
            if not stretch.whole:
                stride = self.segment.stride(panel.value)
                self._patches[number].spread.append(Patch(place, stride))
        else:
            self._fixed[at] += self.segment.local.offset(panel.value)
            self._patches[number].local.append(Patch(place, self.segment.local.nbytes))

    def sized(self, group: int, tiles: int) -> Array:
        """int64[steps, STEP_WORDS] for an arena of so many tiles of a group and of a column."""
        return self._fixed + group * self._grouped + tiles * self._tiled

    def moved(self, words: Array, tiles: int) -> Array:
        """The words of `sized` as they are after so many tiles of a column."""
        moved = words.copy()
        for number, patches in enumerate(self._patches):
            for patch in patches.spread:
                moved[number, patch.place] += tiles * patch.stride
        return moved

    def tables(self) -> tuple[Array, Array, Array]:
        """What the loop reads: stretches int64[stretches, 4] (1 for whole sequences, first step,
        steps, points), steps int64[steps, 3] (first patch, local ones, others) and patches
        int64[.., 2] (byte of the step's words, stride)."""
        stretches, first = np.zeros((len(self.segment.stretches), 4), np.int64), 0
        for row, stretch in zip(stretches, self.segment.stretches, strict=True):
            row[:] = (stretch.whole, first, len(stretch.steps), self.segment.points)
            first += len(stretch.steps)
        steps = np.zeros((max(1, len(self._patches)), 3), np.int64)
        found: list[tuple[int, int]] = []
        for row, patches in zip(steps, self._patches, strict=False):
            row[:] = (len(found), len(patches.local), len(patches.spread))
            found += [(8 * p.place, p.stride) for p in (*patches.local, *patches.spread)]
        return stretches, steps, np.array(found or [(0, 0)], np.int64)
