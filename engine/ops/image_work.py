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
    listed: tuple[tuple[int, int], ...] = ()
    """First and last row for each row of the result, where those follow no `rows`; the last stands
    before the first where a row of the result needs none."""

    def span(self, first: int, end: int) -> tuple[int, int]:
        """First and last row for rows first..end-1 of the result; these may lie beyond the value's
        own, and the last before the first where no row is read."""
        if self.whole:
            return 0, self.plane.height - 1
        if not self.listed:
            return self.rows.first(first), self.rows.last(end - 1)
        needed = [(low, high) for low, high in self.listed[first:end] if low <= high]
        if not needed:
            return 0, -1
        return min(low for low, _ in needed), max(high for _, high in needed)


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
    counted: tuple[int, int] | None = None
    """Rows and pixels of padding behind the image that count in the mean, as those in front then
    do; None where only the image's own count."""


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


@dataclass(frozen=True, slots=True)
class Spread:
    """Each pixel becomes a block of pixels of other channels:
    y[m, i, j] = x[orders[i % high][j % wide][m], i // high, j // wide]."""

    reads: tuple[Read, ...]
    write: str
    plane: Plane
    block: tuple[int, int]
    orders: tuple[tuple[Array, ...], ...]
    """For each row and pixel of a block: int64 channels to take, in order."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where the pixels of one value go: channels, rows and pixels of it by index, side by side in
    the result from its `channel` and `pixel` on."""

    order: Array
    """int64 channels."""
    rows: Array
    """int64, one for each row of the result: -1 for a row that gets none."""
    pixels: Array
    """int64."""
    channel: int = 0
    pixel: int = 0


@dataclass(frozen=True, slots=True)
class Picked:
    """Pixels of one value or more by index: Slice, Pad, Concat over space, Resize to nearest."""

    reads: tuple[Read, ...]
    write: str
    plane: Plane
    parts: tuple[Part, ...]
    """For each read."""
    fill: float | None = None
    """What stands where no part goes; None where they cover all."""


@dataclass(frozen=True, slots=True)
class Blend:
    """Along one axis: result i is the sum of weights[i, k] times the input places[i, k]."""

    places: Array
    """int64[results, taps]."""
    weights: Array
    """float32[results, taps]."""


@dataclass(frozen=True, slots=True)
class Blended:
    """Each pixel is a weighted sum of a few rows' and pixels': Resize, linear and cubic."""

    reads: tuple[Read, ...]
    write: str
    plane: Plane
    rows: Blend
    pixels: Blend


@dataclass(frozen=True, slots=True)
class Laid:
    """An input of the graph whose array is laid out in another way, or of another type."""

    source: str
    write: str
    plane: Plane
    strides: tuple[int, int, int, int]
    """Elements of the array from an image, a channel, a row and a pixel to the next."""
    reads: tuple[Read, ...] = ()


@dataclass(frozen=True, slots=True)
class Turned:
    """A value that leaves its segment with its axes in another order, and is kept in none."""

    reads: tuple[Read, ...]
    write: str
    plane: Plane
    """Of what is read."""
    strides: tuple[int, int, int, int]
    """Elements of the array from an image, a channel, a row and a pixel to the next."""


ImageWork = (
    Convolution | Pool | Total | Pointwise | Gathered | Spread | Picked | Blended | Laid | Turned
)
IMAGE_WORKS = (
    *(Convolution, Pool, Total, Pointwise, Gathered, Spread, Picked, Blended, Laid, Turned),
)
