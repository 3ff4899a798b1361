"""The SIMD type: a vector of L floats, in numba, and the few instructions kernels need.

A kernel is written once for L lanes, the width of its register tile, and LLVM splits the vector
into whatever registers the processor has: two `ymm` for 16 lanes on AVX2, one `zmm` on AVX-512,
four quarter-wide ones on NEON. What is measured of the machine code stands in kernels/spmm.py.

Where an instruction must know how many lanes to make, it takes any vector of that shape: so one
function serves every width, by its argument's type (`zeros(16)` begins it). Addresses are int64;
who calls keeps the memory alive. Nothing raises: kernels run without the interpreter's lock.
"""

# The names of numba's typing and lowering functions are numba's, and it ships no types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import operator

from llvmlite import binding, ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from engine.kernels.emitting import (
    F32,
    I32,
    I64,
    at,
    call_llvm,
    each_piece,
    fused,
    hidden,
    in_all_lanes,
    in_one,
    larger,
    pieces_of,
    places_of,
    register_type,
    shuffle,
    smaller,
    splat,
    undefined,
    value_type,
)
from engine.kernels.registers import register_lanes

# The register class of a vector in inline assembly, by the first letters of the target triple.
_REGISTER_CLASS = {"x86_64": "x", "aarch64": "w", "arm64": "w"}


class VectorType(types.Type):
    """`lanes` floats in registers; in so many `pieces` of a register each where LLVM should not
    choose the widest ones. What products need takes those, too."""

    def __init__(self, lanes, pieces=1):
        self.lanes, self.pieces = lanes, pieces
        super().__init__(name=f"Vector({pieces} x {lanes // pieces} x float32)")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, value_type(kind))


# ---- memory ---------------------------------------------------------------------------------


@intrinsic
def load(typing, shape, address):
    """As many floats at `address` as the vector `shape` has lanes."""

    def emit(context, b, signature, args):
        return in_one(b, shape, [b.load(p, align=4) for p in places_of(b, shape, args[1])])

    return shape(shape, types.int64), emit


@intrinsic
def store(typing, address, vector):
    """Writes all lanes of `vector` at `address`."""

    def emit(context, b, signature, args):
        places = places_of(b, vector, args[0])
        for piece, place in zip(pieces_of(b, vector, args[1]), places, strict=True):
            b.store(piece, place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, vector), emit


