"""Convolution of lane groups of images: y = clamp(conv(x, W) + bias + r), r where it is there.

One tap of the window, one weight and R pixels of an output's row: a broadcast and R multiply-adds
with memory operands, because a pixel further in y is S vectors further in x, whatever the window.
So taps are taken straight from the weights that are not zero. No zero is multiplied, and NaN and
infinity in pixels that no weight touches stay out of the result.

Words: the three grids (see grids.py), 16 rows, 17 rows of x for one of y, 18 address of groups
int32[n, 2] (bytes to a group's first pixel in x's row, and in y's and r's), 19 n, 20 M outputs,
21-24 addresses of the streams below, 25 blocks, 26 bias float32[M], 27 clamp float32[2], 28
channels to ask for an output, 29 bytes from a pixel of x to the next for S = 0, 30 one where r is
there, 31 bytes of a group's pixels that its next one has, too.

A group's pixels are computed for all outputs before the next group's, so groups may overlap, as
the last of a row does where R does not divide it. Blocks of taps keep the pixels that they touch
in L1 while all outputs pass over them; between blocks the sums wait in y. A block is of one row of
the window, because rings wrap between rows, and of neighbouring channels:

    blocks   per block: rows from the window's first, bytes to its first channel, channels (int32)
    heads    per block, per output: output, taps (int32)
    offsets  per tap: bytes from the block's first channel, first column (int32)
    values   per tap: weight (float32)

Outputs stand in any order. Sorted by their number of taps, for the sake of loops whose end is
foreseen, they were 1-2 % slower (Zen 4, 90 % zeros): a visit repeats the last one's branches.

Zen 4, 16 lanes, 7 pixels: of a core's peak, 95-97 % with BLK4 on dense 3x3. With NZ on 3x3, 74-78 %
at 80 % zeros, 66-73 at 90 and 54-64 at 95; on 1x1, 64-71, 52-62 and 40-49. With all in L1 it is
81 %, whatever R from 7 on: a vector that is loaded takes 1.2 cycles, a multiply-add one. Weights
come four in a load and are dealt out by shuffles; a load for each is 3-5 % slower. What is lost
beyond are sums, loaded and stored block by block: short blocks of few taps cost most.

PAIR: two outputs at once, paired so that they share many taps; for those a pixel is loaded once for
two multiply-adds. Every tap stays one of a weight that is not zero. At 80 % zeros it is 5-15 %
faster than NZ (81-84 % of the peak on 3x3), at 90 up to 10, at 95 mostly slower: a third loop for
two outputs costs more than they share. Its sums and pixels want 32 registers.

    heads    per block, per pair: both outputs, taps of both, of the first alone, of the second
    offsets  per tap: as above
    values   per tap: a weight, or both

BLK4: as above for four neighbouring outputs at once, which share every tap. A step loads R pixels
for four times R multiply-adds, so those bind and not the loads: for weights pruned in blocks of
4x1, or so dense that such blocks are mostly full. Where the last outputs are fewer than four,
what is computed beyond them is overwritten.

    heads    per block, per four outputs: the first of them, taps (int32)
    values   per tap: weight[4] (float32), zero where an output has none
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import forced, four_weights
from engine.kernels.grids import R, X, Y, channel_nbytes, row_of, word
from engine.kernels.groups import (
    add_group,
    every,
    fma_four_groups,
    fma_group,
    fma_two_groups,
    group_at_least,
    group_at_most,
    load_group,
    no_group,
    prefetch_group,
    store_group,
)
from engine.kernels.vector import broadcast, load_i32, zeros

PAIR_HEAD = 20
"""Bytes of a pair's head."""
AHEAD = 4
"""Outputs between the one at work and one whose pixels of y and r are asked for. When outputs were
sorted, 1x1 256->1024 with r of ResNet-50 took 299 us an image with it and 330 without (Zen 4, 90 %
zeros); in their order, one run of the whole network each gave 28.2 and 27.8 images a second."""


@forced
def begin(shape, lane, size, bias, r):
    """The sums before the first tap: bias, and r's pixels where r is not 0."""
    sums = every(shape, broadcast(lane, bias))
    if r != 0:
        sums = add_group(sums, load_group(shape, r, size))
    return sums


@forced
def clamped(shape, lane, clamp, sums):
    low, high = every(shape, broadcast(lane, clamp)), every(shape, broadcast(lane, clamp + 4))
    return group_at_most(group_at_least(sums, low), high)


@forced
def _inputs(step, arena, block, y_row, first):
    """Address of the first pixel of a block for a group that begins `first` bytes into a row."""
    row = row_of(step, X, arena, y_row * word(step, 17) + load_i32(block))
    return row + load_i32(block + 4) + first


@forced
def _ask(shape, y, r, y_channel, r_channel, m):
    """For the pixels of y and r of an output that comes soon."""
    prefetch_group(shape, y + m * y_channel, True, 1)
    if r != 0:
        prefetch_group(shape, r + m * r_channel, False, 1)


