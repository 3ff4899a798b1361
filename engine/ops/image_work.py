"""What image operators ask of the kernels: works that read rows of pixels and make rows of pixels.

An image value [N, C, H, W] (or [N, C, L], which is H = 1) is known here by its `Plane`. What a work
needs of another value is a `Window`: which rows of it a row of the result reads, how far beside
and beyond its edges, and what stands there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.graph import Value

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Plane:
    """The dimensions of an image value."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


def plane_of(value: Value) -> Plane | None:
    """Of a value [N, C, H, W] or [N, C, L] whose dimensions are all known, with none of them 0."""
    if not value.has_rows or value.has_tokens or value.shape is None:
        return None
    dims = value.shape[1:]
    if len(dims) not in (2, 3) or not all(isinstance(d, int) and d > 0 for d in dims):
        return None
    channels, *space = (int(d) for d in dims)
    return Plane(channels, space[0] if len(space) == 2 else 1, space[-1])


@dataclass(frozen=True, slots=True)
class Window:
    """Along one axis: result i reads the inputs i // up * stride - before + j * dilation, for j
    below `size`; what lies outside of the input is padding."""

    size: int = 1
    stride: int = 1
    dilation: int = 1
    before: int = 0
    up: int = 1
    """Results that read the same inputs, side by side."""

    def first(self, index: int) -> int:
        return index // self.up * self.stride - self.before

    def last(self, index: int) -> int:
        return self.first(index) + (self.size - 1) * self.dilation

    def after(self, results: int, inputs: int) -> int:
        """How far it reaches behind the last input."""
        return max(0, self.last(results - 1) - (inputs - 1))


POINT = Window()


@dataclass(frozen=True, slots=True)
class Read:
    """What a work needs of one value."""

    value: str
    plane: Plane
    rows: Window = POINT
    pixels: Window = POINT
    padded: bool = True
    """Whether zeros are read beyond the edges; else the work itself never goes there."""
    whole: bool = False
    """Every row before the first result: a pixel that stands for the image, or for all of it."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """y = activations(conv(x, W) + bias + r)."""

    reads: tuple[Read, ...]
    """x, and r where there is one."""
    write: str
    plane: Plane
    weights: Array
    """W[M, C / group, kh, kw] float32."""
    bias: Array
    """float32[M]."""
    group: int
    activations: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """The largest or the mean of a window of each channel."""

    reads: tuple[Read, ...]
    write: str
    plane: Plane
    mean: bool
    all_count: bool = False
    """Whether pixels of the padding count in the mean."""


@dataclass(frozen=True, slots=True)
class Total:
    """The sum times `scale`, or the largest, of each channel's pixels."""

    reads: tuple[Read, ...]
    write: str
    plane: Plane
    largest: bool
    scale: float


@dataclass(frozen=True, slots=True)
class Pointwise:
    """One kernel on each pixel of one value or two."""

    reads: tuple[Read, ...]
    write: str
    plane: Plane
    kernel: str
    """Its name without `image_` and the lanes: `relu_f32`, `add_f32`, `mul_gate_f32`."""
    operands: tuple[Array | int, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Channels of one value after the other: Concat, Split, Slice, shuffles."""

    reads: tuple[Read, ...]
    write: str
    plane: Plane
    orders: tuple[Array, ...]
    """For each read: int64 channels to take, in order."""


ImageWork = Convolution | Pool | Total | Pointwise | Gathered
IMAGE_WORKS = (Convolution, Pool, Total, Pointwise, Gathered)
