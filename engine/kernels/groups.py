"""A group: R vectors of T lanes side by side, in numba, as many accumulators of a kernel.

A row of pixels lies in memory as one vector a pixel, so a group is R neighbouring pixels, or every
S-th of them. One source serves every R and T: a group is an array of vectors that no instruction
ever indexes at run time, so LLVM keeps each of them in a register of its own.

Where an instruction must know R and T it takes any group of that kind (`no_group(7, 16)` begins
it). Strides are bytes; where they are constants they end up in the instructions' own offsets.
"""

# The names of numba's typing and lowering functions are numba's, and it ships no types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from engine.kernels.emitting import F32, I64, asked, at, fused, hidden, larger, smaller, splat
from engine.kernels.vector import VectorType

LINE = 64
"""Bytes of a cache line."""


class GroupType(types.Type):
    """`count` vectors of `lanes` floats in registers."""

    def __init__(self, count, lanes):
        self.count, self.lanes = count, lanes
        super().__init__(name=f"Group({count} x {lanes} x float32)")


@register_model(GroupType)
class _GroupModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _array(kind))


def _array(kind):
    return ir.ArrayType(_vector(kind), kind.count)


def _vector(kind):
    return ir.VectorType(F32, kind.lanes)


def _gather(b, kind, vectors):
    """The vectors as one group."""
    group = ir.Constant(_array(kind), ir.Undefined)
    for k, vector in enumerate(vectors):
        group = b.insert_value(group, vector, k)
    return group


def _each(b, kind, group):
    return [b.extract_value(group, k) for k in range(kind.count)]


def _places(b, kind, address, stride):
    """Pointers to the group's vectors, `stride` bytes apart."""
    for k in range(kind.count):
        place = b.add(address, b.mul(stride, ir.Constant(I64, k))) if k else address
        yield at(b, place, _vector(kind))


@intrinsic(prefer_literal=True)
def no_group(typing, count, lanes):
    """Zero in all `lanes` of `count` vectors, compile-time constants."""
    if not isinstance(count, types.IntegerLiteral) or not isinstance(lanes, types.IntegerLiteral):
        return None
    kind = GroupType(count.literal_value, lanes.literal_value)
    zero = [0.0] * kind.lanes

    def emit(context, b, signature, args):
        return _gather(b, kind, [ir.Constant(_vector(kind), zero)] * kind.count)

    return kind(count, lanes), emit


@intrinsic
def load_group(typing, shape, address, stride):
    """A group like `shape` from memory."""

    def emit(context, b, signature, args):
        places = _places(b, shape, args[1], args[2])
        return _gather(b, shape, [b.load(place, align=4) for place in places])

    return shape(shape, types.int64, types.int64), emit


@intrinsic
def store_group(typing, address, stride, group):
    def emit(context, b, signature, args):
        places = _places(b, group, args[0], args[1])
        for place, vector in zip(places, _each(b, group, args[2]), strict=True):
            b.store(vector, place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, group), emit


@intrinsic(prefer_literal=True)
def prefetch_group(typing, shape, address, to_write, level):
    """Asks for the cache lines of a group that lies close together, to be read or written soon,
    into the cache of that level: 1 or 2."""

    def emit(context, b, signature, args):
        for line in range(0, 4 * shape.count * shape.lanes, LINE):
            place = b.add(args[1], ir.Constant(I64, line))
            asked(b, place, to_write.literal_value, 4 - level.literal_value)
        return context.get_dummy_value()

    return types.void(shape, types.int64, to_write, level), emit


@intrinsic
def every(typing, shape, vector):
    """A group like `shape` with `vector` in each of its places."""

    def emit(context, b, signature, args):
        return _gather(b, shape, [args[1]] * shape.count)

    return shape(shape, vector), emit


@intrinsic
def fma_group(typing, weight, address, stride, group):
    """group + weight * what lies at `address`, a multiply-add with a memory operand each."""

    def emit(context, b, signature, args):
        places, kind = _places(b, group, args[1], args[2]), _vector(group)
        sums = [
            fused(b, kind, (args[0], b.load(place, align=4), a))
            for place, a in zip(places, _each(b, group, args[3]), strict=True)
        ]
        return _gather(b, group, sums)

    if not isinstance(weight, VectorType):
        return None
    return group(weight, types.int64, types.int64, group), emit


@intrinsic
def fma_two_groups(typing, w0, w1, address, stride, g0, g1):
    """(g0 + w0 * x, g1 + w1 * x), x the group at `address`: a load for two multiply-adds."""
    two = types.UniTuple(g0, 2)

    def emit(context, b, signature, args):
        pixels = [b.load(place, align=4) for place in _places(b, g0, args[2], args[3])]
        sums = []
        for weight, group in zip(args[:2], args[4:], strict=True):
            pairs = zip(pixels, _each(b, g0, group), strict=True)
            sums.append(_gather(b, g0, [fused(b, _vector(g0), (weight, x, a)) for x, a in pairs]))
        return context.make_tuple(b, two, sums)

    if not isinstance(w0, VectorType):
        return None
    return two(w0, w1, types.int64, types.int64, g0, g1), emit


@intrinsic
def fma_four_groups(typing, lane, weights, address, stride, g0, g1, g2, g3):
    """(g0 + weight[0] * x, ... g3 + weight[3] * x), x the group at `address`.

    As many pixels of x as there are registers for beside the sums are loaded once, the others are
    read by each of their four multiply-adds. So 7 pixels of 16 lanes are 2 + 4 * 5 + 4 loads for
    28 multiply-adds, and nothing is spilled.
    """
    four = types.UniTuple(g0, 4)
    free = _REGISTERS[g0.lanes] - 4 * g0.count - 1
    kept = g0.count if g0.count <= free else max(0, free - 1)  # LLVM wants one to spare

    def emit(context, b, signature, args):
        once = [b.load(p, align=4) for p in _places(b, g0, args[2], args[3])][:kept]
        sums = []
        for k, group in enumerate(args[4:]):
            weight = b.load(at(b, b.add(args[1], ir.Constant(I64, 4 * k)), F32), align=4)
            wide = splat(b, weight, g0.lanes)
            places = list(_places(b, g0, hidden(b, args[2]), args[3]))[kept:]
            pixels = [*once, *(b.load(place, align=4) for place in places)]
            pairs = zip(pixels, _each(b, g0, group), strict=True)
            sums.append(_gather(b, g0, [fused(b, _vector(g0), (wide, x, a)) for x, a in pairs]))
        return context.make_tuple(b, four, sums)

    return four(lane, types.int64, types.int64, types.int64, g0, g1, g2, g3), emit


_REGISTERS = {8: 16, 16: 32}
"""Vector registers of a processor with that many lanes in each: AVX2's and AVX-512's."""


def _with_group(combine):
    """An intrinsic that takes two groups to one: combine(builder, kind, x, y) for each vector."""

    def emit(context, b, signature, args):
        kind = signature.return_type
        pairs = zip(_each(b, kind, args[0]), _each(b, kind, args[1]), strict=True)
        return _gather(b, kind, [combine(b, x, y) for x, y in pairs])

    def two(typing, x, y):
        return x(x, y), emit

    return intrinsic(two)


add_group = _with_group(lambda b, x, y: b.fadd(x, y))
group_at_least = _with_group(larger)
"""The larger of x and y; a NaN in x stays NaN."""
group_at_most = _with_group(smaller)
"""The smaller of x and y; a NaN in x stays NaN."""
