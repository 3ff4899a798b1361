"""Calls of one compiled kernel from another, by the address of its machine code."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from engine.kernels.emitting import I64, at


@intrinsic
def call_kernel(typing, function, a, b, c, d, e):
    """Calls the compiled kernel at the address `function` with its five numbers or addresses."""

    def emit(context, builder, signature, args):
        shape = ir.FunctionType(ir.VoidType(), [I64] * 5)
        builder.call(at(builder, args[0], shape), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), emit
