"""Sparse weights times a panel: y[M, T] = clamp(W[M, K] @ x[K, T] + bias[M]).

SELL4: rows of W are sorted by their number of non-zeros and taken four at a time (a *slice*), each
row with its own column indices; one step is one non-zero of each of the four rows. The inputs are
cut into blocks so that a block of the panel stays in L1 while all rows pass over it. Sorting makes
the four rows of a slice equally long, or nearly: what a row has beyond the shortest of its slice
are its *extras*, taken one by one. So no zero is ever multiplied, and NaN and infinity in inputs
that no weight touches stay out of the result.

    per block, per slice: head[8] = y offset of each of the 4 rows, steps, extras, -, - (int32)
              per step:   offset[4] of each row's input in the block of x, eights of bytes (uint16)
                          value[4] (float32)
              per extra:  y offset (int32), x offset (int32), value (float32), -

Slices, sorting and padding-free variants of it: SELL-C-sigma, Kreutzer et al., 2014.

BLK4: row blocks of 4x1, four neighbouring outputs that share one input. A step is one block: its
input is loaded once for four rows, so the multiply-adds bound it and not the loads: on Zen 4 inputs
may come from L2, and blocks of inputs are longer (engine/packing.py). It pays where the model was
pruned in such blocks, or is so dense that they are mostly full.

    per block of inputs, per slice: head[2] = y offset of the first of the 4 rows, steps (int32)
              per step:   offset of the shared input in the block of x, eights of bytes (uint16)
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

Columns of at most eight rows run in registers of eight lanes, two slices at once; 17 to 24 rows, on
Zen 4, in three of them. A step takes 3.5, 5.5, 8.2 and 9.9 cycles there for 8, 16, 24 and 32 rows,
and a slice 24, 31, 37 and 44 besides (1024x1024, 80 and 90 % zeros, 2026-11-29). So eight rows
reach two thirds of the rate of 32, and nine half of it: loads bind, one of an input for each eight
rows or part of them. What did not help with 8 and 16 lanes: a load of each offset (6 to 16 %
slower), of each weight (a fifth to a third) or of one of four (8 %), two registers of eight for 16
rows (4 %), two slices at once there, and blocks of other lengths.

A tile and its tail in one pass, so that weights and offsets are read once, gains 3 % and was left
out. Cycles a step, 2048x2048, 90 % zeros, three matrices in turn (shortest times of a busy machine,
2026-11-30): 40 rows in five registers of eight lanes 15.4, where 32 and then 8 take 11.5 and 4.4;
48 in three of sixteen 17.5 against 11.5 and 6.6; 64 in four 24.5 against twice 11.5. Each input is
as many loads as before, and those bind. Four lanes are no way either: 12 rows in three such
registers take 9.1 where sixteen lanes take 6.7, 20 rows in five 14.3. A tail that finds its weights
in L2, because they are cut into slabs of 160 outputs, takes 5.3 with 8 rows instead of 4.4: the
inputs are copied side by side for each slab.

How near that is to what loads allow (Zen 4, all in L1, loops by hand in assembly, 2026-11-30): with
weights that are constants, so that a step loads its offsets and inputs alone, it takes 9.0 cycles
with 32 rows and 4.6 with 16. With weights 9.8 and 5.5 as here, 9.8 and 5.4 in loops of two steps,
9.5 and 5.8 with eight weights dealt from one register, 9.6 and 6.0 with sixteen, 10.4 and 6.0 with
offsets of two steps in one load. So nine rows cannot reach three quarters of the best rate: without
weights they are at 49 % of the peak, and large batches at 65 to 70.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import forced, four_weights, four_weights_for_few, inline
from engine.kernels.registers import has_three_quarters
from engine.kernels.slices import added, begun, ended, ending, written
from engine.kernels.streams import SLICES_AHEAD, ask_ahead, ask_lines, ask_rows
from engine.kernels.table import NARROW, SELL4_BLOCK_NBYTES
from engine.kernels.table import OFFSET_UNIT as UNIT
from engine.kernels.vector import (
    broadcast,
    fma,
    half_word,
    load,
    load_i32,
    load_i64,
    load_u16,
    scratch,
    store,
    zeros,
    zeros_in_pieces,
)

_HELD_NBYTES = SELL4_BLOCK_NBYTES // 2
"""The longest block of inputs, with as many lanes, of 16 points."""


@inline
def _step(shape, unit, offsets, values, x, sums):
    """One non-zero of each of four rows; `unit` is what offsets in x count in, bytes: 8 in a panel,
    less in a narrower copy. A unit that addresses can have costs no instruction."""
    ask_ahead(values)
    w0, w1, w2, w3 = four_weights(shape, values)
    word, (a0, a1, a2, a3) = load_i64(offsets), sums
    a0 = fma(w0, load(shape, x + unit * half_word(word, 0)), a0)
    a1 = fma(w1, load(shape, x + unit * half_word(word, 1)), a1)
    a2 = fma(w2, load(shape, x + unit * half_word(word, 2)), a2)
    a3 = fma(w3, load(shape, x + unit * half_word(word, 3)), a3)
    return a0, a1, a2, a3


@inline
def _extras(shape, shift, extras, count, x, y):
    """Adds the non-zeros that rows have beyond their slice's steps, in memory: they are few."""
    for _ in range(count):
        row = y + load_i32(extras)
        w = broadcast(shape, extras + 8)
        source = x + (load_i32(extras + 4) >> shift)
        store(row, fma(w, load(shape, source), load(shape, row)))
        extras += 16
    return extras


