"""Windows over pictures that have no weights: the largest of their pixels, or their mean.

Words: grids x 1-5 and y 6-10 (see grids.py), where x's first pixel is that of kx = 0 of y's first;
16 rows, 17 rows of x for one of y, 18 address of int32[rows, 2]: first and end ky of each of the
visit's rows, 19 address of int32[pixels, 2]: first and end kx of each pixel, 20 pixels, 21
channels, 22 bytes of x from a pixel of y to the next, 23 bytes from a kx to the next, 24 rows from
a ky to the next; `sumpool` has 25 address of float32[rows, pixels]: what each sum is multiplied by.

The ends leave out padding, which is never read: the largest of a window is that of its pixels.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import inline
from engine.kernels.grids import X, Y, channel_nbytes, row_of, word
from engine.kernels.vector import at_least, broadcast, if_nan, like, load, load_i32, store, zeros


@inline
def largest(x, y):
    """The larger of x and y; NaN where either is."""
    return if_nan(y, y, at_least(x, y))


@inline
def _window(maximum, step, arena, row, ky, kx, offset, sums):
    """sums and the window's pixels; ky and kx are addresses of first and end."""
    right = word(step, 23)
    for k in range(load_i32(ky), load_i32(ky + 4)):
        x = row_of(step, X, arena, row + k * word(step, 24)) + offset
        for column in range(load_i32(kx), load_i32(kx + 4)):
            pixel = load(sums, x + column * right)
            sums = largest(pixel, sums) if maximum else sums + pixel
    return sums


def pool(lanes, maximum):
    """The kernel: largest, or sum times a factor."""
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        nothing = like(zeros(lanes), float("-inf") if maximum else 0.0)
        pixels = word(step, 20)
        for i in range(word(step, 16)):
            y, ky = row_of(step, Y, arena, i), word(step, 18) + 8 * i
            for c in range(word(step, 21)):
                channel = c * channel_nbytes(step, X)
                for p in range(pixels):
                    kx, offset = word(step, 19) + 8 * p, channel + p * word(step, 22)
                    x_row = i * word(step, 17)
                    sums = _window(maximum, step, arena, x_row, ky, kx, offset, nothing)
                    if not maximum:
                        sums = sums * broadcast(sums, word(step, 25) + 4 * (i * pixels + p))
                    store(y + p * size, sums)
                y += channel_nbytes(step, Y)

    return kernel
