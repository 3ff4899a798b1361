"""Elements of a batch's arrays, of every type that one may come in, as float32."""

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
