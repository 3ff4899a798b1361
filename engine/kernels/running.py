"""The loop that carries columns through steps: no Python and no lock inside.

Threads share a counter and nothing else. Each takes the next column by a fetch-add until none is
left; there is no barrier, and a slow core takes fewer columns.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import functools
from typing import Any

from numba import njit, types

from engine.kernels.building import cached_here
from engine.kernels.vector import call_kernel, fetch_add, load_i64

_SIGNATURE = types.void(*[types.int64] * 9)


def _run_columns(
    counter, columns, rows, points, steps, step_count, step_nbytes, arena_and_stride, borders
):
    """Takes columns until the counter passes `columns`; all arguments are numbers or addresses.

    `arena_and_stride` is the address of two int64: the arena of column 0, and the bytes to that
    of the next column: 0 when a thread uses one arena for all the columns it takes.
    """
    arena, stride = load_i64(arena_and_stride), load_i64(arena_and_stride + 8)
    while True:
        column = fetch_add(counter, 1)
        if column >= columns:
            return
        row = column * points
        live = min(points, rows - row)
        step = steps
        for _ in range(step_count):
            call_kernel(load_i64(step), step, arena + column * stride, row, live, borders)
            step += step_nbytes


@functools.cache
def run_columns() -> Any:
    """The compiled loop; releases the interpreter's lock while it runs."""
    with cached_here():
        return njit(_SIGNATURE, nogil=True, cache=True, error_model="numpy")(_run_columns)
