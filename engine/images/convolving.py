"""The steps of a convolution: slabs of its outputs, groups of pixels, activations in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.images.corners import Corner, Made, Site
from engine.images.cycles import (
    Grouping,
    grouping_of,
    is_depthwise,
    packing_of,
    skips_zeros,
)
from engine.images.segment import ImageStep
from engine.ops.image_work import Convolution
from engine.packing import round_up
from engine.segments import SLICE
from engine.steps import split_clamp
from engine.window_packing import Taps, pack_conv

Array = np.ndarray[Any, Any]

SLAB_NBYTES = 256 * 1024
"""Packed weights of a step: they stay in L2 while the pixels of a visit pass."""


def convolution(site: Site, work: Convolution) -> list[Made]:
    clamp, after = split_clamp(work.activations)
    grouping = grouping_of(work, site.structure, site.lanes)
    frame = _ConvFrame(site, work, grouping, np.array(clamp, np.float32))
    if is_depthwise(work):
        made = [frame.depthwise()]
    else:
        made = [frame.slab(rows) for rows in _slabs(work, site.structure)]
    corner = Corner(work.write)
    for name, a, b in after:
        operands = (work.plane.channels, work.plane.width, np.array((a, b), np.float32))
        kernel = site.kernel(f"image_{name.lower()}_f32")
        step = ImageStep(site.node, kernel, operands, (work.write,), (work.write,))
        made.append(Made(step, (corner, corner, None)))
    return made


def _slabs(work: Convolution, structure: str) -> list[range]:
    """Outputs of one group each, in parts whose packed weights stay in L2."""
    outputs, found = len(work.weights) // work.group, []
    for first in range(0, len(work.weights), outputs):
        weights = work.weights[first : first + outputs]
        taken = 8 * int(np.count_nonzero(weights))
        nbytes = taken if skips_zeros(structure) else 4 * weights.size
        parts = max(1, -(-nbytes // SLAB_NBYTES))
        size = round_up(-(-outputs // parts), SLICE)
        found += [
            range(i, min(i + size, first + outputs)) for i in range(first, first + outputs, size)
        ]
    return found


@dataclass(frozen=True, slots=True)
class _ConvFrame:
    """What all steps of one convolution share."""

    site: Site
    work: Convolution
    grouping: Grouping
    bounds: Array

    def slab(self, rows: range) -> Made:
        """Some outputs of one group, by sparse or blocked weights."""
        site, work, x = self.site, self.work, self.work.reads[0]
        weights = work.weights[rows.start : rows.stop]
        taps = Taps(
            lanes=site.lanes,
            channel_nbytes=site.layouts[x.value].channel_nbytes,
            dilations=(x.rows.dilation, x.pixels.dilation),
            pixels=self.grouping.pixels,
            stride=x.pixels.stride,
            block_nbytes=self.grouping.block_nbytes,
        )
        packed = pack_conv(packing_of(site.structure), weights, taps)
        streams: tuple[Array | int, ...] = (*packed.streams, *packed.numbers)
        words = (len(rows), *streams, self._bias(rows), self.bounds, self._asks(len(rows), taps))
        inputs = work.weights.shape[1]
        channel = rows.start // (len(work.weights) // work.group) * inputs
        return self._made(words, rows, channel)

    def _asks(self, outputs: int, taps: Taps) -> int:
        """Channels of a block for each output, so that it has asked for all when it ends."""
        _, channels, _, columns = (int(n) for n in self.work.weights.shape)
        return -(-min(channels, taps.block_channels(columns)) // outputs)

    def depthwise(self) -> Made:
        work, x = self.work, self.work.reads[0]
        outputs, _, height, width = work.weights.shape
        words = (
            outputs, np.ascontiguousarray(work.weights, np.float32).reshape(outputs, -1),
            height, width, x.rows.dilation, x.pixels.dilation * self.site.pixel_nbytes,
            outputs // work.group, self._bias(range(outputs)), self.bounds,
        )  # fmt: skip
        return self._made(words, range(outputs), 0)

    def _bias(self, rows: range) -> Array:
        return np.ascontiguousarray(self.work.bias[rows.start : rows.stop], np.float32)

    def _made(self, words: tuple[Array | int, ...], rows: range, channel: int) -> Made:
        """The step of `words` 20 to 28, for outputs `rows` and inputs from `channel` on."""
        work, x = self.work, self.work.reads[0]
        groups = self._groups(self.grouping.pixels)
        r = None
        if len(work.reads) > 1:
            r = Corner(work.reads[1].value, channel=rows.start)
        stride_nbytes = x.pixels.stride * self.site.pixel_nbytes
        front = (x.rows.stride, groups, len(groups))
        seen = (work.weights.shape[3] - 1) * x.pixels.dilation * self.site.pixel_nbytes
        operands = (*front, *words, stride_nbytes, int(r is not None), seen)
        pixels = work.plane.height * work.plane.width
        weights = work.weights[rows.start : rows.stop]
        zeros = weights.size - int(np.count_nonzero(weights))
        step = ImageStep(
            node=self.site.node,
            kernel=self.grouping.kernel.name,
            operands=operands,
            reads=tuple(read.value for read in work.reads),
            writes=(work.write,),
            detail=f"{weights.size - zeros} of {'x'.join(map(str, weights.shape))}",
            multiply_adds=weights.size * pixels,
            nonzeros=(weights.size - zeros) * pixels,
        )
        corner = Corner(x.value, x.rows, channel, -x.pixels.before)
        return Made(step, (corner, Corner(work.write, channel=rows.start), r))

    def _groups(self, pixels: int) -> Array:
        """int32[n, 2]: bytes to a group's first pixel in a row of x, and in one of y. The last
        group ends with the row, and may do again what the one before it did."""
        width, stride = self.work.plane.width, self.work.reads[0].pixels.stride
        first = np.minimum(np.arange(0, width, pixels), width - pixels)
        return np.ascontiguousarray(
            np.stack([first * stride, first], axis=1) * self.site.pixel_nbytes, np.int32
        )
