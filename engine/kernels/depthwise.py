"""Depthwise convolution of lane groups of images: each output reads one channel.

y = clamp(conv(x, W) + bias + r), for M = C * multiplier outputs, output m of channel
m // multiplier. Every weight is multiplied: there are few. All taps of an output's R pixels are
summed in registers.

Words: the three grids (see grids.py), 16 rows, 17 rows of x for one of y, 18 address of groups
int32[n, 2] (bytes to a group's first pixel in x's row, and in y's and r's), 19 n, 20 M, 21 weights
float32[M, kh * kw], 22 kh, 23 kw, 24 rows from a ky to the next, 25 bytes from a kx to the next, 26
multiplier, 27 bias float32[M], 28 clamp float32[2], 29 bytes from a pixel of x to the next for
S = 0, 30 one where r is there.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.conv import begin, clamped
from engine.kernels.functions import forced
from engine.kernels.grids import R, X, Y, channel_nbytes, row_of, word
from engine.kernels.groups import fma_group, no_group, store_group
from engine.kernels.vector import broadcast, load_i32, zeros

X_SLOT_NBYTES = 4
"""The word of x's grid that a ring is walked by."""


@forced
def _window(lane, x_step, step, ring, row, pixel, weight, sums):
    """sums + the window's taps, from slot address `row` of a ring (its address, its bytes)."""
    start, nbytes = ring
    down, right = word(step, 24) * word(step, X_SLOT_NBYTES), word(step, 25)
    for _ in range(word(step, 22)):
        x = row + pixel
        for _ in range(word(step, 23)):
            sums = fma_group(broadcast(lane, weight), x, x_step, sums)
            x += right
            weight += 4
        row += down
        if row >= start + nbytes:
            row -= nbytes
    return sums


@forced
def _row(shape, lane, size, x_step, step, ring, x, y, r):
    """One row of all outputs, from the addresses of the first pixels of channel and output 0."""
    outputs, multiplier, weight = word(step, 20), word(step, 26), word(step, 21)
    taps, bias = word(step, 22) * word(step, 23), word(step, 27)
    channel = 0
    for first in range(0, outputs, multiplier):
        for m in range(first, first + multiplier):
            out, add = y + m * channel_nbytes(step, Y), 0
            group = word(step, 18)
            for _ in range(word(step, 19)):
                x_first, y_first = load_i32(group), load_i32(group + 4)
                if r != 0:
                    add = r + m * channel_nbytes(step, R) + y_first
                sums = begin(shape, lane, size, bias, add)
                sums = _window(lane, x_step, step, ring, x, channel + x_first, weight, sums)
                store_group(out + y_first, size, clamped(shape, lane, word(step, 28), sums))
                group += 8
            weight += 4 * taps
            bias += 4
        channel += channel_nbytes(step, X)


def depthwise(lanes, pixels, stride):
    """The kernel for groups of `pixels` pixels, `stride` apart in x (0: as word 29 says)."""
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        shape, lane = no_group(pixels, lanes), zeros(lanes)
        x_step = stride * size if stride else word(step, 29)
        ring = row_of(step, X, arena, -word(step, 2)), word(step, 3) * word(step, X_SLOT_NBYTES)
        for y_row in range(word(step, 16)):
            x = row_of(step, X, arena, y_row * word(step, 17))
            r = row_of(step, R, arena, y_row) if word(step, 30) != 0 else 0
            _row(shape, lane, size, x_step, step, ring, x, row_of(step, Y, arena, y_row), r)

    return kernel
