"""Attention within whole sequences: y = softmax(scale * Q K^T + bias) V, head by head.

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
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import exp_falling, four_weights, inline
from engine.kernels.vector import (
    at_least,
    broadcast,
    fma,
    if_less,
    lane_numbers,
    like,
    load,
    load_i64,
    store,
    zeros,
)


@inline
def _scores(shape, points, q, k, k_stride, first, last, depth, scale, bias, scores):
    """scores[key] = scale * K[:, key] . q + bias[key] for keys first..last, four at once.

    `first` is a multiple of four. The last four may reach beyond `last`: what they hold is the
    next sequence's, or nothing; it is written and never read.
    """
    size = 4 * points
    factor = broadcast(shape, scale)
    for key in range(first, last, 4):
        column = k + (key // points) * k_stride + (key % points) * 4
        a0, a1, a2, a3 = shape, shape, shape, shape
        row = q
        for _ in range(depth):
            (w0, w1, w2, w3), v = four_weights(shape, column), load(shape, row)
            a0 = fma(w0, v, a0)
            a1 = fma(w1, v, a1)
            a2 = fma(w2, v, a2)
            a3 = fma(w3, v, a3)
            column += size
            row += size
        if bias != 0:
            b = bias + key * 4
            store(scores, fma(a0, factor, broadcast(shape, b)))
            store(scores + size, fma(a1, factor, broadcast(shape, b + 4)))
            store(scores + 2 * size, fma(a2, factor, broadcast(shape, b + 8)))
            store(scores + 3 * size, fma(a3, factor, broadcast(shape, b + 12)))
        else:
            store(scores, a0 * factor)
            store(scores + size, a1 * factor)
            store(scores + 2 * size, a2 * factor)
            store(scores + 3 * size, a3 * factor)
        scores += 4 * size


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
def _mix(shape, points, v, v_stride, first, last, scores):
    """sum over keys of V[feature, key] * scores[key], for four features at `v`."""
    size = 4 * points
    a0, a1, a2, a3 = shape, shape, shape, shape
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
def _put(shape, address, value, low, high):
    """Writes lanes low..high of `value`, and leaves the others as they are."""
    lane, old = lane_numbers(shape), load(shape, address)
    kept = if_less(lane, like(shape, high), value, old)
    store(address, if_less(lane, like(shape, low), old, kept))


@inline
def _tile(shape, points, step, arena, head, tile, shift, first, last, low, high):
    """One head, for the queries in lanes low..high of one tile, `shift` bytes into its rows."""
    size = 4 * points
    depth, bias = load_i64(step + 80), load_i64(step + 112)
    block = head * depth * size
    q = arena + load_i64(step + 8) + tile * load_i64(step + 40) + block + shift
    k, k_stride = arena + load_i64(step + 16) + block, load_i64(step + 48)
    v, v_stride = arena + load_i64(step + 24) + block, load_i64(step + 56)
    y = arena + load_i64(step + 32) + tile * load_i64(step + 64) + block + shift
    scores, begin = arena + load_i64(step + 104), first // 4 * 4
    if bias >= 0:
        bias += arena
    else:
        bias = 0
    scale = load_i64(step + 88)
    _scores(shape, points, q, k, k_stride, begin, last, depth, scale, bias, scores)
    scores += (first - begin) * size
    total = _exponentials(shape, points, scores, last - first)
    for _ in range(0, depth, 4):
        a0, a1, a2, a3 = _mix(shape, points, v, v_stride, first, last, scores)
        _put(shape, y, a0 / total, low, high)
        _put(shape, y + size, a1 / total, low, high)
        _put(shape, y + 2 * size, a2 / total, low, high)
        _put(shape, y + 3 * size, a3 / total, low, high)
        v += 4 * size
        y += 4 * size


def attention(points):
    """`live` sequences of the batch from `row` on. Words:

    1-4    q, k, v, y: panels of tile 0, float32[heads * depth, T]
    5-8    bytes from tile to tile of q, k, v, y
    9, 10  heads, depth; depth is a multiple of 4
    11     address of the scale
    12     border of the offsets: int64[rows + 1], the tokens before each sequence
    13     scratch, T features a tile: scores float32[keys, T]
    14     bias, float32[1, T] a tile, added to every score of its key; -1 for none
    """
    half = points // 2

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
                        _tile(
                            zeros(half), points, step, arena, head, tile, 0, first, last, low, high
                        )
                    elif low >= half:
                        low, high = low - half, high - half
                        _tile(
                            zeros(half), points, step, arena, head, tile, 4 * half,
                            first, last, low, high,
                        )  # fmt: skip
                    else:
                        _tile(
                            zeros(points),
                            points,
                            step,
                            arena,
                            head,
                            tile,
                            0,
                            first,
                            last,
                            low,
                            high,
                        )

    return kernel