@forced
def _opened(shape, points, head, block, bias, y):
    """Sums of the four rows of a slice so far: an offset in y is a row times points floats, one in
    bias a float."""
    r0, r1 = load_i32(head), load_i32(head + 4)
    r2, r3 = load_i32(head + 8), load_i32(head + 12)
    if block == 0:
        return (
            broadcast(shape, bias + r0 // points),
            broadcast(shape, bias + r1 // points),
            broadcast(shape, bias + r2 // points),
            broadcast(shape, bias + r3 // points),
        )
    return load(shape, y + r0), load(shape, y + r1), load(shape, y + r2), load(shape, y + r3)


@forced
def _put(head, y, sums):
    a0, a1, a2, a3 = sums
    store(y + load_i32(head), a0)
    store(y + load_i32(head + 4), a1)
    store(y + load_i32(head + 8), a2)
    store(y + load_i32(head + 12), a3)


@forced
def _closed(shape, shift, head, extras, x, y, sums, end, last):
    """Writes the sums of a slice, adds their extras, and after the last block takes them through
    the end; gives the address of the next slice's extras. Sums are read again only in the end:
    with a second write after extras a slice took 20 cycles more."""
    _put(head, y, sums)
    count = load_i32(head + 20)
    if count > 0:
        extras = _extras(shape, shift, extras, count, x, y)
    if last:
        a0, a1 = load(shape, y + load_i32(head)), load(shape, y + load_i32(head + 4))
        a2, a3 = load(shape, y + load_i32(head + 8)), load(shape, y + load_i32(head + 12))
        ended(y, load_i64(head), load_i64(head + 8), (a0, a1, a2, a3), end)
    return extras


@inline
def _sell4(shape, points, step, x, y, live):
    """The whole product for one column; see the module for the streams. `step` words 3..14."""
    head, offsets = load_i64(step + 24), load_i64(step + 32)
    values, extras = load_i64(step + 40), load_i64(step + 48)
    blocks, slices, block_nbytes = load_i64(step + 56), load_i64(step + 64), load_i64(step + 72)
    bias, end = load_i64(step + 88), ending(step, step + 96, live)
    stop, final = x + load_i64(step + 80), head + 32 * (blocks * slices - 1)
    _, _, rest, _ = end
    for block in range(blocks):
        ask_lines(x, min(block_nbytes, stop - x))
        for _ in range(slices):
            ahead = min(head + 32 * SLICES_AHEAD, final)
            ask_rows(ahead, y, 4 * points)
            if rest != 0 and block == blocks - 1:
                ask_rows(ahead, y + rest, 4 * points)
            sums = _opened(shape, points, head, block, bias, y)
            for _ in range(load_i32(head + 16)):
                sums = _step(shape, UNIT, offsets, values, x, sums)
                offsets += 8
                values += 16
            extras = _closed(shape, 0, head, extras, x, y, sums, end, block == blocks - 1)
            head += 32
        x += block_nbytes


@inline
def _sell4_narrow(shape, shift, points, step, x, y, live):
    """The same for columns of at most 2 ** -`shift` of the points, by two slices at once: in
    registers so narrow the sums of one would wait for each other. The first of the two is never
    the longer one. A block's inputs are copied side by side, because at `points` floats from one to
    the next they would fill a part of L1's sets only. `step` words 3..14."""
    head, offsets = load_i64(step + 24), load_i64(step + 32)
    values, extras = load_i64(step + 40), load_i64(step + 48)
    blocks, slices, block_nbytes = load_i64(step + 56), load_i64(step + 64), load_i64(step + 72)
    bias, end = load_i64(step + 88), ending(step, step + 96, live)
    held, stop = scratch(_HELD_NBYTES), x + load_i64(step + 80)
    for block in range(blocks):
        _side_by_side(shape, shift, points, x, min(x + block_nbytes, stop), held)
        x += block_nbytes
        last = block == blocks - 1
        for _ in range(slices // 2):
            a = _opened(shape, points, head, block, bias, y)
            b = _opened(shape, points, head + 32, block, bias, y)
            both = load_i32(head + 16)
            next_offsets, next_values = offsets + 8 * both, values + 16 * both
            for _ in range(both):
                a = _step(shape, UNIT >> shift, offsets, values, held, a)
                b = _step(shape, UNIT >> shift, next_offsets, next_values, held, b)
                offsets += 8
                values += 16
                next_offsets += 8
                next_values += 16
            for _ in range(load_i32(head + 48) - both):
                b = _step(shape, UNIT >> shift, next_offsets, next_values, held, b)
                next_offsets += 8
                next_values += 16
            offsets, values = next_offsets, next_values
            extras = _closed(shape, shift, head, extras, held, y, a, end, last)
            extras = _closed(shape, shift, head + 32, extras, held, y, b, end, last)
            head += 64
        if slices % 2 == 1:
            a = _opened(shape, points, head, block, bias, y)
            for _ in range(load_i32(head + 16)):
                a = _step(shape, UNIT >> shift, offsets, values, held, a)
                offsets += 8
                values += 16
            extras = _closed(shape, shift, head, extras, held, y, a, end, last)
            head += 32


@inline
def _side_by_side(shape, shift, points, x, end, held):
    """Copies the first lanes of the inputs at x..end."""
    while x < end:
        store(held, load(shape, x))
        x += 4 * points
        held += (4 * points) >> shift


@inline
def _blk4(shape, points, step, x, y, live):
    """The whole product for one column; see the module for the streams. `step` words 3..12."""
    head, offsets, values = load_i64(step + 24), load_i64(step + 32), load_i64(step + 40)
    blocks, slices, block_nbytes = load_i64(step + 48), load_i64(step + 56), load_i64(step + 64)
    bias, end, row = load_i64(step + 72), ending(step, step + 80, live), 4 * points
    final = head + 8 * (blocks * slices - 1)
    _, _, rest, _ = end
    for block in range(blocks):
        ask_lines(x, block_nbytes)
        for _ in range(slices):
            ahead = y + load_i32(min(head + 8 * SLICES_AHEAD, final))
            ask_lines(ahead, 4 * row)
            if rest != 0 and block == blocks - 1:
                ask_lines(ahead + rest, 4 * row)
            out, b = y + load_i32(head), bias + load_i32(head) // points
            sums = begun(shape, out, row, b, block == 0)
            for _ in range(load_i32(head + 4)):
                ask_ahead(values)
                sums = _block(shape, four_weights(shape, values), offsets, x, sums)
                offsets += 2
                values += 16
            written(out, row, sums, end, block == blocks - 1)
            head += 8
        x += block_nbytes


@inline
def _block(shape, weights, offsets, x, sums):
    """One 4x1 block."""
    return added(sums, weights, load(shape, x + UNIT * load_u16(offsets)))


@inline
def _block_for_few(shape, values, offsets, x, sums):
    ask_ahead(values)
    return _block(shape, four_weights_for_few(shape, values), offsets, x, sums)


@inline
def _blk4_narrow(shape, points, step, x, y, live):
    """The same by two slices at once, as `_sell4_narrow`; here the first of the two is never the
    shorter one. `step` words 3..12."""
    head, offsets, values = load_i64(step + 24), load_i64(step + 32), load_i64(step + 40)
    blocks, slices, block_nbytes = load_i64(step + 48), load_i64(step + 56), load_i64(step + 64)
    bias, end, row = load_i64(step + 72), ending(step, step + 80, live), 4 * points
    for block in range(blocks):
        last = block == blocks - 1
        for pair in range(0, slices, 2):
            out, steps, both = y + load_i32(head), load_i32(head + 4), 0
            sums = begun(shape, out, row, bias + load_i32(head) // points, block == 0)
            next_offsets, next_values = offsets + 2 * steps, values + 16 * steps
            if pair + 1 < slices:
                other, both = y + load_i32(head + 8), load_i32(head + 12)
                b = begun(shape, other, row, bias + load_i32(head + 8) // points, block == 0)
                for _ in range(both):
                    sums = _block_for_few(shape, values, offsets, x, sums)
                    b = _block_for_few(shape, next_values, next_offsets, x, b)
                    offsets += 2
                    values += 16
                    next_offsets += 2
                    next_values += 16
                written(other, row, b, end, last)
            for _ in range(steps - both):
                sums = _block_for_few(shape, values, offsets, x, sums)
                offsets += 2
                values += 16
            written(out, row, sums, end, last)
            offsets, values = next_offsets, next_values
            head += 16
        head -= 8 * (slices % 2)
        x += block_nbytes


def blk4(points):
    """The kernel for register tiles of `points`, at one of four widths, as `sell4`."""
    half, three = points // 2, has_three_quarters(points)

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        if live <= NARROW:
            _blk4_narrow(zeros(NARROW), points, step, x, y, live)
        elif live <= half:
            _blk4_narrow(zeros(half), points, step, x, y, live)
        elif three and live <= 3 * NARROW:
            _blk4(zeros_in_pieces(3, NARROW), points, step, x, y, live)
        else:
            _blk4(zeros(points), points, step, x, y, live)

    return kernel


def sell4(points):
    """The kernel for register tiles of `points`; a column that fills no more than eight lanes, or
    half of them, or three registers of eight where that pays, runs at that width."""
    half, shift = points // 2, (points // NARROW).bit_length() - 1
    three = has_three_quarters(points)

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        if live <= NARROW:
            _sell4_narrow(zeros(NARROW), shift, points, step, x, y, live)
        elif live <= half:
            _sell4(zeros(half), points, step, x, y, live)
        elif three and live <= 3 * NARROW:
            _sell4(zeros_in_pieces(3, NARROW), points, step, x, y, live)
        else:
            _sell4(zeros(points), points, step, x, y, live)

    return kernel
