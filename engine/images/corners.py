"""Steps before the arena is laid out: where their grids begin, by value, channel and pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.images.layout import Layout
from engine.images.segment import ImageStep
from engine.ops.image_work import POINT, Window

Layouts = Mapping[str, Layout]
"""By value."""


@dataclass(frozen=True, slots=True)
class Site:
    """The node whose steps are made, and what is known around it."""

    node: str
    lanes: int
    layouts: Layouts
    structure: str = ""
    """How the weights of a convolution are packed."""

    @property
    def pixel_nbytes(self) -> int:
        return 4 * self.lanes

    def kernel(self, stem: str) -> str:
        """Its full name."""
        return f"{stem}_x{self.lanes}"


@dataclass(frozen=True, slots=True)
class Corner:
    """Where a grid begins."""

    value: str
    rows: Window = POINT
    channel: int = 0
    pixel: int = 0
    whole: bool = False
    """Always from its first row."""

    def row(self, first: int) -> int:
        """Of the value, for the first row of a visit."""
        return 0 if self.whole else self.rows.first(first)


@dataclass(frozen=True, slots=True)
class Made:
    """A step and its grids, in the order x, y, r; None for one that it has not."""

    step: ImageStep
    corners: tuple[Corner | None, ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """A step that writes padding, and the rows of it."""

    made: Made
    row: int
    rows: int
    below: bool
    """Behind the last row of the value; else before the first."""