@intrinsic
def broadcast(typing, shape, address):
    """The float at `address` in every lane of a vector like `shape`."""

    def emit(context, b, signature, args):
        wide = splat(b, b.load(at(b, args[1], F32), align=4), shape.lanes // shape.pieces)
        return in_one(b, shape, [wide] * shape.pieces)

    return shape(shape, types.int64), emit


@intrinsic
def load_four(typing, shape, address):
    """Four floats at `address`, again and again through a register that LLVM knows nothing about,
    as wide as those of `shape`: for a wider one than that Zen 4 loads twice.

    The empty assembly hides where they come from. Without it LLVM turns every `pick` of a lane
    back into a broadcast from memory: one load instead of one shuffle, in kernels that loads
    bound. Measured on Zen 3, 2048x2048, 90 % zeros, 16 points: 49 against 62 GFLOP/s.
    """
    kind = VectorType(min(register_lanes(), shape.lanes // shape.pieces))

    def emit(context, b, signature, args):
        four = b.load(at(b, args[1], ir.VectorType(F32, 4)), align=4)
        wide = shuffle(b, four, undefined(4), [lane % 4 for lane in range(kind.lanes)])
        machine = binding.get_default_triple().split("-")[0]
        register = _REGISTER_CLASS.get(machine)
        if register is None:  # correct everywhere, slower where it was never tried
            return wide
        vector = ir.VectorType(F32, kind.lanes)
        same = ir.FunctionType(vector, [vector])
        return b.call(ir.InlineAsm(same, "", f"={register},0"), [wide])

    return kind(shape, types.int64), emit


@intrinsic(prefer_literal=True)
def pick(typing, shape, four, index):
    """Float `index` (0..3) of what `load_four` gave, in every lane: one in-lane shuffle."""
    k = index.literal_value

    def emit(context, b, signature, args):
        lanes = range(shape.lanes // shape.pieces)
        mask = [k + 4 * ((lane // 4) % (four.lanes // 4)) for lane in lanes]
        wide = shuffle(b, args[1], undefined(four.lanes), mask)
        return in_one(b, shape, [wide] * shape.pieces)

    return shape(shape, four, index), emit


@intrinsic(prefer_literal=True)
def scratch(typing, nbytes):
    """Address of `nbytes` of the stack, a compile-time constant, on a cache line of its own. Each
    call has its own memory; it lasts until the kernel ends."""
    if not isinstance(nbytes, types.IntegerLiteral):
        return None

    def emit(context, b, signature, args):
        with b.goto_entry_block():  # numba's own helper would fill it with zeros
            place = b.alloca(ir.ArrayType(ir.IntType(8), nbytes.literal_value))
        place.align = 64
        # hidden, so that it is in a register: an index beside the stack's own is one too many
        return hidden(b, b.ptrtoint(place, I64))

    return types.int64(nbytes), emit


@intrinsic
def load_u16(typing, address):
    def emit(context, b, signature, args):
        return b.zext(b.load(at(b, args[0], ir.IntType(16)), align=2), I64)

    return types.int64(types.int64), emit


@intrinsic
def load_i32(typing, address):
    def emit(context, b, signature, args):
        return b.sext(b.load(at(b, args[0], I32), align=4), I64)

    return types.int64(types.int64), emit


@intrinsic
def load_i64(typing, address):
    def emit(context, b, signature, args):
        return b.load(at(b, args[0], I64), align=8)

    return types.int64(types.int64), emit


@intrinsic
def store_i64(typing, address, value):
    def emit(context, b, signature, args):
        b.store(args[1], at(b, args[0], I64), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def load_float(typing, address):
    """The float at `address` as a float32 scalar."""

    def emit(context, b, signature, args):
        return b.load(at(b, args[0], F32), align=4)

    return types.float32(types.int64), emit


@intrinsic
def store_float(typing, address, value):
    def emit(context, b, signature, args):
        b.store(args[1], at(b, args[0], F32), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), emit


@intrinsic(prefer_literal=True)
def half_word(typing, word, index):
    """16-bit field `index` (0..3) of a 64-bit word: four indices cost one load instead of four."""
    shift = 16 * index.literal_value

    def emit(context, b, signature, args):
        moved = b.lshr(args[0], ir.Constant(I64, shift))
        return b.and_(moved, ir.Constant(I64, 0xFFFF))

    return types.int64(types.int64, index), emit


# ---- arithmetic -----------------------------------------------------------------------------


@intrinsic
def like(typing, vector, value):
    """A scalar in every lane of a vector shaped as `vector`."""

    def emit(context, b, signature, args):
        return in_all_lanes(context, b, vector, signature.args[1], args[1])

    return vector(vector, value), emit


@intrinsic(prefer_literal=True)
def zeros(typing, lanes):
    """Zero in every lane of a vector of `lanes`, a compile-time constant."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    kind = VectorType(lanes.literal_value)
    return kind(lanes), lambda c, b, s, a: ir.Constant(register_type(kind), [0.0] * kind.lanes)


@intrinsic(prefer_literal=True)
def zeros_in_pieces(typing, pieces, lanes):
    """Zero in every lane of a vector of `pieces` of `lanes` each, compile-time constants."""
    if not isinstance(pieces, types.IntegerLiteral) or not isinstance(lanes, types.IntegerLiteral):
        return None
    kind = VectorType(pieces.literal_value * lanes.literal_value, pieces.literal_value)
    zero = ir.Constant(register_type(kind), [0.0] * lanes.literal_value)
    return kind(pieces, lanes), lambda c, b, s, a: in_one(b, kind, [zero] * kind.pieces)


def _elementwise(emit_one, arity):
    """An intrinsic that maps `arity` vectors of one kind to one: emit_one(builder, kind, args)."""

    def emit(context, b, signature, args):
        return each_piece(b, signature.return_type, emit_one, args)

    # numba reads the number of arguments off the function's own signature
    def one(typing, x):
        return x(x), emit

    def two(typing, x, y):
        return x(x, y), emit

    def three(typing, x, y, z):
        return x(x, y, z), emit

    return intrinsic({1: one, 2: two, 3: three}[arity])


fma = _elementwise(fused, 3)
"""x * y + z, rounded once."""
sqrt = _elementwise(lambda b, kind, args: call_llvm(b, "sqrt", kind, args), 1)
absolute = _elementwise(lambda b, kind, args: call_llvm(b, "fabs", kind, args), 1)
floor = _elementwise(lambda b, kind, args: call_llvm(b, "floor", kind, args), 1)
ceil = _elementwise(lambda b, kind, args: call_llvm(b, "ceil", kind, args), 1)
nearest = _elementwise(lambda b, kind, args: call_llvm(b, "rint", kind, args), 1)
"""To the nearest whole number, ties to even."""
copysign = _elementwise(lambda b, kind, args: call_llvm(b, "copysign", kind, args), 2)
at_least = _elementwise(lambda b, kind, args: larger(b, *args), 2)
"""The larger of x and y; a NaN in x stays NaN."""
at_most = _elementwise(lambda b, kind, args: smaller(b, *args), 2)
"""The smaller of x and y; a NaN in x stays NaN."""


@intrinsic
def if_less(typing, a, b, x, y):
    """x where a < b, elsewhere (NaN included) y."""

    def emit(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return x(a, b, x, y), emit


@intrinsic
def if_nan(typing, test, x, y):
    """x where `test` is NaN, elsewhere y."""

    def emit(context, builder, signature, args):
        return builder.select(builder.fcmp_unordered("uno", args[0], args[0]), args[1], args[2])

    return x(test, x, y), emit


@intrinsic
def if_negative(typing, test, x, y):
    """x where the sign bit of `test` is set, minus zero included, elsewhere y."""

    def emit(context, builder, signature, args):
        whole = ir.VectorType(I32, test.lanes)
        zero = ir.Constant(whole, [0] * test.lanes)
        negative = builder.icmp_signed("<", builder.bitcast(args[0], whole), zero)
        return builder.select(negative, args[1], args[2])

    return x(test, x, y), emit


@intrinsic
def lane_numbers(typing, vector):
    """0, 1, 2 ... in the lanes of a vector shaped as `vector`."""

    def emit(context, b, signature, args):
        return ir.Constant(register_type(vector), [float(k) for k in range(vector.lanes)])

    return vector(vector), emit


@intrinsic
def power_of_two(typing, exponent):
    """2 ** exponent for whole exponents in -126..127, by building the float's bits.

    The whole number is read off the low bits of exponent + 1.5 * 2 ** 23, where a float counts in
    ones. LLVM's conversions are undefined for NaN, or done lane by lane; here NaN gives some
    number, which what it multiplies makes NaN again.
    """

    def emit(context, b, signature, args):
        lanes = exponent.lanes
        whole_kind, kind = ir.VectorType(I32, lanes), ir.VectorType(F32, lanes)
        counting = ir.Constant(kind, [float(3 << 22)] * lanes)
        whole = b.bitcast(b.fadd(args[0], counting), whole_kind)
        shift, bias = (ir.Constant(whole_kind, [n] * lanes) for n in (23, 127 << 23))
        return b.bitcast(b.add(b.shl(whole, shift), bias), kind)

    return exponent(exponent), emit


@intrinsic
def split_exponent(typing, x):
    """(m, e) with x = m * 2 ** e and 0.5 <= m < 1, for positive normal x."""
    pair = types.UniTuple(x, 2)

    def emit(context, b, signature, args):
        lanes = x.lanes
        whole_kind, kind = ir.VectorType(I32, lanes), ir.VectorType(F32, lanes)

        def every(n):
            return ir.Constant(whole_kind, [n] * lanes)

        bits = b.bitcast(args[0], whole_kind)
        exponent = b.sub(b.and_(b.lshr(bits, every(23)), every(255)), every(126))
        mantissa = b.or_(b.and_(bits, every(0x007FFFFF)), every(0x3F000000))
        values = [b.bitcast(mantissa, kind), b.sitofp(exponent, kind)]
        return context.make_tuple(b, pair, values)

    return pair(x), emit


def _operator(symbol, emit_one):
    """`x symbol y` for two vectors and for a vector and a scalar on either side."""

    @infer_global(symbol)
    class _Typed(AbstractTemplate):
        def generic(self, args, kws):
            kind = next((a for a in args if isinstance(a, VectorType)), None)
            if kind is None or not all(a == kind or isinstance(a, types.Number) for a in args):
                return None
            return kind(*args)

    def emit(context, b, signature, args):
        kind, pairs = signature.return_type, zip(signature.args, args, strict=True)
        wide = [x if a == kind else in_all_lanes(context, b, kind, a, x) for a, x in pairs]
        return each_piece(b, kind, emit_one, wide)

    scalar, vector = types.Number, VectorType
    for given in ((vector, vector), (vector, scalar), (scalar, vector)):
        lower_builtin(symbol, *given)(emit)


_operator(operator.add, lambda b, kind, args: b.fadd(*args))
_operator(operator.sub, lambda b, kind, args: b.fsub(*args))
_operator(operator.mul, lambda b, kind, args: b.fmul(*args))
_operator(operator.truediv, lambda b, kind, args: b.fdiv(*args))
