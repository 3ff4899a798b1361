"""A slice: the sums of four outputs of a product, begun, written, and ended."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.calling import call_kernel
from engine.kernels.functions import forced
from engine.kernels.vector import at_least, at_most, broadcast, fma, load, load_i64, store

LOW = 0xFFFFFFFF
"""The lower one of two offsets in a word."""


@forced
def begun(shape, y, row, bias, first):
    """The sums of four outputs at `y`, `row` bytes apart: of the bias in the first block of inputs,
    of what was written later on."""
    if first:
        return (
            broadcast(shape, bias),
            broadcast(shape, bias + 4),
            broadcast(shape, bias + 8),
            broadcast(shape, bias + 12),
        )
    return (
        load(shape, y),
        load(shape, y + row),
        load(shape, y + 2 * row),
        load(shape, y + 3 * row),
    )


@forced
def added(sums, weights, v):
    """One input more: sums + weights * v."""
    (a0, a1, a2, a3), (w0, w1, w2, w3) = sums, weights
    return fma(w0, v, a0), fma(w1, v, a1), fma(w2, v, a2), fma(w3, v, a3)


@forced
def ending(step, words, live):
    """What becomes of sums in the end, by the last three words of a linear kernel, from `words` on:
    address of float32[4] (bounds of the sums, then a and b of the epilogue), address of the
    epilogue's code or 0, and the panel that is added: y itself where none is."""
    ends, code = load_i64(words), load_i64(words + 8)
    return ends, code, load_i64(words + 16) - load_i64(step + 16), live


@forced
def ended(y, first_two, last_two, sums, end):
    """Writes the last sums of four outputs: with what is added, within bounds that let NaN through,
    and through the epilogue. Two offsets in y are one word, as epilogue.py takes them."""
    ends, code, rest, live = end
    (a0, a1, a2, a3), y0, y1 = sums, y + (first_two & LOW), y + (first_two >> 32)
    y2, y3 = y + (last_two & LOW), y + (last_two >> 32)
    if rest != 0:
        a0, a1 = a0 + load(a0, y0 + rest), a1 + load(a1, y1 + rest)
        a2, a3 = a2 + load(a2, y2 + rest), a3 + load(a3, y3 + rest)
    low, high = broadcast(a0, ends), broadcast(a0, ends + 4)
    store(y0, at_most(at_least(a0, low), high))
    store(y1, at_most(at_least(a1, low), high))
    store(y2, at_most(at_least(a2, low), high))
    store(y3, at_most(at_least(a3, low), high))
    if code != 0:
        call_kernel(code, ends + 8, y, first_two, last_two, live)


@forced
def written(y, row, sums, end, last):
    """Puts the sums back to where `begun` would take them from; after the last block of inputs as
    they are in the end."""
    if last:
        ended(y, row << 32, 2 * row | (3 * row) << 32, sums, end)
    else:
        a0, a1, a2, a3 = sums
        store(y, a0)
        store(y + row, a1)
        store(y + 2 * row, a2)
        store(y + 3 * row, a3)
