"""Depthwise convolution of lane groups of images: each output reads one channel.

y = clamp(conv(x, W) + bias + r), for M = C * multiplier outputs, output m of channel
m // multiplier. Every weight is multiplied: there are few. All taps of an output's R pixels are
summed in registers; three taps side by side share the pixels that they load. Then L2 bounds it, so
a visit of several rows is faster than several of one (Zen 4, 16 lanes, 3x3 at 28x28: 67 % of the
core's peak with one row, 77 with two, 85 with four).

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


@forced
def _window(lane, size, x_step, step, ring, row, pixel, weight, sums):
    """sums + the window's taps, from slot address `row` of a ring (its end, its bytes)."""
    end, nbytes, channel = ring
    down, right = word(step, 24) * word(step, 4), word(step, 25)
    for _ in range(word(step, 22)):
        x = row + channel + pixel
        if word(step, 23) == 3 and right == size:
            sums = fma_group(broadcast(lane, weight), x, x_step, sums)
            sums = fma_group(broadcast(lane, weight + 4), x + size, x_step, sums)
            sums = fma_group(broadcast(lane, weight + 8), x + 2 * size, x_step, sums)
            weight += 12
        else:
            for _ in range(word(step, 23)):
                sums = fma_group(broadcast(lane, weight), x, x_step, sums)
                x += right
                weight += 4
        row += down
        if row >= end:
            row -= nbytes
    return sums


@forced
def _row(shape, lane, size, x_step, step, ring, x, weight, bias, y, r):
    """One row of one output, from the addresses of the first pixels of x, y and r."""
    group = word(step, 18)
    for _ in range(word(step, 19)):
        x_first, y_first = load_i32(group), load_i32(group + 4)
        sums = begin(shape, lane, size, bias, r + y_first if r != 0 else 0)
        sums = _window(lane, size, x_step, step, ring, x, x_first, weight, sums)
        store_group(y + y_first, size, clamped(shape, lane, word(step, 28), sums))
        group += 8


def depthwise(lanes, pixels, stride):
    """The kernel for groups of `pixels` pixels, `stride` apart in x (0: as word 29 says).

    All of a visit's rows of one output before the next: rows that windows share stay in L1.
    """
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        shape, lane = no_group(pixels, lanes), zeros(lanes)
        x_step = stride * size if stride else word(step, 29)
        ring, nbytes = row_of(step, X, arena, -word(step, 2)), word(step, 3) * word(step, 4)
        weight, bias, taps = word(step, 21), word(step, 27), word(step, 22) * word(step, 23)
        multiplier = word(step, 26)
        for m in range(word(step, 20)):
            channel = m // multiplier * channel_nbytes(step, X)
            for y_row in range(word(step, 16)):
                x = row_of(step, X, arena, y_row * word(step, 17))
                y = row_of(step, Y, arena, y_row) + m * channel_nbytes(step, Y)
                r = 0
                if word(step, 30) != 0:
                    r = row_of(step, R, arena, y_row) + m * channel_nbytes(step, R)
                ends = ring + nbytes, nbytes, channel
                _row(shape, lane, size, x_step, step, ends, x, weight, bias, y, r)
            weight += 4 * taps
            bias += 4

    return kernel
