"""Dense weights times a panel: y[M, T] = clamp(W[M, K] @ x[K, T] + bias[M]).

Four outputs by T points a register tile. Weights are interleaved by four rows, `[M / 4, K, 4]`,
the last slice padded with rows of zeros whose results land in rows of y that nobody reads. Inputs
are cut into blocks so that a block of the panel stays in L1 while all rows pass over it.

    per block, per slice: value[block's K, 4] (float32)
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import four_weights, inline
from engine.kernels.vector import (
    at_least,
    at_most,
    broadcast,
    fma,
    load,
    load_i64,
    store,
    zeros,
)


@inline
def _dense4(shape, points, step, x, y):
    """The whole product for one column. `step` words 3..9."""
    values, inputs, outputs = load_i64(step + 24), load_i64(step + 32), load_i64(step + 40)
    block_inputs, bias, clamp = load_i64(step + 48), load_i64(step + 56), load_i64(step + 64)
    low, high = broadcast(shape, clamp), broadcast(shape, clamp + 4)
    row = 4 * points  # bytes from one input or output to the next
    done = 0
    while done < inputs:
        count = min(block_inputs, inputs - done)
        out, b = y, bias
        for _ in range(0, outputs, 4):
            if done == 0:
                a0, a1 = broadcast(shape, b), broadcast(shape, b + 4)
                a2, a3 = broadcast(shape, b + 8), broadcast(shape, b + 12)
            else:
                a0, a1 = load(shape, out), load(shape, out + row)
                a2, a3 = load(shape, out + 2 * row), load(shape, out + 3 * row)
            source = x
            for _ in range(count):
                (w0, w1, w2, w3), v = four_weights(shape, values), load(shape, source)
                a0 = fma(w0, v, a0)
                a1 = fma(w1, v, a1)
                a2 = fma(w2, v, a2)
                a3 = fma(w3, v, a3)
                values += 16
                source += row
            if done + count == inputs:
                a0, a1 = at_most(at_least(a0, low), high), at_most(at_least(a1, low), high)
                a2, a3 = at_most(at_least(a2, low), high), at_most(at_least(a3, low), high)
            store(out, a0)
            store(out + row, a1)
            store(out + 2 * row, a2)
            store(out + 3 * row, a3)
            out += 4 * row
            b += 16
        x += count * row
        done += count


def dense4(points):
    """The kernel for register tiles of `points`; a column half empty runs at half the width."""
    half = points // 2

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        if live <= half:
            _dense4(zeros(half), points, step, x, y)
        else:
            _dense4(zeros(points), points, step, x, y)

    return kernel
