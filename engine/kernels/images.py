"""Element-wise work on pictures: activations, arithmetic, copies, sums over space.

Words: grids x 1-5, y 6-10, r 11-15 (see grids.py), 16 rows, 17 channels, 18 pixels of a row, then
as each says. In place where y is x or r. Lanes of images that do not exist compute on what lies
there and are never read.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.elementwise import apply, combine
from engine.kernels.functions import inline
from engine.kernels.grids import R, X, Y, channel_nbytes, row_of, word
from engine.kernels.pooling import largest
from engine.kernels.vector import (
    broadcast,
    like,
    load,
    load_float,
    load_i32,
    store,
    zeros,
)

_ROWS, _CHANNELS, _PIXELS = 16, 17, 18


def unary(lanes, name):
    """y = f(x; a, b). Word 19: address of (a, b)."""
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        shape, pair = zeros(lanes), word(step, 19)
        a, b = load_float(pair), load_float(pair + 4)
        for i in range(word(step, _ROWS)):
            x, y = row_of(step, X, arena, i), row_of(step, Y, arena, i)
            for _ in range(word(step, _CHANNELS)):
                for p in range(word(step, _PIXELS)):
                    store(y + p * size, apply(name, load(shape, x + p * size), a, b))
                x += channel_nbytes(step, X)
                y += channel_nbytes(step, Y)

    return kernel


def binary(lanes, name):
    """y = x op r."""
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        shape = zeros(lanes)
        for i in range(word(step, _ROWS)):
            x, y = row_of(step, X, arena, i), row_of(step, Y, arena, i)
            r = row_of(step, R, arena, i)
            for _ in range(word(step, _CHANNELS)):
                for p in range(0, word(step, _PIXELS) * size, size):
                    store(y + p, combine(name, load(shape, x + p), load(shape, r + p)))
                x += channel_nbytes(step, X)
                y += channel_nbytes(step, Y)
                r += channel_nbytes(step, R)

    return kernel


@inline
def _against_one(name, one_first, size, x, y, pixels, one):
    """A row of pixels, each op the same vector, or that op each."""
    for p in range(0, pixels * size, size):
        v = load(one, x + p)
        if one_first:
            store(y + p, combine(name, one, v))
        else:
            store(y + p, combine(name, v, one))


def binary_constant(lanes, name, constant_first):
    """y = x op c[channel], or c op x. Words 19 address of c, 20 bytes from one c to the next.

    A stride of 0 bytes is one constant for all channels.
    """
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        shape = zeros(lanes)
        for i in range(word(step, _ROWS)):
            x, y = row_of(step, X, arena, i), row_of(step, Y, arena, i)
            c = word(step, 19)
            for _ in range(word(step, _CHANNELS)):
                one = broadcast(shape, c)
                _against_one(name, constant_first, size, x, y, word(step, _PIXELS), one)
                x += channel_nbytes(step, X)
                y += channel_nbytes(step, Y)
                c += word(step, 20)

    return kernel


def gate(lanes, name, gate_first):
    """y = x op r, or r op x, with r of one row and one pixel: a number a channel and image."""
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        shape = zeros(lanes)
        for i in range(word(step, _ROWS)):
            x, y = row_of(step, X, arena, i), row_of(step, Y, arena, i)
            r = row_of(step, R, arena, 0)
            for _ in range(word(step, _CHANNELS)):
                one = load(shape, r)
                _against_one(name, gate_first, size, x, y, word(step, _PIXELS), one)
                x += channel_nbytes(step, X)
                y += channel_nbytes(step, Y)
                r += channel_nbytes(step, R)

    return kernel


def copy(lanes):
    """y's channel c = x's channel table[c].

    Words 19 address of the table int32[channels], 20 rows of x for one of the visit, 21 and 22
    bytes from a pixel to the next in x and in y, 23 rows of y for one of the visit: so slices with
    steps, and interleaving, are copies, too.
    """

    def kernel(step, arena, row, live, borders):
        shape = zeros(lanes)
        for i in range(word(step, _ROWS)):
            x = row_of(step, X, arena, i * word(step, 20))
            y, table = row_of(step, Y, arena, i * word(step, 23)), word(step, 19)
            for _ in range(word(step, _CHANNELS)):
                source, target = x + load_i32(table) * channel_nbytes(step, X), y
                for _ in range(word(step, _PIXELS)):
                    store(target, load(shape, source))
                    source += word(step, 21)
                    target += word(step, 22)
                y += channel_nbytes(step, Y)
                table += 4

    return kernel


def fill(lanes):
    """y = a number. Word 19: the number, a float32 in the word's low four bytes."""
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        value = like(zeros(lanes), load_float(step + 8 * 19))
        for i in range(word(step, _ROWS)):
            y = row_of(step, Y, arena, i)
            for _ in range(word(step, _CHANNELS)):
                for p in range(word(step, _PIXELS)):
                    store(y + p * size, value)
                y += channel_nbytes(step, Y)

    return kernel


def reduction(lanes, maximum):
    """y[channel] = the sum, or the largest, of all its pixels; y has one row and one pixel.

    Words 19 one where it starts anew, else y goes on from visits before; 20 a factor for y after
    the rows, a float32 in the word's low four bytes. A row is reduced by itself and then added, so
    that it does not matter which rows a visit has.
    """
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        shape = zeros(lanes)
        nothing = like(shape, float("-inf") if maximum else 0.0)
        factor, pixels = like(shape, load_float(step + 8 * 20)), word(step, _PIXELS)
        y = row_of(step, Y, arena, 0)
        for c in range(word(step, _CHANNELS)):
            total = nothing if word(step, 19) != 0 else load(shape, y)
            for i in range(word(step, _ROWS)):
                x = row_of(step, X, arena, i) + c * channel_nbytes(step, X)
                part = nothing
                for p in range(0, pixels * size, size):
                    v = load(shape, x + p)
                    part = largest(v, part) if maximum else part + v
                total = largest(part, total) if maximum else total + part
            store(y, total * factor)
            y += channel_nbytes(step, Y)

    return kernel
