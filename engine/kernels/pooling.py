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
def _taken(maximum, x, sums):
    """sums and the pixel at x."""
    pixel = load(sums, x)
    return largest(pixel, sums) if maximum else sums + pixel


@inline
def _along(maximum, x, first, end, right, sums):
    """sums and the pixels first..end-1 of a row, `right` bytes apart; three are most windows."""
    if end - first == 3:
        x += first * right
        sums = _taken(maximum, x, sums)
        sums = _taken(maximum, x + right, sums)
        return _taken(maximum, x + 2 * right, sums)
    for column in range(first, end):
        sums = _taken(maximum, x + column * right, sums)
    return sums


@inline
def _row(maximum, size, step, x, y, nothing):
    """Every pixel of y and its window's pixels in one row of x."""
    stride, right, kx = word(step, 22), word(step, 23), word(step, 19)
    for p in range(word(step, 20)):
        first, end = load_i32(kx + 8 * p), load_i32(kx + 8 * p + 4)
        sums = load(nothing, y + p * size)
        store(y + p * size, _along(maximum, x + p * stride, first, end, right, sums))


def pool(lanes, maximum):
    """The kernel: largest, or sum times a factor. Row by row of the windows, whose places in the
    ring are found once for all pixels (pixel by pixel ResNet-50's took 0.24 ms an image of 16 and
    0.38 of 8 on Zen 4)."""
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        nothing = like(zeros(lanes), float("-inf") if maximum else 0.0)
        pixels = word(step, 20)
        for i in range(word(step, 16)):
            y, ky = row_of(step, Y, arena, i), word(step, 18) + 8 * i
            for c in range(word(step, 21)):
                for p in range(pixels):
                    store(y + p * size, nothing)
                for k in range(load_i32(ky), load_i32(ky + 4)):
                    x = row_of(step, X, arena, i * word(step, 17) + k * word(step, 24))
                    x += c * channel_nbytes(step, X)
                    _row(maximum, size, step, x, y, nothing)
                if not maximum:
                    for p in range(pixels):
                        factor = broadcast(nothing, word(step, 25) + 4 * (i * pixels + p))
                        store(y + p * size, load(nothing, y + p * size) * factor)
                y += channel_nbytes(step, Y)

    return kernel
