"""From the work of an image operator to its steps: kernels, words, and where each grid begins.

EMITTERS has a function for each kind of work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.images.convolving import convolution
from engine.images.corners import Corner, Fill, Layouts, Made
from engine.images.layout import Layout
from engine.images.segment import ImageStep
from engine.ops.image_work import (
    Convolution,
    Gathered,
    ImageWork,
    Plane,
    Pointwise,
    Pool,
    Total,
    Window,
)
from engine.segments import Border

Array = np.ndarray[Any, Any]

Emitter = Callable[[str, Any, Layouts, str, int], list[Made]]
"""(node, work, layouts, structure of the weights, lanes) -> its steps."""


def steps_of(
    node: str, work: ImageWork, layouts: Layouts, structure: str, lanes: int
) -> list[Made]:
    """The steps of one node, for each visit in this order."""
    return EMITTERS[type(work)](node, work, layouts, structure, lanes)


# ---- what multiplies nothing ------------------------------------------------------------------


def _pointwise(
    node: str, work: Pointwise, layouts: Layouts, structure: str, lanes: int
) -> list[Made]:
    kernel = f"image_{work.kernel}_x{lanes}"
    operands = (work.plane.channels, work.plane.width, *work.operands)
    x, *rest = work.reads
    r = Corner(rest[0].value, whole=rest[0].whole) if rest else None
    step = ImageStep(
        node, kernel, operands, tuple(v.value for v in work.reads), (work.write,), work.detail
    )
    return [Made(step, (Corner(x.value), Corner(work.write), r))]


def _pool(node: str, work: Pool, layouts: Layouts, structure: str, lanes: int) -> list[Made]:
    x = work.reads[0]
    rows = _ranges(x.rows, work.plane.height, x.plane.height)
    pixels = _ranges(x.pixels, work.plane.width, x.plane.width)
    operands: tuple[Array | int, ...] = (
        x.rows.stride, rows, pixels, work.plane.width, work.plane.channels,
        x.pixels.stride * 4 * lanes, x.pixels.dilation * 4 * lanes, x.rows.dilation,
    )  # fmt: skip
    row_words = [(18, rows.strides[0])]
    if work.mean:
        factors = _factors(work, rows, pixels)
        operands = (*operands, factors)
        row_words.append((25, factors.strides[0]))
    kernel = f"{'sumpool' if work.mean else 'maxpool'}_f32_x{lanes}"
    step = ImageStep(node, kernel, operands, (x.value,), (work.write,), row_words=tuple(row_words))
    corner = Corner(x.value, x.rows, pixel=-x.pixels.before)
    return [Made(step, (corner, Corner(work.write), None))]


def _ranges(window: Window, results: int, inputs: int) -> Array:
    """int32[results, 2]: first tap of each that lies in the input, and the end of them."""
    first = np.array([window.first(i) for i in range(results)])[:, None]
    at = first + np.arange(window.size) * window.dilation
    inside = (at >= 0) & (at < inputs)
    taps = np.arange(window.size)
    start = np.where(inside, taps, window.size).min(axis=1)
    end = np.where(inside, taps + 1, 0).max(axis=1)
    return np.ascontiguousarray(np.stack([np.minimum(start, end), end], axis=1), np.int32)


def _factors(work: Pool, rows: Array, pixels: Array) -> Array:
    """float32[rows, pixels]: one over how many taps count."""
    if work.all_count:
        count = np.full((len(rows), len(pixels)), work.reads[0].rows.size, np.float64)
        count *= work.reads[0].pixels.size
    else:
        taken = [(r[:, 1] - r[:, 0]).astype(np.float64) for r in (rows, pixels)]
        count = np.multiply.outer(*taken)
    return np.ascontiguousarray(1 / np.maximum(count, 1), np.float32)


def _total(node: str, work: Total, layouts: Layouts, structure: str, lanes: int) -> list[Made]:
    x = work.reads[0]
    kernel = f"image_{'max' if work.largest else 'sum'}_f32_x{lanes}"
    operands = (x.plane.channels, x.plane.width, 1, float_bits(work.scale))
    step = ImageStep(node, kernel, operands, (x.value,), (work.write,), rows=x.plane.height)
    return [Made(step, (Corner(x.value, whole=True), Corner(work.write), None))]


def _gathered(
    node: str, work: Gathered, layouts: Layouts, structure: str, lanes: int
) -> list[Made]:
    made, done = [], 0
    for read, order in zip(work.reads, work.orders, strict=True):
        pixel = 4 * lanes
        table = np.ascontiguousarray(order, np.int32)
        operands = (len(order), work.plane.width, table, 1, pixel, pixel, 1)
        step = ImageStep(node, f"image_copy_f32_x{lanes}", operands, (read.value,), (work.write,))
        made.append(Made(step, (Corner(read.value), Corner(work.write, channel=done), None)))
        done += len(order)
    return made


EMITTERS: dict[type[ImageWork], Emitter] = {
    Convolution: convolution,
    Gathered: _gathered,
    Pointwise: _pointwise,
    Pool: _pool,
    Total: _total,
}


def float_bits(number: float) -> int:
    """A float32 in the low four bytes of a word."""
    return int(np.float32(number).view(np.uint32))


# ---- borders and padding ----------------------------------------------------------------------


def import_step(border: Border, plane: Plane, lanes: int) -> Made:
    kernel = f"image_import_{border.dtype.name}_x{lanes}"
    step = ImageStep("", kernel, _strides(border, plane), (), (border.value,), row_words=((24, 1),))
    return Made(step, (None, Corner(border.value), None))


def export_step(border: Border, plane: Plane, lanes: int) -> Made:
    kernel = f"image_export_f32_x{lanes}"
    step = ImageStep("", kernel, _strides(border, plane), (border.value,), (), row_words=((24, 1),))
    return Made(step, (Corner(border.value), None, None))


def _strides(border: Border, plane: Plane) -> tuple[int, ...]:
    """Words 17 to 25 of a border, for an array [N, C, H, W]."""
    area = plane.height * plane.width
    image = plane.channels * area
    return (plane.channels, plane.width, border.index, image, area, plane.width, 1, 0, 0)


def fills_of(layout: Layout, lanes: int) -> tuple[Fill, ...]:
    """Zeros beside the rows of a ring, in all its slots, and above and below them."""
    ring, plane = layout.ring, layout.plane
    row = ring.left + plane.width + ring.right
    parts = (
        (-ring.top, ring.slots, -ring.left, ring.left, False),
        (-ring.top, ring.slots, plane.width, ring.right, False),
        (-ring.top, ring.top, -ring.left, row, False),
        (plane.height, ring.bottom, -ring.left, row, True),
    )
    found = []
    for first, rows, pixel, pixels, below in parts:
        if rows and pixels:
            step = ImageStep(
                "", f"image_fill_f32_x{lanes}", (plane.channels, pixels, 0), (), (ring.value,)
            )
            made = Made(step, (None, Corner(ring.value, pixel=pixel), None))
            found.append(Fill(made, first, rows, below))
    return tuple(found)
