"""Sparse weights times a panel: y[M, T] = clamp(W[M, K] @ x[K, T] + bias[M]).

SELL4: rows of W are sorted by their number of non-zeros and taken four at a time (a *slice*), each
row with its own column indices; one step is one non-zero of each of the four rows. The inputs are
cut into blocks so that a block of the panel stays in L1 while all rows pass over it. Sorting makes
the four rows of a slice equally long, or nearly: what a row has beyond the shortest of its slice
are its *extras*, taken one by one. So no zero is ever multiplied, and NaN and infinity in inputs
that no weight touches stay out of the result.

    per block, per slice: head[8] = y offset of each of the 4 rows, steps, extras, -, - (int32)
              per step:   offset[4] of each row's input in the block of x, bytes (uint16)
                          value[4] (float32)
              per extra:  y offset (int32), x offset (int32), value (float32), -

Slices, sorting and padding-free variants of it: SELL-C-sigma, Kreutzer et al., 2014.

BLK4: row blocks of 4x1, four neighbouring outputs that share one input. A step is one block: its
input is loaded once for four rows, so the multiply-adds bound it and not the loads. It pays where
the model was pruned in such blocks, or is so dense that they are mostly full.

    per block of inputs, per slice: head[2] = y offset of the first of the 4 rows, steps (int32)
              per step:   offset of the shared input in the block of x, bytes (uint16)
                          value[4] (float32), zero where the row has no weight

Machine code (Zen 3, 16 points, numba 0.68), a step: 1 load of 4 indices, 1 load of 4 weights,
4 shuffles, 8 multiply-adds with memory operands, 8 accumulators, no spill. 4.8 cycles when all
is in L1 against 4.5 by the load ports; 62-67 GFLOP/s of non-zero work at 90 % zeros, of a core
that peaks at 102. With AVX-512 and 32 points (Xeon): 4 loads of a weight each instead of one and
shuffles, the rest alike in registers twice as wide. 8.0 to 8.6 cycles, because every input is two
loads of 64 bytes; 110-120 GFLOP/s at 80 to 90 % zeros, of a core that peaks at 241. On Zen 4
AVX-512 deals weights by shuffles again: 10 cycles of which the multiply-adds need 8, 81-89 GFLOP/s
at 90 and 80 % zeros, of a core that peaks at 115; with a load for each weight 71-78.
tests/engine/test_machine_code.py reads all three.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import four_weights, inline
from engine.kernels.vector import (
    at_least,
    at_most,
    broadcast,
    fma,
    half_word,
    load,
    load_i32,
    load_i64,
    load_u16,
    store,
    zeros,
)


@inline
def _step(shape, offsets, values, x, a0, a1, a2, a3):
    """One non-zero of each of four rows."""
    w0, w1, w2, w3 = four_weights(shape, values)
    word = load_i64(offsets)
    a0 = fma(w0, load(shape, x + half_word(word, 0)), a0)
    a1 = fma(w1, load(shape, x + half_word(word, 1)), a1)
    a2 = fma(w2, load(shape, x + half_word(word, 2)), a2)
    a3 = fma(w3, load(shape, x + half_word(word, 3)), a3)
    return a0, a1, a2, a3


@inline
def _extras(shape, extras, count, x, y):
    """Adds the non-zeros that rows have beyond their slice's steps, in memory: they are few."""
    for _ in range(count):
        row = y + load_i32(extras)
        w = broadcast(shape, extras + 8)
        store(row, fma(w, load(shape, x + load_i32(extras + 4)), load(shape, row)))
        extras += 16
    return extras


