"""What a thread touches again and again, against the cache that should hold it.

A column goes through a stage in groups of tiles (engine/cutting.py): the panels of a group live
through all its steps, and a step reads its weights once for the whole group. Attention needs
whole sequences: their queries, keys and values lie in panels that live from stage to stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.cutting import COLUMN_TOKENS, group_tiles
from engine.images.segment import Images
from engine.program import Program
from engine.segments import Column, Fallback, Sequences, arrays_of
from numa.notation import size

LOOKUP = "embed_"
"""How the names of kernels begin that read rows of a table."""


@dataclass(frozen=True, slots=True)
class WorkingSet:
    """Of one segment with kernels."""

    segment: int
    unit: str
    """`rows`, `tokens` or `images`: what a tile's points are."""
    points: int
    """Of a tile."""
    local_nbytes: int
    """Panels of a tile that live within one stage."""
    spread_nbytes: int
    """Panels of a tile that live from stage to stage: each tile of a column has its own."""
    group: int
    """Tiles that share one reading of the weights."""
    column_nbytes: int
    """Panels of a whole column: of a group where points are rows, and of as many tokens as a
    column may have of several sequences where they are tokens."""
    streamed_nbytes: int
    """Weights that pass through once a group; of tables only a few rows are looked up."""
    l2_nbytes: int

    @property
    def arena_nbytes(self) -> int:
        """What a tile touches."""
        return self.local_nbytes + self.spread_nbytes

    @property
    def fits(self) -> bool:
        return self.arena_nbytes <= self.l2_nbytes

    @property
    def group_nbytes(self) -> int:
        """What a group of tiles touches."""
        return self.group * self.arena_nbytes

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {
            "arena_nbytes": self.arena_nbytes,
            "group_nbytes": self.group_nbytes,
            "fits": self.fits,
        }

    def __str__(self) -> str:
        verdict = "fits in" if self.fits else "does NOT fit in"
        parts = [
            f"segment {self.segment}: {size(self.arena_nbytes)} of activations a tile of "
            f"{self.points} {self.unit} {verdict} {size(self.l2_nbytes)} of L2"
        ]
        if self.group > 1:
            parts.append(f"{size(self.group_nbytes)} a group of {self.group} tiles")
        if self.unit == "tokens":
            parts.append(f"{size(self.column_nbytes)} a column of {COLUMN_TOKENS} tokens")
        once = f"a group of {self.group} tiles" if self.group > 1 else "a tile"
        parts.append(f"{size(self.streamed_nbytes)} of weights stream through once {once}")
        return "; ".join(parts)


def working_sets(program: Program, l2_nbytes: int) -> tuple[WorkingSet, ...]:
    """Of every segment that is no fallback."""
    return tuple(
        _working_set(index, segment, l2_nbytes)
        for index, segment in enumerate(program.segments)
        if not isinstance(segment, Fallback)
    )


def _working_set(index: int, segment: Column | Sequences | Images, l2_nbytes: int) -> WorkingSet:
    if isinstance(segment, Images):
        nbytes, weights = segment.arena.nbytes, segment.weights_nbytes
        return WorkingSet(index, "images", segment.lanes, 0, nbytes, 1, nbytes, weights, l2_nbytes)
    sequential = isinstance(segment, Sequences)
    found = segment if isinstance(segment, Sequences) else segment.as_sequences()
    group = group_tiles(found, l2_nbytes)
    tiles = -(-COLUMN_TOKENS // found.points) if sequential else group
    return WorkingSet(
        segment=index,
        unit="tokens" if sequential else "rows",
        points=found.points,
        local_nbytes=found.local.nbytes,
        spread_nbytes=found.spread.nbytes,
        group=group,
        column_nbytes=found.arena_nbytes(tiles, group),
        streamed_nbytes=_streamed_nbytes(found),
        l2_nbytes=l2_nbytes,
    )


def _streamed_nbytes(segment: Sequences) -> int:
    steps = tuple(s for s in segment.steps if not s.kernel.startswith(LOOKUP))
    return sum(array.nbytes for array in arrays_of(steps))