@forced
def _ask_for_inputs(shape, ask, asked, x_channel, count):
    """For so many channels of the next group's pixels, into L2; where it stopped. They lie in L3
    where a row of all channels is large: ResNet-50 of 95 % zeros is 5 % faster, of 80 % 1 % (Zen 4,
    the machine busy with other work)."""
    for _ in range(count):
        if ask < asked:
            prefetch_group(shape, ask, False, 2)
            ask += x_channel
    return ask


@forced
def _taps(lane, offsets, values, taps, x, x_step, sums):
    """sums and so many taps of one output, in their order."""
    for _ in range(taps >> 2):
        w0, w1, w2, w3 = four_weights(lane, values)
        sums = fma_group(w0, x + load_i32(offsets), x_step, sums)
        sums = fma_group(w1, x + load_i32(offsets + 4), x_step, sums)
        sums = fma_group(w2, x + load_i32(offsets + 8), x_step, sums)
        sums = fma_group(w3, x + load_i32(offsets + 12), x_step, sums)
        offsets += 16
        values += 16
    for _ in range(taps & 3):
        sums = fma_group(broadcast(lane, values), x + load_i32(offsets), x_step, sums)
        offsets += 4
        values += 4
    return sums


@forced
def _shared_taps(lane, offsets, values, taps, x, x_step, a, b):
    """The sums of two outputs and so many taps that both have."""
    for _ in range(taps >> 1):
        a0, b0, a1, b1 = four_weights(lane, values)
        a, b = fma_two_groups(a0, b0, x + load_i32(offsets), x_step, a, b)
        a, b = fma_two_groups(a1, b1, x + load_i32(offsets + 4), x_step, a, b)
        offsets += 8
        values += 16
    for _ in range(taps & 1):
        w0, w1 = broadcast(lane, values), broadcast(lane, values + 4)
        a, b = fma_two_groups(w0, w1, x + load_i32(offsets), x_step, a, b)
    return a, b


@forced
def _nz(shape, lane, size, x_step, step, arena, y_row, group, soon, y, r):
    """All outputs of one group of pixels; y and r are the addresses of its first pixel, `soon` is
    where the next group lies: row of y, bytes in x's row."""
    block, head = word(step, 21), word(step, 22)
    offsets, values = word(step, 23), word(step, 24)
    blocks, bias, clamp = word(step, 25), word(step, 26), word(step, 27)
    y_channel, r_channel = channel_nbytes(step, Y), channel_nbytes(step, R)
    x_channel, asks = channel_nbytes(step, X), word(step, 28)
    for b in range(blocks):
        x = _inputs(step, arena, block, y_row, load_i32(group))
        ask = _inputs(step, arena, block, soon[0], soon[1])
        asked = ask + load_i32(block + 8) * x_channel
        block += 12
        for _ in range(word(step, 20)):
            ask = _ask_for_inputs(shape, ask, asked, x_channel, asks)
            m, taps = load_i32(head), load_i32(head + 4)
            out = y + m * y_channel
            if b == 0:
                _ask(shape, y, r, y_channel, r_channel, load_i32(head + 8 * AHEAD))
                sums = begin(shape, lane, size, bias + 4 * m, r + m * r_channel if r != 0 else 0)
            else:
                sums = load_group(shape, out, size)
            sums = _taps(lane, offsets, values, taps, x, x_step, sums)
            offsets += 4 * taps
            values += 4 * taps
            if b == blocks - 1:
                sums = clamped(shape, lane, clamp, sums)
            store_group(out, size, sums)
            head += 8


