"""Where the extremes of a panel lie: ArgMax, ArgMin and TopK, a feature at a time.

Points are lanes, so one comparison serves all rows of a tile, and a select keeps the winner beside
its place. Places are floats, exact below 2 ** 24, and become int64 when they are exported.

NaN is what onnxruntime makes of it. ArgMax and ArgMin compare with what they found so far, so that
a NaN stays if it comes first and is never found later. TopK takes NaN for larger than any number.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernels.emitting import I64
from engine.kernels.vector import like, load, load_i64, store, zeros

_BETTER = {
    ("max", "first"): ">",
    ("max", "last"): ">=",
    ("min", "first"): "<",
    ("min", "last"): "<=",
}


@intrinsic(prefer_literal=True)
def _if_better(typing, most, which, value, best, yes, no):
    """`yes` where the value takes the place of the best so far, elsewhere (NaN included) `no`."""
    symbol = _BETTER[most.literal_value, which.literal_value]

    def emit(context, b, signature, args):
        return b.select(b.fcmp_ordered(symbol, args[2], args[3]), args[4], args[5])

    return yes(most, which, value, best, yes, no), emit


def _ahead(b, most, x, other):
    """Lanes where x stands in front of the other one. Of two that are equal, or both NaN, neither
    does: the one that was there first stays in front."""
    if most == "max":  # a NaN x is ahead of all but NaN
        return b.and_(b.fcmp_unordered(">", x, other), b.fcmp_ordered("ord", other, other))
    return b.and_(b.fcmp_unordered("<", x, other), b.fcmp_ordered("ord", x, x))


@intrinsic(prefer_literal=True)
def _if_ahead(typing, most, x, other, yes, no):
    """`yes` where x stands in front of the other one, elsewhere `no`."""
    which = most.literal_value

    def emit(context, b, signature, args):
        return b.select(_ahead(b, which, args[1], args[2]), args[3], args[4])

    return yes(most, x, other, yes, no), emit


@intrinsic(prefer_literal=True)
def _any_ahead(typing, most, x, other):
    """Whether x stands in front of the other one in any lane: 1 or 0."""
    which = most.literal_value

    def emit(context, b, signature, args):
        bits = ir.IntType(x.lanes)
        found = b.bitcast(_ahead(b, which, args[1], args[2]), bits)
        return b.zext(b.icmp_unsigned("!=", found, ir.Constant(bits, 0)), I64)

    return types.int64(most, x, other), emit


def extreme(points, most, which):
    """Places along the middle of [outer, axis, inner] features, of equal ones the first or the
    last. Words: x, places, outer, axis, inner."""

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        outer, axis, inner = load_i64(step + 24), load_i64(step + 32), load_i64(step + 40)
        shape, size = zeros(points), 4 * points
        for o in range(outer):
            for i in range(inner):
                at = x + (o * axis * inner + i) * size
                best, place = load(shape, at), shape
                for k in range(1, axis):
                    at += inner * size
                    value = load(shape, at)
                    place = _if_better(most, which, value, best, like(shape, k), place)
                    best = _if_better(most, which, value, best, value, best)
                store(y, place)
                y += size

    return kernel


def top(points, most):
    """The first k in order along the middle of [outer, axis, inner] features, and their places.

    What is found lies in order in the results. A feature that is ahead of the last in any lane
    takes its place in those, and moves up past all that it is ahead of.
    Words: x, values, places, outer, axis, inner, k.
    """

    def kernel(step, arena, row, live, borders):
        x, values = arena + load_i64(step + 8), arena + load_i64(step + 16)
        places, outer = arena + load_i64(step + 24), load_i64(step + 32)
        axis, inner, count = load_i64(step + 40), load_i64(step + 48), load_i64(step + 56)
        shape, size = zeros(points), 4 * points
        stride = inner * size
        for o in range(outer):
            for i in range(inner):
                at, first = x + (o * axis * inner + i) * size, (o * count * inner + i) * size
                for k in range(axis):
                    value, place = load(shape, at), like(shape, k)
                    at += stride
                    end = first + min(k, count - 1) * stride
                    if k >= count:
                        last = load(shape, values + end)
                        if _any_ahead(most, value, last) == 0:
                            continue
                        place = _if_ahead(most, value, last, place, load(shape, places + end))
                        value = _if_ahead(most, value, last, value, last)
                    store(values + end, value)
                    store(places + end, place)
                    while end > first:
                        above = end - stride
                        front, there = load(shape, values + above), load(shape, places + above)
                        mine, own = load(shape, values + end), load(shape, places + end)
                        store(values + above, _if_ahead(most, mine, front, mine, front))
                        store(places + above, _if_ahead(most, mine, front, own, there))
                        store(values + end, _if_ahead(most, mine, front, front, mine))
                        store(places + end, _if_ahead(most, mine, front, there, own))
                        end = above

    return kernel
