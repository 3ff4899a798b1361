"""The steps of what takes pixels by index, or sums a few of them: tables for each row and pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.images.corners import Corner, Made, Site
from engine.images.segment import ImageStep, float_bits
from engine.ops.image_work import Blend, Blended, Part, Picked, Read

Array = np.ndarray[Any, Any]


def picked(site: Site, work: Picked) -> list[Made]:
    """What no part covers first, then one part after the other."""
    made = []
    if work.fill is not None:
        operands = (work.plane.channels, work.plane.width, float_bits(work.fill))
        step = ImageStep(site.node, site.kernel("image_fill_f32"), operands, (), (work.write,))
        made.append(Made(step, (None, Corner(work.write), None)))
    return made + [
        _part(site, work.write, read, part)
        for read, part in zip(work.reads, work.parts, strict=True)
    ]


def _part(site: Site, write: str, read: Read, part: Part) -> Made:
    tables = (part.order, part.rows, part.pixels * site.pixel_nbytes)
    operands: tuple[Array | int, ...] = (len(part.order), len(part.pixels))
    operands += tuple(_words(table, np.int32) for table in tables)
    kernel = site.kernel("image_pick_f32")
    step = ImageStep(site.node, kernel, operands, (read.value,), (write,), row_words=((20, 4),))
    corner = Corner(write, channel=part.channel, pixel=part.pixel)
    return Made(step, (Corner(read.value, whole=True), corner, None))


def blended(site: Site, work: Blended) -> list[Made]:
    (read,), taps = work.reads, work.rows.places.shape[1]
    operands = (
        work.plane.channels, work.plane.width,
        *_tables(work.rows, 1), *_tables(work.pixels, site.pixel_nbytes),
    )  # fmt: skip
    step = ImageStep(
        node=site.node,
        kernel=site.kernel(f"image_blend{taps}_f32"),
        operands=operands,
        reads=(read.value,),
        writes=(work.write,),
        row_words=((19, 4 * taps), (20, 4 * taps)),
    )
    return [Made(step, (Corner(read.value, whole=True), Corner(work.write), None))]


def _tables(blend: Blend, unit: int) -> tuple[Array, Array]:
    return _words(blend.places * unit, np.int32), _words(blend.weights, np.float32)


def _words(table: Array, kind: type[np.int32] | type[np.float32]) -> Array:
    return np.ascontiguousarray(table, kind)
