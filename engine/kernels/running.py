"""The loop that carries columns through steps: no Python and no lock inside.

Threads share a counter and nothing else. Each takes the next column by a fetch-add until none is
left; there is no barrier, and a slow core takes fewer columns.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from engine.kernels.building import cached_here
from engine.kernels.vector import I64, at, load_i64

_SIGNATURE = types.void(*[types.int64] * 9)


@intrinsic
def _fetch_add(typing, address, amount):
    """Adds to the int64 at `address` and gives what it was, in one atomic step."""

    def emit(context, b, signature, args):
        return b.atomic_rmw("add", at(b, args[0], I64), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def _call_kernel(typing, function, step, arena, row, points, borders):
    """Calls the compiled kernel at the address `function`: see kernels/table.py for the call."""

    def emit(context, b, signature, args):
        shape = ir.FunctionType(ir.VoidType(), [I64] * 5)
        b.call(at(b, args[0], shape), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), emit


def _run_columns(
    counter, columns, rows, points, steps, step_count, step_nbytes, arena_and_stride, borders
):
    """Takes columns until the counter passes `columns`; all arguments are numbers or addresses.

    `arena_and_stride` is the address of two int64: the arena of column 0, and the bytes to that
    of the next column: 0 when a thread uses one arena for all the columns it takes.
    """
    arena, stride = load_i64(arena_and_stride), load_i64(arena_and_stride + 8)
    while True:
        column = _fetch_add(counter, 1)
        if column >= columns:
            return
        row = column * points
        live = min(points, rows - row)
        step = steps
        for _ in range(step_count):
            _call_kernel(load_i64(step), step, arena + column * stride, row, live, borders)
            step += step_nbytes


@functools.cache
def run_columns() -> Any:
    """The compiled loop; releases the interpreter's lock while it runs."""
    with cached_here():
        return njit(_SIGNATURE, nogil=True, cache=True, error_model="numpy")(_run_columns)
