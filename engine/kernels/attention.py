"""Attention within whole sequences: y = softmax(scale * Q K^T + bias) V, head by head.

There are two: the plain one sees every key of the sequence; the near one sees keys from `back`
places before the query to `ahead` after it (causal attention, windows), and adds a number a head
and distance to the scores (relative positions). It reads only keys that a query of the tile sees.

A column holds whole sequences. Their tokens stand side by side in tiles of T lanes with no gap
between one sequence and the next, `x[tile][features][T]`, and queries are lanes. For each
sequence, head and tile of queries

    scores[key, query]    4 keys by T queries a register tile, a feature at a time
    softmax               down the keys, a lane a query: no exchange between lanes
    y[feature, query]     4 features by T queries a register tile, a key at a time

so a head's keys and values are read from L1 and L2, and scores never leave them. Keys of other
sequences are never read, so nothing is masked and nothing is padded; lanes of other sequences'
queries compute along and are not written. A token's arithmetic is the same, in the same order,
wherever its sequence stands in the column: its bytes do not depend on its neighbours.

Dao et al., "FlashAttention", 2022, has the same order of loops; its rescaling is not needed while
a tile's scores fit the cache (16 queries by 4,096 keys are 256 KB).

Zen 4, 128 tokens, a head of 64 features and a tile of 32 queries, cycles (2026-11-30): 37,400, of
which multiply-adds take 32,768 at the peak and the softmax 2,600, with the largest score 350 of
those. From L3 it is 39,900, because the next head's panels are asked for meanwhile; before all of
this 38,600 and 43,800. Exponentials in base e took 3,700; scores of four keys at once 300 more
than of eight.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np

from engine.kernels.functions import exp_falling, four_weights, inline
from engine.kernels.registers import register_lanes
from engine.kernels.slices import added
from engine.kernels.streams import ask_far_lines
from engine.kernels.vector import (
    at_least,
    broadcast,
    fma,
    if_less,
    if_negative,
    lane_numbers,
    like,
    load,
    load_i64,
    store,
    zeros,
)

EIGHT_KEYS = register_lanes() == 16
"""Whether scores of eight keys are summed at once: with 32 registers. AVX2's 16 hold four."""