@inline
def _sell4(shape, points, step, x, y):
    """The whole product for one column; see the module for the streams. `step` words 3..11."""
    head, offsets = load_i64(step + 24), load_i64(step + 32)
    values, extras = load_i64(step + 40), load_i64(step + 48)
    blocks, slices, block_nbytes = load_i64(step + 56), load_i64(step + 64), load_i64(step + 72)
    bias, clamp = load_i64(step + 80), load_i64(step + 88)
    low, high = broadcast(shape, clamp), broadcast(shape, clamp + 4)
    for block in range(blocks):
        for _ in range(slices):
            r0, r1 = load_i32(head), load_i32(head + 4)
            r2, r3 = load_i32(head + 8), load_i32(head + 12)
            steps, count = load_i32(head + 16), load_i32(head + 20)
            head += 32
            if block == 0:  # an offset in y is a row times points floats, one in bias a float
                a0 = broadcast(shape, bias + r0 // points)
                a1 = broadcast(shape, bias + r1 // points)
                a2 = broadcast(shape, bias + r2 // points)
                a3 = broadcast(shape, bias + r3 // points)
            else:
                a0, a1 = load(shape, y + r0), load(shape, y + r1)
                a2, a3 = load(shape, y + r2), load(shape, y + r3)
            for _ in range(steps):
                a0, a1, a2, a3 = _step(shape, offsets, values, x, a0, a1, a2, a3)
                offsets += 8
                values += 16
            if count > 0:
                store(y + r0, a0)
                store(y + r1, a1)
                store(y + r2, a2)
                store(y + r3, a3)
                extras = _extras(shape, extras, count, x, y)
                a0, a1 = load(shape, y + r0), load(shape, y + r1)
                a2, a3 = load(shape, y + r2), load(shape, y + r3)
            if block == blocks - 1:
                a0, a1 = at_most(at_least(a0, low), high), at_most(at_least(a1, low), high)
                a2, a3 = at_most(at_least(a2, low), high), at_most(at_least(a3, low), high)
            store(y + r0, a0)
            store(y + r1, a1)
            store(y + r2, a2)
            store(y + r3, a3)
        x += block_nbytes


@inline
def _blk4(shape, points, step, x, y):
    """The whole product for one column; see the module for the streams. `step` words 3..10."""
    head, offsets, values = load_i64(step + 24), load_i64(step + 32), load_i64(step + 40)
    blocks, slices, block_nbytes = load_i64(step + 48), load_i64(step + 56), load_i64(step + 64)
    bias, clamp = load_i64(step + 72), load_i64(step + 80)
    low, high = broadcast(shape, clamp), broadcast(shape, clamp + 4)
    row = 4 * points
    for block in range(blocks):
        for _ in range(slices):
            out, steps = y + load_i32(head), load_i32(head + 4)
            if block == 0:
                b = bias + load_i32(head) // points
                a0, a1 = broadcast(shape, b), broadcast(shape, b + 4)
                a2, a3 = broadcast(shape, b + 8), broadcast(shape, b + 12)
            else:
                a0, a1 = load(shape, out), load(shape, out + row)
                a2, a3 = load(shape, out + 2 * row), load(shape, out + 3 * row)
            head += 8
            for _ in range(steps):
                (w0, w1, w2, w3), v = (
                    four_weights(shape, values),
                    load(shape, x + load_u16(offsets)),
                )
                a0 = fma(w0, v, a0)
                a1 = fma(w1, v, a1)
                a2 = fma(w2, v, a2)
                a3 = fma(w3, v, a3)
                offsets += 2
                values += 16
            if block == blocks - 1:
                a0, a1 = at_most(at_least(a0, low), high), at_most(at_least(a1, low), high)
                a2, a3 = at_most(at_least(a2, low), high), at_most(at_least(a3, low), high)
            store(out, a0)
            store(out + row, a1)
            store(out + 2 * row, a2)
            store(out + 3 * row, a3)
        x += block_nbytes


def blk4(points):
    """The kernel for register tiles of `points`; a column half empty runs at half the width."""
    half = points // 2

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        if live <= half:
            _blk4(zeros(half), points, step, x, y)
        else:
            _blk4(zeros(points), points, step, x, y)

    return kernel


def sell4(points):
    """The kernel for register tiles of `points`; a column half empty runs at half the width."""
    half = points // 2

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        if live <= half:
            _sell4(zeros(half), points, step, x, y)
        else:
            _sell4(zeros(points), points, step, x, y)

    return kernel
