"""Elements of a batch's arrays, of every type that one may come in, as float32, and back."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernels.emitting import F32, F64, I32, I64, at

_ELEMENTS = {
    "float32": (F32, "f"),
    "float64": (F64, "f"),
    "uint8": (ir.IntType(8), "u"),
    "int8": (ir.IntType(8), "i"),
    "uint16": (ir.IntType(16), "u"),
    "int16": (ir.IntType(16), "i"),
    "uint32": (I32, "u"),
    "int32": (I32, "i"),
    "uint64": (I64, "u"),
    "int64": (I64, "i"),
    "bool": (ir.IntType(8), "u"),
}


@intrinsic(prefer_literal=True)
def load_as_float(typing, element, address):
    """The element (a numpy type's name) at `address`, rounded to the nearest float32."""
    kind, sort = _ELEMENTS[element.literal_value]

    def emit(context, b, signature, args):
        x = b.load(at(b, args[1], kind), align=1)
        if sort == "f":
            return x if kind == F32 else b.fptrunc(x, F32)
        return b.uitofp(x, F32) if sort == "u" else b.sitofp(x, F32)

    return types.float32(element, types.int64), emit


@intrinsic(prefer_literal=True)
def store_from_float(typing, element, address, value):
    """A float32 as the element (a numpy type's name) at `address`; what is whole in the panel."""
    kind, sort = _ELEMENTS[element.literal_value]

    def emit(context, b, signature, args):
        x = args[2] if sort == "f" else b.fptosi(args[2], kind)
        b.store(x, at(b, args[1], kind), align=4)
        return context.get_dummy_value()

    return types.void(element, types.int64, types.float32), emit
