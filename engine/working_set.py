"""What a thread touches again and again, against the cache that should hold it.

A column goes through a stretch in groups of tiles (engine/cutting.py): the panels of a group live
through all its steps, and a step reads its weights once for the whole group. Attention needs
whole sequences: their queries, keys and values lie in panels that live from stretch to stretch.
Images go band by band: a visit touches some rows of a few values, and the weights of one step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from engine.cutting import COLUMN_TOKENS, group_tiles
from engine.images.bands import Band
from engine.images.segment import Images, Order
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
    """`rows` or `tokens`: what a tile's points are."""
    points: int
    """Of a tile."""
    local_nbytes: int
    """Panels of a tile that live within one stretch."""
    spread_nbytes: int
    """Panels of a tile that live from stretch to stretch: each tile of a column has its own."""
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


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Of a segment over images, where a column is a group of them and goes band by band."""

    segment: int
    images: int
    """Of a group."""
    arena_nbytes: int
    """Rings of rows of all values."""
    streamed_nbytes: int
    """Weights; a step reads its own once a visit."""
    bands: tuple[Band, ...]
    orders: tuple[Order, ...]
    """Depth first before layer by layer."""
    l2_nbytes: int

    @property
    def fitting(self) -> float:
        """Share of the visits that touch no more than L2 holds, 0..1."""
        inside = sum(b.visits for b in self.bands if b.nbytes <= self.l2_nbytes)
        return inside / max(1, sum(b.visits for b in self.bands))

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {
            "unit": "images",
            "bands": [asdict(b) | {"nbytes": b.nbytes} for b in self.bands],
            "orders": [asdict(o) | {"cycles": o.traffic.cycles} for o in self.orders],
            "fitting": self.fitting,
        }

    def __str__(self) -> str:
        return "\n".join([*self._head(), *self._table(), *self._prices()])

    def _head(self) -> list[str]:
        chosen = next(o for o in self.orders if o.chosen)
        return [
            f"segment {self.segment}: columns of {self.images} images in bands of rows, "
            f"{chosen.name}; {size(self.arena_nbytes)} of rings, {size(self.streamed_nbytes)} of "
            "weights",
            f"{self.fitting:.0%} of the visits touch no more than {size(self.l2_nbytes)} of L2:",
        ]

    def _table(self) -> list[str]:
        """A line for each size of picture, with what its visits touch at most."""
        sizes: dict[tuple[int, int], list[Band]] = {}
        for band in self.bands:
            sizes.setdefault((band.height, band.width), []).append(band)
        lines = ["  picture   values  band  halo  rows a visit  weights a visit  visits"]
        for (height, width), bands in sizes.items():
            rows, weights = (
                size(max(getattr(b, n) for b in bands)) for n in ("rows_nbytes", "weights_nbytes")
            )
            lines.append(
                f"  {f'{height}x{width}':<9} {len(bands):>6}  {_range(b.rows for b in bands):>4}  "
                f"{_range(b.halo for b in bands):>4}  {rows:>12}  {weights:>15}  "
                f"{sum(b.visits for b in bands):>6,}"
            )
        return lines

    def _prices(self) -> list[str]:
        """What the traffic of a group is taken to cost, in columns and layer by layer."""
        columns, layers = next(o for o in self.orders if o.chosen), self.orders[-1]
        if columns is layers:
            columns = min(self.orders[:-1], key=lambda o: o.traffic.cycles, default=layers)
        return [
            f"{what}: {o.traffic}, {size(o.arena_nbytes)} of rings{', chosen' if o.chosen else ''}"
            for what, o in (("price in columns", columns), ("price layer by layer", layers))
        ]


def _range(numbers: Iterable[int]) -> str:
    """`2`, or `1-3` of several."""
    found = sorted(set(numbers))
    return f"{found[0]}-{found[-1]}" if found[1:] else f"{found[0]}"


def working_sets(program: Program, l2_nbytes: int) -> tuple[WorkingSet | ImageSet, ...]:
    """Of every segment that is no fallback."""
    return tuple(
        _image_set(index, segment, l2_nbytes)
        if isinstance(segment, Images)
        else _working_set(index, segment, l2_nbytes)
        for index, segment in enumerate(program.segments)
        if not isinstance(segment, Fallback)
    )


def _image_set(index: int, segment: Images, l2_nbytes: int) -> ImageSet:
    return ImageSet(
        segment=index,
        images=segment.lanes,
        arena_nbytes=segment.arena.nbytes,
        streamed_nbytes=segment.weights_nbytes,
        bands=segment.bands,
        orders=segment.considered,
        l2_nbytes=l2_nbytes,
    )


def _working_set(index: int, segment: Column | Sequences, l2_nbytes: int) -> WorkingSet:
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
