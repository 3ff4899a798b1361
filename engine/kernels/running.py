"""The loop that carries columns through steps: no Python and no lock inside.

Threads share a counter and nothing else. Each takes the next column by a fetch-add until none is
left; there is no barrier, and a slow core takes fewer columns.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import functools
from typing import Any

from numba import types
from numba.extending import intrinsic

from engine.kernels.building import callable_here, kept
from engine.kernels.calling import call_kernel
from engine.kernels.emitting import I64, at
from engine.kernels.functions import inline
from engine.kernels.vector import load_i64, store_i64

_SIGNATURE = types.void(*[types.int64] * 4)


@intrinsic
def _fetch_add(typing, address, amount):
    """Adds to the int64 at `address` and gives what it was, in one atomic step."""

    def emit(context, b, signature, args):
        return b.atomic_rmw("add", at(b, args[0], I64), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), emit


def _run_columns(counter, columns, table, held):
    """Takes columns until the counter passes `columns`; all arguments are numbers or addresses.

    table    int64[columns, 4]: first row, rows, first token, tokens of each; where rows are the
             points, tokens are rows
    held     int64[10]: address of the stretches, how many, address of the step table, of the
             patches, of the words, bytes of a step's words, arena, bytes to the next column's
             arena (0 when a thread uses one for all the columns it takes), tiles of a group,
             borders

    A stretch is int64[4]: 1 for all sequences of a column at once and 0 for its tiles, the first
    step, steps, points of a tile. Each step has int64[3]: its first patch, how many are of panels
    that live within a stretch, how many of others. A patch is int64[2]: which byte of the step's
    words, bytes from tile to tile. The words are this thread's own, and as they were in the end.
    """
    arena, stride = load_i64(held + 48), load_i64(held + 56)
    while True:
        column = _fetch_add(counter, 1)
        if column >= columns:
            return
        stretch = load_i64(held)
        for _ in range(load_i64(held + 8)):
            if load_i64(stretch) != 0:
                _run_whole(stretch, held, table + column * 32, arena + column * stride)
            else:
                _run_tiles(stretch, held, table + column * 32, arena + column * stride)
            stretch += 32


@inline
def _run_whole(stretch, held, column, arena):
    """The steps of a stretch, for all sequences of a column at once."""
    size, borders = load_i64(held + 40), load_i64(held + 72)
    step = load_i64(held + 32) + load_i64(stretch + 8) * size
    for _ in range(load_i64(stretch + 16)):
        call_kernel(load_i64(step), step, arena, load_i64(column), load_i64(column + 8), borders)
        step += size


@inline
def _run_tiles(stretch, held, column, arena):
    """The steps of a stretch, group by group of tiles: each step for all tiles of the group, so
    that its weights come from L2 for all but the first."""
    size, borders = load_i64(held + 40), load_i64(held + 72)
    first, steps, points = load_i64(stretch + 8), load_i64(stretch + 16), load_i64(stretch + 24)
    token, tokens = load_i64(column + 16), load_i64(column + 24)
    group, tiles = load_i64(held + 64), -(-tokens // points)
    for done in range(0, tiles, group):
        count = min(group, tiles - done)
        step = load_i64(held + 32) + first * size
        row = load_i64(held + 16) + first * 24
        for _ in range(steps):
            patch = load_i64(held + 24) + load_i64(row) * 16
            local, spread = load_i64(row + 8), load_i64(row + 16)
            for tile in range(done, done + count):
                live = min(points, tokens - tile * points)
                call_kernel(load_i64(step), step, arena, token + tile * points, live, borders)
                _move(step, patch, local + spread, 1)
            _move(step, patch, local, -count)
            step += size
            row += 24
    step, row = load_i64(held + 32) + first * size, load_i64(held + 16) + first * 24
    for _ in range(steps):
        patch = load_i64(held + 24) + (load_i64(row) + load_i64(row + 8)) * 16
        _move(step, patch, load_i64(row + 16), -tiles)
        step += size
        row += 24


@inline
def _move(step, patch, count, tiles):
    """Moves the panels that patches name by so many tiles."""
    for _ in range(count):
        word = step + load_i64(patch)
        store_i64(word, load_i64(word) + tiles * load_i64(patch + 8))
        patch += 16


@functools.cache
def run_columns() -> Any:
    """The compiled loop; releases the interpreter's lock while it runs."""
    with kept("run_columns"):
        return callable_here(_run_columns, _SIGNATURE)
