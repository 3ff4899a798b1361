"""Pixels of one picture taken by index: slices, flips, pads, and sizes that are no whole multiples.

Words: grids x 1-5, whose first row is the picture's own, and y 6-10 (see grids.py), 16 rows, 17
channels, 18 pixels of a row, then as each says. Rows of x are told by their number in the picture.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import inline
from engine.kernels.grids import X, Y, channel_nbytes, row_of, word
from engine.kernels.vector import broadcast, fma, load, load_i32, store, zeros

_ROWS, _CHANNELS, _PIXELS = 16, 17, 18


def pick(lanes):
    """y's channel c, row i, pixel p = x's channel channels[c], row rows[i], pixel pixels[p].

    Words 19 address of int32[channels], 20 address of int32[rows], below zero for a row of y that
    is left alone, 21 address of int32[pixels]: bytes from the first pixel of a row of x.
    """
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        shape = zeros(lanes)
        for i in range(word(step, _ROWS)):
            taken = load_i32(word(step, 20) + 4 * i)
            if taken >= 0:
                x, y = row_of(step, X, arena, taken), row_of(step, Y, arena, i)
                table = word(step, 19)
                for _ in range(word(step, _CHANNELS)):
                    source = x + load_i32(table) * channel_nbytes(step, X)
                    for p in range(word(step, _PIXELS)):
                        offset = load_i32(word(step, 21) + 4 * p)
                        store(y + p * size, load(shape, source + offset))
                    y += channel_nbytes(step, Y)
                    table += 4

    return kernel


@inline
def _along(taps, nothing, x, offsets, weights):
    """The weighted sum of a pixel's taps in one row of x; `nothing` is a vector of zeros."""
    total = nothing
    for k in range(taps):
        pixel = load(nothing, x + load_i32(offsets + 4 * k))
        total = fma(broadcast(nothing, weights + 4 * k), pixel, total)
    return total


def blend(lanes, taps):
    """y's row i, pixel p = the sum of a[i, j] * b[p, k] * x's row rows[i, j], pixel pixels[p, k].

    Words 19 address of int32[rows, taps], 20 address of float32[rows, taps]: their weights a,
    21 address of int32[pixels, taps]: bytes from the first pixel of a row of x, 22 address of
    float32[pixels, taps]: b.
    """
    size, nbytes = 4 * lanes, 4 * taps

    def kernel(step, arena, row, live, borders):
        nothing = zeros(lanes)
        for i in range(word(step, _ROWS)):
            y = row_of(step, Y, arena, i)
            for c in range(word(step, _CHANNELS)):
                for j in range(taps):
                    place = i * nbytes + 4 * j
                    x = row_of(step, X, arena, load_i32(word(step, 19) + place))
                    x += c * channel_nbytes(step, X)
                    share = broadcast(nothing, word(step, 20) + place)
                    for p in range(word(step, _PIXELS)):
                        offsets, weights = word(step, 21) + p * nbytes, word(step, 22) + p * nbytes
                        part = _along(taps, nothing, x, offsets, weights)
                        before = nothing if j == 0 else load(nothing, y + p * size)
                        store(y + p * size, fma(share, part, before))
                y += channel_nbytes(step, Y)

    return kernel
