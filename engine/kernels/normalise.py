"""Sums over the features of a panel, and what is made of them: LayerNorm, RMSNorm, reductions.

Points are lanes, so a sum over features is a running sum down a panel; four of them run side by
side, because an addition takes four cycles to come back.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from numba import types
from numba.extending import overload

from engine.kernels.compiling import PART
from engine.kernels.functions import inline
from engine.kernels.streams import ask_far_lines
from engine.kernels.vector import (
    absolute,
    at_least,
    at_most,
    broadcast,
    fma,
    if_nan,
    like,
    load,
    load_i64,
    sqrt,
    store,
    zeros,
)

BLOCK = 64
"""Features of 32 points that lie in L1 while they are read twice: 8 KB."""


@inline
def _mean(shape, size, x, count):
    """The mean of `count` features."""
    a0, a1, a2, a3 = shape, shape, shape, shape
    at = x
    for _ in range(count // 4):
        a0, a1 = a0 + load(shape, at), a1 + load(shape, at + size)
        a2, a3 = a2 + load(shape, at + 2 * size), a3 + load(shape, at + 3 * size)
        at += 4 * size
    for _ in range(count % 4):
        a0 = a0 + load(shape, at)
        at += size
    return ((a0 + a1) + (a2 + a3)) / count


@inline
def _mean_square(shape, size, x, count, centre):
    """The mean of (x - centre) squared."""
    a0, a1, a2, a3 = shape, shape, shape, shape
    at = x
    for _ in range(count // 4):
        d0, d1 = load(shape, at) - centre, load(shape, at + size) - centre
        d2, d3 = load(shape, at + 2 * size) - centre, load(shape, at + 3 * size) - centre
        a0, a1, a2, a3 = fma(d0, d0, a0), fma(d1, d1, a1), fma(d2, d2, a2), fma(d3, d3, a3)
        at += 4 * size
    for _ in range(count % 4):
        d0 = load(shape, at) - centre
        a0 = fma(d0, d0, a0)
        at += size
    return ((a0 + a1) + (a2 + a3)) / count


@inline
def _moments(shape, size, x, y, count):
    """Mean and variance of `count` features: of each block its own, while it lies in L1, and from
    those the whole's (Chan, Golub and LeVeque, 1983). The panel is read once from L2 for both, and
    where the result will be written is asked for meanwhile."""
    centre, square, done = shape, shape, 0
    while done < count:
        block = min(BLOCK, count - done)
        ask_far_lines(y, block * size)
        mean = _mean(shape, size, x, block)
        own = _mean_square(shape, size, x, block, mean)
        done += block
        share, apart = block / done, mean - centre
        square = fma(own - square, like(shape, share), square)
        square = fma(apart * apart, like(shape, share * (1 - share)), square)
        centre = fma(apart, like(shape, share), centre)
        x += block * size
        y += block * size
    return centre, square


def layer_norm(points, centred):
    """y = (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis of [outer, K].

    Without `centred` it is RMSNorm: the mean is taken as zero. In place where y is x.
    Words: x, y, outer, K, address of scale[K], of bias[K], of epsilon.
    """

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        outer, count = load_i64(step + 24), load_i64(step + 32)
        scale, bias, epsilon = load_i64(step + 40), load_i64(step + 48), load_i64(step + 56)
        shape, size = zeros(points), 4 * points
        for _ in range(outer):
            if centred:
                centre, square = _moments(shape, size, x, y, count)
            else:
                centre, square = shape, _mean_square(shape, size, x, count, shape)
            factor = like(shape, 1) / sqrt(square + broadcast(shape, epsilon))
            for k in range(count):
                d = (load(shape, x) - centre) * factor
                w, b = broadcast(shape, scale + 4 * k), broadcast(shape, bias + 4 * k)
                store(y, fma(d, w, b))
                x += size
                y += size

    return kernel


@inline
def _add(total, x):
    return total + x


@inline
def _add_absolute(total, x):
    return total + absolute(x)


@inline
def _add_square(total, x):
    return fma(x, x, total)


@inline
def _largest(total, x):
    return if_nan(total, total, at_least(x, total))


@inline
def _smallest(total, x):
    return if_nan(total, total, at_most(x, total))


REDUCTIONS = {
    "ReduceL1": _add_absolute,
    "ReduceL2": _add_square,
    "ReduceMax": _largest,
    "ReduceMean": _add,
    "ReduceMin": _smallest,
    "ReduceSum": _add,
    "ReduceSumSquare": _add_square,
}


def _accumulate(name, total, x):
    """REDUCTIONS[name](total, x), chosen when the kernel is compiled."""
    raise NotImplementedError("compiled code only")


@overload(_accumulate, jit_options=PART, prefer_literal=True, strict=False)
def _accumulate_compiled(name, total, x):
    if not isinstance(name, types.StringLiteral):
        return None
    function = REDUCTIONS[name.literal_value]
    return lambda name, total, x: function(total, x)


def reduction(points, name):
    """Over the middle of [outer, axis, inner] features. Words: x, y, outer, axis, inner."""
    extreme = name in ("ReduceMax", "ReduceMin")

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        outer, axis, inner = load_i64(step + 24), load_i64(step + 32), load_i64(step + 40)
        shape, size = zeros(points), 4 * points
        for o in range(outer):
            for i in range(inner):
                at = x + (o * axis * inner + i) * size
                total = load(shape, at) if extreme else shape
                for _ in range(axis):
                    total = _accumulate(name, total, load(shape, at))
                    at += inner * size
                if name == "ReduceMean":
                    total = total / axis
                if name == "ReduceL2":
                    total = sqrt(total)
                store(y, total)
                y += size

    return kernel
