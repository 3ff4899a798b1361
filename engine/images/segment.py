"""The noun of a segment over images: its steps, and the tape of calls that a column follows.

A column is a group of images, one a lane. The tape is the same for every group: it says which step
runs next on which rows, depth first, and where in the arena they lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.arena import Arena
from engine.border import Border
from engine.images.bands import Band
from engine.images.pricing import Traffic
from engine.images.schedule import Ring
from numa.notation import size

Array = np.ndarray[Any, Any]

GRID_WORDS = 15
"""x, y and r, five each: the first words of a step after its kernel's address."""
ROWS_WORD = 16
"""Where a visit's number of rows stands."""
OPERANDS_WORD = 17
"""Where a step's own operands begin."""
STEP_WORDS = 32
FILL = "image_fill_"
"""How the names of kernels begin that write padding."""
TAPE_FIELDS = 3 + GRID_WORDS
"""Of a row of the tape: step, first row, rows, and the words of its grids."""


def float_bits(number: float) -> int:
    """A float32 in the low four bytes of a word."""
    return int(np.float32(number).view(np.uint32))


@dataclass(frozen=True, slots=True)
class ImageStep:
    """One kernel with what does not change from visit to visit."""

    node: str
    kernel: str
    operands: tuple[Array | int, ...]
    """Words from OPERANDS_WORD on: an array becomes its address."""
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    detail: str = ""
    multiply_adds: int = 0
    """Dense ones an image."""
    nonzeros: int = 0
    """Those of them whose weight is not zero."""
    row_words: tuple[tuple[int, int], ...] = ()
    """Words that grow by so much for each row before a visit."""
    rows: int | None = None
    """Rows that its one visit reads, where they are not those that it writes."""
    every: tuple[int, int] = (1, 0)
    """(n, i): it makes every n-th row of a visit, from row i on."""

    def __str__(self) -> str:
        arrow = f"{', '.join(self.reads) or '-'} -> {', '.join(self.writes) or '-'}"
        return f"{self.kernel:<28} {arrow}" + (f"   # {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Order:
    """An order of visits that was priced."""

    name: str
    arena_nbytes: int
    traffic: Traffic
    chosen: bool
    too_large: bool
    """Whether its arena is larger than one should be (planning.py)."""

    def __str__(self) -> str:
        arena = f"arena {size(self.arena_nbytes)}{', too large' if self.too_large else ''}"
        return f"{'*' if self.chosen else ' '} {self.name}: {arena}, {self.traffic}"


@dataclass(frozen=True, slots=True)
class Images:
    """Nodes that run depth first over a group of images, band by band of their rows."""

    nodes: tuple[str, ...]
    steps: tuple[ImageStep, ...]
    tape: Array
    """int64[visits, TAPE_FIELDS]."""
    imports: tuple[Border, ...]
    exports: tuple[Border, ...]
    arena: Arena
    rings: tuple[Ring, ...]
    lanes: int
    """Images of a group."""
    whole: tuple[str, ...] = ()
    """Values that are finished before their first reader begins: cache stops."""
    bands: tuple[Band, ...] = ()
    """Of each value."""
    considered: tuple[Order, ...] = ()
    """The orders that were priced, depth first before layer by layer."""

    @property
    def points(self) -> int:
        return self.lanes

    @property
    def weights(self) -> tuple[Array, ...]:
        """Every array a step reads, once."""
        found = {id(o): o for s in self.steps for o in s.operands if isinstance(o, np.ndarray)}
        return tuple(found.values())

    @property
    def weights_nbytes(self) -> int:
        return sum(a.nbytes for a in self.weights)

    @property
    def tape_nbytes(self) -> int:
        """As a session holds it."""
        return len(self.tape) * STEP_WORDS * 8

    def __str__(self) -> str:
        head = (
            f"columns of {self.lanes} images, arena {size(self.arena.nbytes)}, "
            f"{size(self.weights_nbytes)} of weights, {len(self.tape):,} visits"
        )
        kept, bands = {r.value: r for r in self.rings}, {b.value: b for b in self.bands}
        lines = [head, *(f"  order {line}" for line in self.considered)]
        for step in self.steps:
            if not step.node and not step.reads and step.kernel.startswith(FILL):
                continue  # a few for each padded value: they say nothing that its ring does not
            ring = kept.get(step.writes[0]) if step.writes else None
            rows = "" if ring is None else f"   {bands[ring.value]}, kept {ring.slots}"
            stop = ", whole" if ring is not None and ring.value in self.whole else ""
            over = f", over {ring.home}" if ring is not None and ring.home != ring.value else ""
            lines.append(f"  {step}{rows}{stop}{over}")
        spans = ", ".join(f"{s.name}@{s.offset}" for s in self.arena.spans)
        return "\n".join([*lines, f"  arena {spans}"] if spans else lines)
