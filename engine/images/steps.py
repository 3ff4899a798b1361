"""From the work of an image operator to its steps: kernels, words, and where each grid begins.

EMITTERS has a function for each kind of work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.border import Border
from engine.images.convolving import convolution
from engine.images.corners import Corner, Fill, Made, Site
from engine.images.layout import Layout
from engine.images.picking import blended, picked
from engine.images.segment import ImageStep, float_bits
from engine.ops.image_work import (
    Blended,
    Convolution,
    Gathered,
    ImageWork,
    Picked,
    Plane,
    Pointwise,
    Pool,
    Spread,
    Total,
    Window,
)

Array = np.ndarray[Any, Any]

Emitter = Callable[[Site, Any], list[Made]]


def steps_of(site: Site, work: ImageWork) -> list[Made]:
    """The steps of one node, for each visit in this order."""
    return EMITTERS[type(work)](site, work)


# ---- what multiplies nothing ------------------------------------------------------------------


def _pointwise(site: Site, work: Pointwise) -> list[Made]:
    operands = (work.plane.channels, work.plane.width, *work.operands)
    x, *rest = work.reads
    r = Corner(rest[0].value, whole=rest[0].whole) if rest else None
    step = ImageStep(
        node=site.node,
        kernel=site.kernel(f"image_{work.kernel}"),
        operands=operands,
        reads=tuple(v.value for v in work.reads),
        writes=(work.write,),
        detail=work.detail,
    )
    return [Made(step, (Corner(x.value), Corner(work.write), r))]


def _pool(site: Site, work: Pool) -> list[Made]:
    x, pixel = work.reads[0], site.pixel_nbytes
    rows = _ranges(x.rows, work.plane.height, x.plane.height)
    pixels = _ranges(x.pixels, work.plane.width, x.plane.width)
    operands: tuple[Array | int, ...] = (
        x.rows.stride, rows, pixels, work.plane.width, work.plane.channels,
        x.pixels.stride * pixel, x.pixels.dilation * pixel, x.rows.dilation,
    )  # fmt: skip
    row_words = [(18, rows.strides[0])]
    if work.mean:
        factors = _factors(work, rows, pixels)
        operands = (*operands, factors)
        row_words.append((25, factors.strides[0]))
    step = ImageStep(
        node=site.node,
        kernel=site.kernel("sumpool_f32" if work.mean else "maxpool_f32"),
        operands=operands,
        reads=(x.value,),
        writes=(work.write,),
        row_words=tuple(row_words),
    )
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


def _padded_ranges(window: Window, results: int, inputs: int) -> Array:
    """The same with the padding in front as part of the input."""
    return _ranges(replace(window, before=0), results, inputs + window.before)


def _factors(work: Pool, rows: Array, pixels: Array) -> Array:
    """float32[rows, pixels]: one over how many taps count."""
    if work.counted is not None:
        x = work.reads[0]
        rows = _padded_ranges(x.rows, work.plane.height, x.plane.height + work.counted[0])
        pixels = _padded_ranges(x.pixels, work.plane.width, x.plane.width + work.counted[1])
    taken = [(r[:, 1] - r[:, 0]).astype(np.float64) for r in (rows, pixels)]
    count = np.multiply.outer(*taken)
    return np.ascontiguousarray(1 / np.maximum(count, 1), np.float32)


def _total(site: Site, work: Total) -> list[Made]:
    (x,) = work.reads
    kernel = site.kernel("image_max_f32" if work.largest else "image_sum_f32")
    operands = (x.plane.channels, x.plane.width, 1, float_bits(work.scale))
    step = ImageStep(site.node, kernel, operands, (x.value,), (work.write,), rows=x.plane.height)
    return [Made(step, (Corner(x.value, whole=True), Corner(work.write), None))]


def _gathered(site: Site, work: Gathered) -> list[Made]:
    made, done, pixel = [], 0, site.pixel_nbytes
    kernel = site.kernel("image_copy_f32")
    for read, order in zip(work.reads, work.orders, strict=True):
        table = np.ascontiguousarray(order, np.int32)
        operands = (len(order), work.plane.width, table, 1, pixel, pixel, 1)
        step = ImageStep(site.node, kernel, operands, (read.value,), (work.write,))
        made.append(Made(step, (Corner(read.value), Corner(work.write, channel=done), None)))
        done += len(order)
    return made


def _spread(site: Site, work: Spread) -> list[Made]:
    """A copy for each row and pixel of a block."""
    (read,), (high, wide), pixel = work.reads, work.block, site.pixel_nbytes
    made, kernel = [], site.kernel("image_copy_f32")
    for i, j in np.ndindex(high, wide):
        table = np.ascontiguousarray(work.orders[i][j], np.int32)
        pixels = -((j - work.plane.width) // wide)
        operands = (len(table), pixels, table, 1, pixel, wide * pixel, high)
        step = ImageStep(site.node, kernel, operands, (read.value,), (work.write,), every=(high, i))
        corner = Corner(work.write, Window(before=-i), pixel=j)
        made.append(Made(step, (Corner(read.value, read.rows), corner, None)))
    return made


EMITTERS: dict[type[ImageWork], Emitter] = {
    Blended: blended,
    Convolution: convolution,
    Gathered: _gathered,
    Picked: picked,
    Pointwise: _pointwise,
    Pool: _pool,
    Spread: _spread,
    Total: _total,
}


# ---- borders and padding ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bordered:
    """A value that comes from an array, or goes to one."""

    plane: Plane
    value: str
    strides: tuple[int, ...] = ()
    """Elements of the array from an image, channel, row and pixel to the next; none are those of
    [N, C, H, W]."""
    node: str = ""

    def words(self, border: Border) -> tuple[int, ...]:
        """17 to 25 of a step."""
        plane, area = self.plane, self.plane.height * self.plane.width
        strides = self.strides or (plane.channels * area, area, plane.width, 1)
        return (plane.channels, plane.width, border.index, *strides, 0, 0)


def import_step(border: Border, to: Bordered, lanes: int) -> Made:
    kernel = f"image_import_{border.dtype.name}_x{lanes}"
    step = ImageStep(to.node, kernel, to.words(border), (), (to.value,), row_words=((24, 1),))
    return Made(step, (None, Corner(to.value), None))


def export_step(border: Border, of: Bordered, lanes: int) -> Made:
    kernel = f"image_export_f32_x{lanes}"
    step = ImageStep(of.node, kernel, of.words(border), (of.value,), (), row_words=((24, 1),))
    return Made(step, (Corner(of.value), None, None))


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
