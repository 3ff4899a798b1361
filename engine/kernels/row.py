"""Kernel: one row of KERNELS, and the families that rows belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal[
    "linear",
    "epilogue",
    "unary",
    "binary",
    "constant",
    "broadcast",
    "softmax",
    "norm",
    "reduction",
    "extreme",
    "attention",
    "rotary",
    "pool",
    "embed",
    "import",
    "export",
    "conv",
    "depthwise",
    "image unary",
    "image binary",
    "image constant",
    "image gate",
    "image copy",
    "image fill",
    "image pick",
    "image blend",
    "image pool",
    "image reduction",
    "image import",
    "image export",
]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One row: a name, what it is for, and where its code is made."""

    name: str
    family: Family
    source: str
    """`module:function`; the function, called with `arguments`, gives the code to compile."""
    arguments: tuple[str | int | bool, ...]
    structure: str = ""
    """For a linear kernel: how its weights are packed (a row of packing.PACKINGS); for a
    convolution, a row of window_packing.CONV_PACKINGS."""

    @property
    def points(self) -> int:
        """T, of the tiles that it takes; for images, of the lane group."""
        return int(self.arguments[0])

    @property
    def pixels(self) -> int:
        """R, of a convolution: neighbouring pixels of a row that are computed together."""
        return int(self.arguments[1])

    @property
    def stride(self) -> int:
        """S, of a convolution: from a pixel to the next in its input; 0 where a word says so."""
        return int(self.arguments[2])
