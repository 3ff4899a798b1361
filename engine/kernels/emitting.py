"""LLVM instructions that intrinsics are made of: what to emit, given a builder and its values."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

F32, F64, I64, I32 = ir.FloatType(), ir.DoubleType(), ir.IntType(64), ir.IntType(32)


def at(builder, address, kind):
    """The address as a pointer to `kind`."""
    return builder.inttoptr(address, kind.as_pointer())


def shuffle(builder, one, two, mask):
    """Lanes of two vectors side by side, by a constant mask."""
    return builder.shuffle_vector(one, two, ir.Constant(ir.VectorType(I32, len(mask)), list(mask)))


def splat(builder, scalar, lanes):
    """A vector with the scalar in every lane."""
    one = builder.insert_element(undefined(lanes), scalar, ir.Constant(I32, 0))
    return shuffle(builder, one, undefined(lanes), [0] * lanes)


def in_all_lanes(context, b, kind, given, value):
    """A scalar of numba's type `given` in every lane of a vector of `kind`."""
    return splat(b, context.cast(b, value, given, types.float32), kind.lanes)


def hidden(builder, address):
    """The same address, which LLVM does not know to be the same: what lies there is read again."""
    shape = ir.FunctionType(I64, [I64])
    return builder.call(ir.InlineAsm(shape, "", "=r,0"), [address])


def undefined(lanes):
    return ir.Constant(ir.VectorType(F32, lanes), ir.Undefined)


def register_type(kind):
    """One of the pieces that a vector type of vector.py is kept in."""
    return ir.VectorType(F32, kind.lanes // kind.pieces)


def value_type(kind):
    """All of it: a vector, or an array of pieces, which no instruction indexes at run time, so
    that LLVM keeps each in a register of its own."""
    piece = register_type(kind)
    return piece if kind.pieces == 1 else ir.ArrayType(piece, kind.pieces)


def pieces_of(b, kind, value):
    return [value] if kind.pieces == 1 else [b.extract_value(value, k) for k in range(kind.pieces)]


def in_one(b, kind, pieces):
    """The pieces as one value again."""
    if kind.pieces == 1:
        return pieces[0]
    value = ir.Constant(value_type(kind), ir.Undefined)
    for k, piece in enumerate(pieces):
        value = b.insert_value(value, piece, k)
    return value


def places_of(b, kind, address):
    """Pointers to its pieces, which lie side by side."""
    piece = register_type(kind)
    for k in range(kind.pieces):
        yield at(b, b.add(address, ir.Constant(I64, 4 * piece.count * k)) if k else address, piece)


def each_piece(b, kind, emit_one, args):
    """emit_one(builder, kind, args) on every piece of vectors of one kind."""
    pieces = zip(*(pieces_of(b, kind, a) for a in args), strict=True)
    return in_one(b, kind, [emit_one(b, register_type(kind), one) for one in pieces])


def call_llvm(b, name, kind, args):
    """Calls LLVM's `name` on vectors of one kind; LLVM lowers it to the machine's instruction."""
    shape = ir.FunctionType(kind, [kind] * len(args))
    full = f"llvm.{name}.v{kind.count}f32"
    return b.call(cgutils.get_or_insert_function(b.module, shape, full), args)


def fused(b, kind, args):
    """args[0] * args[1] + args[2], rounded once."""
    return call_llvm(b, "fma", kind, args)


def larger(b, x, y):
    """`maxps` with the operands so that a NaN in x stays."""
    return b.select(b.fcmp_ordered("<", x, y), y, x)


def smaller(b, x, y):
    return b.select(b.fcmp_ordered(">", x, y), y, x)


def asked(b, address, to_write, locality):
    """Asks for the cache line of an address; `locality` 3 is into L1, 2 into L2."""
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    flags = [ir.Constant(I32, n) for n in (int(to_write), locality, 1)]
    b.call(function, [at(b, address, ir.IntType(8)), *flags])