@inline
def _keys(points, k, k_stride, key):
    """Address of one key's first feature."""
    return k + (key // points) * k_stride + (key % points) * 4


@inline
def _scores(shape, points, q, k, k_stride, first, last, depth, scale, bias, each, scores):
    """scores[key] = scale * K[:, key] . q + bias[key] for keys first..last, four at once, or eight
    where there are registers for their sums.

    `first` is a multiple of four. The last four may reach beyond `last`: what they hold is the
    next sequence's, or nothing; it is written and never read. The bias is `each` bytes from tile
    to tile.
    """
    size = 4 * points
    factor = broadcast(shape, scale)
    key = first
    if EIGHT_KEYS:
        while key + 4 < last:
            one, two = _keys(points, k, k_stride, key), _keys(points, k, k_stride, key + 4)
            row = q
            a = (shape, shape, shape, shape)
            b = (shape, shape, shape, shape)
            for _ in range(depth):
                v = load(shape, row)
                a = added(a, four_weights(shape, one), v)
                b = added(b, four_weights(shape, two), v)
                one += size
                two += size
                row += size
            _scaled(points, a, factor, bias, each, key, scores)
            _scaled(points, b, factor, bias, each, key + 4, scores + 4 * size)
            scores += 8 * size
            key += 8
    while key < last:
        column, row = _keys(points, k, k_stride, key), q
        a = (shape, shape, shape, shape)
        for _ in range(depth):
            a = added(a, four_weights(shape, column), load(shape, row))
            column += size
            row += size
        _scaled(points, a, factor, bias, each, key, scores)
        scores += 4 * size
        key += 4


@inline
def _scaled(points, sums, factor, bias, each, key, scores):
    """Writes the scores of four keys, with their bias where it is not 0."""
    (a0, a1, a2, a3), size = sums, 4 * points
    if bias != 0:
        b = _keys(points, bias, each, key)
        store(scores, fma(a0, factor, broadcast(factor, b)))
        store(scores + size, fma(a1, factor, broadcast(factor, b + 4)))
        store(scores + 2 * size, fma(a2, factor, broadcast(factor, b + 8)))
        store(scores + 3 * size, fma(a3, factor, broadcast(factor, b + 12)))
    else:
        store(scores, a0 * factor)
        store(scores + size, a1 * factor)
        store(scores + 2 * size, a2 * factor)
        store(scores + 3 * size, a3 * factor)


@inline
def _exponentials(shape, points, scores, count):
    """scores[key] becomes exp(scores[key] - largest); gives their sum."""
    size = 4 * points
    top = load(shape, scores)
    for k in range(1, count):
        # `top` second: a NaN anywhere reaches the sum through its own exponential
        top = at_least(top, load(shape, scores + k * size))
    total = shape
    for k in range(count):
        e = exp_falling(load(shape, scores + k * size) - top)
        total = total + e
        store(scores + k * size, e)
    return total


@inline
def _mix(shape, points, v, v_stride, first, last, scores, sums):
    """Adds V[feature, key] * scores[key] over keys to the sums of four features at `v`."""
    size = 4 * points
    a0, a1, a2, a3 = sums
    key = first
    while key < last:
        column = v + (key // points) * v_stride + (key % points) * 4
        count = min(points - key % points, last - key)
        for _ in range(count):
            p = load(shape, scores)
            a0 = fma(broadcast(shape, column), p, a0)
            a1 = fma(broadcast(shape, column + size), p, a1)
            a2 = fma(broadcast(shape, column + 2 * size), p, a2)
            a3 = fma(broadcast(shape, column + 3 * size), p, a3)
            column += 4
            scores += size
        key += count
    return a0, a1, a2, a3


@inline
def _mix_seen(shape, points, v, v_stride, first, last, scores, sums):
    """The same where some lanes do not see the keys. Their shares are minus zero (`_hide`), and not
    even a NaN counts there; a key that is seen and has no share is multiplied, as in `_mix`."""
    size = 4 * points
    a0, a1, a2, a3 = sums
    for key in range(first, last):
        column, p = v + (key // points) * v_stride + (key % points) * 4, load(shape, scores)
        a0 = if_negative(p, a0, fma(broadcast(shape, column), p, a0))
        a1 = if_negative(p, a1, fma(broadcast(shape, column + size), p, a1))
        a2 = if_negative(p, a2, fma(broadcast(shape, column + 2 * size), p, a2))
        a3 = if_negative(p, a3, fma(broadcast(shape, column + 3 * size), p, a3))
        scores += size
    return a0, a1, a2, a3


@inline
def _if_seen(lane, key, back, ahead, seen, unseen):
    """`seen` in the lanes that see a key, `unseen` in the others; the key's place counts from lane
    0's query."""
    seen = if_less(lane, like(lane, key + back + 1), seen, unseen)
    return if_less(lane, like(lane, key - ahead), unseen, seen)


@inline
def _place(shape, points, scores, first, last, place, back, ahead, table):
    """Adds what the distance of query and key says to the scores of keys first..last, and minus
    infinity where a lane does not see the key. Lane 0 is the query at `place`, which may lie before
    the sequence; `table` is the address of distance 0, or 0."""
    lane, never = lane_numbers(shape), like(shape, -np.inf)
    for key in range(first, last):
        s = load(shape, scores)
        if table != 0:
            s = s + load(shape, table + (place - key) * 4)
        store(scores, _if_seen(lane, key - place, back, ahead, s, never))
        scores += 4 * points


@inline
def _hide(shape, points, scores, first, last, place, back, ahead):
    """Minus zero instead of the shares of keys first..last in lanes that do not see them. A share
    that only underflowed is plus zero, and counts."""
    lane, hidden = lane_numbers(shape), like(shape, np.float32(-0.0))
    for key in range(first, last):
        p = load(shape, scores)
        store(scores, _if_seen(lane, key - place, back, ahead, p, hidden))
        scores += 4 * points


@inline
def _put(shape, address, value, low, high):
    """Writes lanes low..high of `value`, and leaves the others as they are."""
    lane, old = lane_numbers(shape), load(shape, address)
    kept = if_less(lane, like(shape, high), value, old)
    store(address, if_less(lane, like(shape, low), old, kept))


@inline
def _start(shape, points, step, arena, head, tile, shift, first, last, begin):
    """Scores of the keys first..last, of one head and the queries of one tile, `shift` bytes into
    its rows; gives the address of the first. `begin` is `first` rounded down to four."""
    size, depth, bias = 4 * points, load_i64(step + 80), load_i64(step + 112)
    apart, each = load_i64(step + 128) * size, load_i64(step + 136)
    q = arena + load_i64(step + 8) + tile * load_i64(step + 40) + head * apart + shift
    k = arena + load_i64(step + 16) + head // load_i64(step + 120) * apart
    scores = arena + load_i64(step + 104)
    if bias >= 0:
        bias += arena + head * load_i64(step + 144) * size
    else:
        bias = 0
    k_stride, scale = load_i64(step + 48), load_i64(step + 88)
    _scores(shape, points, q, k, k_stride, begin, last, depth, scale, bias, each, scores)
    return scores + (first - begin) * size


@inline
def _values(points, step, arena, head):
    """Address of the head's values in tile 0."""
    block = head // load_i64(step + 120) * load_i64(step + 128) * 4 * points
    return arena + load_i64(step + 24) + block


@inline
def _result(points, step, arena, head, tile, shift):
    """Address of the head's results in a tile."""
    block = head * load_i64(step + 80) * 4 * points
    return arena + load_i64(step + 32) + tile * load_i64(step + 64) + block + shift


@inline
def _write(shape, size, y, sums, total, low, high):
    """Four features, each divided by the sum of shares."""
    a0, a1, a2, a3 = sums
    _put(shape, y, a0 / total, low, high)
    _put(shape, y + size, a1 / total, low, high)
    _put(shape, y + 2 * size, a2 / total, low, high)
    _put(shape, y + 3 * size, a3 / total, low, high)


@inline
def _tile(shape, points, step, arena, head, tile, shift, first, last, low, high):
    """One head, for the queries in lanes low..high of one tile, `shift` bytes into its rows."""
    size, v_stride = 4 * points, load_i64(step + 56)
    begin = first // 4 * 4
    scores = _start(shape, points, step, arena, head, tile, shift, first, last, begin)
    total = _exponentials(shape, points, scores, last - first)
    v, y = _values(points, step, arena, head), _result(points, step, arena, head, tile, shift)
    next_q, next_k, next_v = _next_head(points, step, arena, head, tile)
    for _ in range(0, load_i64(step + 80), 4):
        ask_far_lines(next_q, 4 * size)
        ask_far_lines(next_k, 4 * size)
        ask_far_lines(next_v, 4 * size)
        sums = _mix(shape, points, v, v_stride, first, last, scores, (shape, shape, shape, shape))
        _write(shape, size, y, sums, total, low, high)
        v += 4 * size
        y += 4 * size
        next_q += 4 * size
        next_k += 4 * size
        next_v += 4 * size


@inline
def _next_head(points, step, arena, head, tile):
    """Addresses of the next head's queries, keys and values in a tile; the last one has itself."""
    head = min(head + 1, load_i64(step + 72) - 1)
    apart, shared = load_i64(step + 128) * 4 * points, load_i64(step + 120)
    return (
        arena + load_i64(step + 8) + tile * load_i64(step + 40) + head * apart,
        arena + load_i64(step + 16) + tile * load_i64(step + 48) + head // shared * apart,
        arena + load_i64(step + 24) + tile * load_i64(step + 56) + head // shared * apart,
    )


@inline
def _near_tile(shape, points, step, arena, head, tile, shift, first, last, low, high):
    """The same for keys that the queries see. Those of begin..inner and of outer..end are seen by
    some of them only."""
    size, v_stride, near = 4 * points, load_i64(step + 56), load_i64(step + 152)
    back, ahead, table = load_i64(near), load_i64(near + 8), load_i64(step + 160)
    if table != 0:
        table += load_i64(near + 16) + head * load_i64(near + 24)
    place = tile * points + shift // 4 - first  # of lane 0, in the sequence
    begin = first + max(0, place + low - back)
    end = min(last, first + place + high + ahead)
    inner = min(max(begin, first + place + high - 1 - back), end)
    outer = max(inner, min(end, first + place + low + ahead + 1))
    four = begin // 4 * 4
    scores = _start(shape, points, step, arena, head, tile, shift, begin, end, four)
    _place(shape, points, scores, begin - first, end - first, place, back, ahead, table)
    total = _exponentials(shape, points, scores, end - begin)
    v, y = _values(points, step, arena, head), _result(points, step, arena, head, tile, shift)
    middle, rest = scores + (inner - begin) * size, scores + (outer - begin) * size
    _hide(shape, points, scores, begin - first, inner - first, place, back, ahead)
    _hide(shape, points, rest, outer - first, end - first, place, back, ahead)
    for _ in range(0, load_i64(step + 80), 4):
        sums = (shape, shape, shape, shape)
        sums = _mix_seen(shape, points, v, v_stride, begin, inner, scores, sums)
        sums = _mix(shape, points, v, v_stride, inner, outer, middle, sums)
        sums = _mix_seen(shape, points, v, v_stride, outer, end, rest, sums)
        _write(shape, size, y, sums, total, low, high)
        v += 4 * size
        y += 4 * size


@inline
def _one_tile(shape, points, step, arena, head, tile, shift, first, last, low, high, near):
    """`near` is None for no, and its branch is not compiled. A kernel that closed over one of the
    functions, or was given it, would be another kernel in each process, and not kept on disk."""
    if near is None:
        _tile(shape, points, step, arena, head, tile, shift, first, last, low, high)
    else:
        _near_tile(shape, points, step, arena, head, tile, shift, first, last, low, high)


def attention(points, near):
    """`live` sequences of the batch from `row` on. Words:

    1-4    q, k, v, y: panels of tile 0, float32[heads * depth, T]; k and v have fewer heads where
           queries share them
    5-8    bytes from tile to tile of q, k, v, y
    9, 10  heads, depth; depth is a multiple of 4
    11     address of the scale
    12     border of the offsets: int64[rows + 1], the tokens before each sequence
    13     scratch, T features a tile: scores float32[keys, T]
    14     bias, float32[1 or heads, T] a tile, added to every score of its key; -1 for none
    15     heads of queries for each of keys and values
    16     features of q, k and v from head to head
    17, 18 bytes of the bias from tile to tile, and its features from head to head

    and of the near one

    19     address of int64[5]: back, ahead, bytes before distance 0 and bytes a head of the table,
           and how many positions it is for
    20     address of the table float32[heads, ...], by query - key, with T entries of slack in
           front and behind; 0 for none
    """
    half, seen = points // 2, True if near else None

    def kernel(step, arena, row, live, borders):
        heads = load_i64(step + 72)
        offsets = load_i64(borders + 8 * load_i64(step + 96)) + 8 * row
        begin = load_i64(offsets)
        for sequence in range(live):
            first = load_i64(offsets + 8 * sequence) - begin
            last = load_i64(offsets + 8 * sequence + 8) - begin
            for head in range(heads):
                for tile in range(first // points, -(-last // points)):
                    low = max(first - tile * points, 0)
                    high = min(last - tile * points, points)
                    if high <= half:
                        _one_tile(
                            zeros(half), points, step, arena, head, tile, 0,
                            first, last, low, high, seen,
                        )  # fmt: skip
                    elif low >= half:
                        low, high = low - half, high - half
                        _one_tile(
                            zeros(half), points, step, arena, head, tile, 4 * half,
                            first, last, low, high, seen,
                        )  # fmt: skip
                    else:
                        _one_tile(
                            zeros(points), points, step, arena, head, tile, 0,
                            first, last, low, high, seen,
                        )  # fmt: skip

    return kernel
