"""Where tokens begin and end: embeddings looked up into panels, sequences reduced to rows.

A panel of tokens is x[features, T] for each tile of T tokens of a column; sequences lie in it
side by side, see kernels/attention.py.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from engine.kernels.borders import copy_eight
from engine.kernels.compiling import PART
from engine.kernels.functions import inline
from engine.kernels.vector import load_float, load_i32, load_i64, store_float


@inline
def _table_row(ids, t, live, nbytes, table, features, entries):
    """Address of the table's row for token `t`, or for the last one where there is no such."""
    at = ids + min(t, live - 1) * nbytes
    number = load_i64(at) if nbytes == 8 else load_i32(at)
    if number < 0:  # ONNX counts from the end
        number += entries
    return table + number * features * 4


@inline
def _embed_eight(target, size, features, r0, r1, r2, r3, r4, r5, r6, r7):
    """Eight lanes of a panel: eight rows of the table, transposed."""
    done = 0
    while done + 8 <= features:
        at = 4 * done
        copy_eight(
            target, size, r0 + at, r1 + at, r2 + at, r3 + at, r4 + at, r5 + at, r6 + at, r7 + at
        )
        target += 8 * size
        done += 8
    for k in range(done, features):
        for lane, r in enumerate((r0, r1, r2, r3, r4, r5, r6, r7)):
            store_float(target + 4 * lane, load_float(r + 4 * k))
        target += size


def embed(points, nbytes):
    """panel[K, T] = rows of a table, by ids of `nbytes` each that the session has checked.

    Words: panel, border of the ids, K, address of table[V, K] (float32), V. Lanes without a
    token repeat the last one.
    """

    def kernel(step, arena, row, live, borders):
        panel = arena + load_i64(step + 8)
        ids = load_i64(borders + 8 * load_i64(step + 16)) + row * nbytes
        features, table, entries = (
            load_i64(step + 24),
            load_i64(step + 32),
            load_i64(step + 40),
        )
        for t in range(0, points, 8):
            _embed_eight(
                panel + 4 * t,
                4 * points,
                features,
                _table_row(ids, t, live, nbytes, table, features, entries),
                _table_row(ids, t + 1, live, nbytes, table, features, entries),
                _table_row(ids, t + 2, live, nbytes, table, features, entries),
                _table_row(ids, t + 3, live, nbytes, table, features, entries),
                _table_row(ids, t + 4, live, nbytes, table, features, entries),
                _table_row(ids, t + 5, live, nbytes, table, features, entries),
                _table_row(ids, t + 6, live, nbytes, table, features, entries),
                _table_row(ids, t + 7, live, nbytes, table, features, entries),
            )

    return kernel


def _larger(total, x):
    return x if x > total or x != x else total


def _smaller(total, x):
    return x if x < total or x != x else total


def _sum(total, x):
    return total + x


POOLS = {"Max": inline(_larger), "Mean": inline(_sum), "Min": inline(_smaller), "Sum": inline(_sum)}
"""Reductions over the tokens of a sequence, one after the other: in that order, whatever lane
the sequence begins at, so that its bytes do not depend on its neighbours."""


def _add_token(name, total, x):
    """POOLS[name](total, x), chosen when the kernel is compiled."""
    raise NotImplementedError("compiled code only")


@overload(_add_token, jit_options=PART, prefer_literal=True, strict=False)
def _add_token_compiled(name, total, x):
    if not isinstance(name, types.StringLiteral):
        return None
    function = POOLS[name.literal_value]
    return lambda name, total, x: function(total, x)


def pool(points, name):
    """y[rows, K] = a reduction of each sequence's tokens. `live` sequences from `row` on.

    Words: x (panel of tile 0), bytes from tile to tile, K, border of y, border of the offsets.
    """

    def kernel(step, arena, row, live, borders):
        x, stride = arena + load_i64(step + 8), load_i64(step + 16)
        features = load_i64(step + 24)
        y = load_i64(borders + 8 * load_i64(step + 32)) + row * features * 4
        offsets = load_i64(borders + 8 * load_i64(step + 40)) + 8 * row
        begin = load_i64(offsets)
        for sequence in range(live):
            first = load_i64(offsets + 8 * sequence) - begin
            last = load_i64(offsets + 8 * sequence + 8) - begin
            for k in range(features):
                at = x + k * points * 4
                total = load_float(at + (first // points) * stride + (first % points) * 4)
                token = first + 1
                while token < last:
                    tile = at + (token // points) * stride
                    end = min(last, (token // points + 1) * points)
                    for t in range(token, end):
                        total = _add_token(name, total, load_float(tile + (t % points) * 4))
                    token = end
                if name == "Mean":
                    total = np.float32(total / np.float32(last - first))
                store_float(y + k * 4, total)
            y += features * 4

    return kernel


def take(points, from_end):
    """y[rows, K] = one token of each sequence: the first, or the last. Words: as `pool`."""

    def kernel(step, arena, row, live, borders):
        x, stride = arena + load_i64(step + 8), load_i64(step + 16)
        features = load_i64(step + 24)
        y = load_i64(borders + 8 * load_i64(step + 32)) + row * features * 4
        offsets = load_i64(borders + 8 * load_i64(step + 40)) + 8 * row
        begin = load_i64(offsets)
        for sequence in range(live):
            token = load_i64(offsets + 8 * sequence) - begin
            if from_end:
                token = load_i64(offsets + 8 * sequence + 8) - begin - 1
            at = x + (token // points) * stride + (token % points) * 4
            for k in range(features):
                store_float(y, load_float(at + k * points * 4))
                y += 4

    return kernel