@forced
def _pair(shape, lane, size, x_step, step, arena, y_row, group, soon, y, r):
    """All outputs of one group of pixels; y and r are the addresses of its first pixel, `soon` is
    where the next group lies: row of y, bytes in x's row."""
    block, head = word(step, 21), word(step, 22)
    offsets, values = word(step, 23), word(step, 24)
    blocks, bias, clamp = word(step, 25), word(step, 26), word(step, 27)
    y_channel, r_channel = channel_nbytes(step, Y), channel_nbytes(step, R)
    x_channel, asks = channel_nbytes(step, X), word(step, 28)
    for b in range(blocks):
        x = _inputs(step, arena, block, y_row, load_i32(group))
        ask = _inputs(step, arena, block, soon[0], soon[1])
        asked = ask + load_i32(block + 8) * x_channel
        block += 12
        for _ in range((word(step, 20) + 1) // 2):
            ask = _ask_for_inputs(shape, ask, asked, x_channel, 2 * asks)
            m0, m1 = load_i32(head), load_i32(head + 4)
            both, first, second = load_i32(head + 8), load_i32(head + 12), load_i32(head + 16)
            y0, y1 = y + m0 * y_channel, y + m1 * y_channel
            if b == 0:
                later = head + PAIR_HEAD * AHEAD // 2
                _ask(shape, y, r, y_channel, r_channel, load_i32(later))
                _ask(shape, y, r, y_channel, r_channel, load_i32(later + 4))
                a0 = begin(shape, lane, size, bias + 4 * m0, r + m0 * r_channel if r != 0 else 0)
                a1 = begin(shape, lane, size, bias + 4 * m1, r + m1 * r_channel if r != 0 else 0)
            else:
                a0, a1 = load_group(shape, y0, size), load_group(shape, y1, size)
            a0, a1 = _shared_taps(lane, offsets, values, both, x, x_step, a0, a1)
            offsets += 4 * both
            values += 8 * both
            a0 = _taps(lane, offsets, values, first, x, x_step, a0)
            offsets += 4 * first
            values += 4 * first
            a1 = _taps(lane, offsets, values, second, x, x_step, a1)
            offsets += 4 * second
            values += 4 * second
            if b == blocks - 1:
                a0, a1 = clamped(shape, lane, clamp, a0), clamped(shape, lane, clamp, a1)
            store_group(y1, size, a1)
            store_group(y0, size, a0)
            head += PAIR_HEAD


@forced
def _blk4(shape, lane, size, x_step, step, arena, y_row, group, y, r):
    """All outputs of one group of pixels; y and r are the addresses of its first pixel."""
    block, head = word(step, 21), word(step, 22)
    offsets, values = word(step, 23), word(step, 24)
    blocks, bias, clamp = word(step, 25), word(step, 26), word(step, 27)
    outputs = word(step, 20)
    y_channel, r_channel = channel_nbytes(step, Y), channel_nbytes(step, R)
    for b in range(blocks):
        x = _inputs(step, arena, block, y_row, load_i32(group))
        block += 12
        for _ in range((outputs + 3) // 4):
            m0, taps = load_i32(head), load_i32(head + 4)
            # beyond the last output it is computed again, and overwritten by its own
            m1, m2 = min(m0 + 1, outputs - 1), min(m0 + 2, outputs - 1)
            m3 = min(m0 + 3, outputs - 1)
            y0, y1 = y + m0 * y_channel, y + m1 * y_channel
            y2, y3 = y + m2 * y_channel, y + m3 * y_channel
            if b == 0:
                a0 = begin(shape, lane, size, bias + 4 * m0, r + m0 * r_channel if r != 0 else 0)
                a1 = begin(shape, lane, size, bias + 4 * m1, r + m1 * r_channel if r != 0 else 0)
                a2 = begin(shape, lane, size, bias + 4 * m2, r + m2 * r_channel if r != 0 else 0)
                a3 = begin(shape, lane, size, bias + 4 * m3, r + m3 * r_channel if r != 0 else 0)
            else:
                a0, a1 = load_group(shape, y0, size), load_group(shape, y1, size)
                a2, a3 = load_group(shape, y2, size), load_group(shape, y3, size)
            for _ in range(taps):
                at = x + load_i32(offsets)
                a0, a1, a2, a3 = fma_four_groups(lane, values, at, x_step, a0, a1, a2, a3)
                offsets += 4
                values += 16
            if b == blocks - 1:
                a0, a1 = clamped(shape, lane, clamp, a0), clamped(shape, lane, clamp, a1)
                a2, a3 = clamped(shape, lane, clamp, a2), clamped(shape, lane, clamp, a3)
            store_group(y3, size, a3)
            store_group(y2, size, a2)
            store_group(y1, size, a1)
            store_group(y0, size, a0)
            head += 8


def convolution(lanes, pixels, stride, outputs):
    """The kernel for groups of `pixels` pixels, `stride` apart in x (0: as word 29 says), by so
    many `outputs` at once: NZ one, PAIR two, BLK4 four."""
    size = 4 * lanes

    def kernel(step, arena, row, live, borders):
        shape, lane = no_group(pixels, lanes), zeros(lanes)
        x_step = stride * size if stride else word(step, 29)
        for y_row in range(word(step, 16)):
            y = row_of(step, Y, arena, y_row)
            r = row_of(step, R, arena, y_row) if word(step, 30) != 0 else 0
            group = word(step, 18)
            for g in range(word(step, 19)):
                soon = y_row, load_i32(group + 8) + word(step, 31)
                if g == word(step, 19) - 1:
                    soon = min(y_row + 1, word(step, 16) - 1), load_i32(word(step, 18))
                at = y + load_i32(group + 4)
                r_at = r + load_i32(group + 4) if r != 0 else 0
                if outputs == 4:
                    _blk4(shape, lane, size, x_step, step, arena, y_row, group, at, r_at)
                elif outputs == 2:
                    _pair(shape, lane, size, x_step, step, arena, y_row, group, soon, at, r_at)
                else:
                    _nz(shape, lane, size, x_step, step, arena, y_row, group, soon, at, r_at)
                group += 8

    return kernel
