"""Dense weights times a panel: y[M, T] = clamp(W[M, K] @ x[K, T] + bias[M]).

Four outputs by T points a register tile. Weights are interleaved by four rows, `[M / 4, K, 4]`,
the last slice padded with rows of zeros whose results land in rows of y that nobody reads. Inputs
are cut into blocks so that a block of the panel stays in L1 while all rows pass over it.

    per block, per slice: value[block's K, 4] (float32)
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import four_weights, four_weights_for_few, inline
from engine.kernels.registers import has_three_quarters
from engine.kernels.slices import added, begun, ending, written
from engine.kernels.streams import ask_ahead
from engine.kernels.table import NARROW
from engine.kernels.vector import load, load_i64, zeros, zeros_in_pieces


@inline
def _dense4(shape, points, step, x, y, live):
    """The whole product for one column. `step` words 3..10."""
    values, inputs, outputs = load_i64(step + 24), load_i64(step + 32), load_i64(step + 40)
    block_inputs, bias, end = (
        load_i64(step + 48),
        load_i64(step + 56),
        ending(step, step + 64, live),
    )
    row, done = 4 * points, 0  # bytes from one input or output to the next
    while done < inputs:
        count = min(block_inputs, inputs - done)
        for first in range(0, outputs, 4):
            out, source = y + first * row, x
            sums = begun(shape, out, row, bias + 4 * first, done == 0)
            for _ in range(count):
                ask_ahead(values)
                sums = added(sums, four_weights(shape, values), load(shape, source))
                values += 16
                source += row
            written(out, row, sums, end, done + count == inputs)
        x += count * row
        done += count


@inline
def _dense4_narrow(shape, points, step, x, y, live):
    """The same by two slices at once, for registers so narrow that the sums of one would wait for
    each other. `step` words 3..10."""
    values, inputs, outputs = load_i64(step + 24), load_i64(step + 32), load_i64(step + 40)
    block_inputs, bias, end = (
        load_i64(step + 48),
        load_i64(step + 56),
        ending(step, step + 64, live),
    )
    row, done = 4 * points, 0
    while done < inputs:
        count = min(block_inputs, inputs - done)
        start, last = done == 0, done + count == inputs
        for first in range(0, outputs - 4, 8):
            out, source, other = y + first * row, x, values + 16 * count
            a = begun(shape, out, row, bias + 4 * first, start)
            b = begun(shape, out + 4 * row, row, bias + 4 * first + 16, start)
            for _ in range(count):
                ask_ahead(values)
                ask_ahead(other)
                v = load(shape, source)
                a = added(a, four_weights_for_few(shape, values), v)
                b = added(b, four_weights_for_few(shape, other), v)
                values += 16
                other += 16
                source += row
            written(out, row, a, end, last)
            written(out + 4 * row, row, b, end, last)
            values = other
        if outputs % 8 != 0:
            out, source = y + (outputs - 4) * row, x
            a = begun(shape, out, row, bias + 4 * (outputs - 4), start)
            for _ in range(count):
                a = added(a, four_weights_for_few(shape, values), load(shape, source))
                values += 16
                source += row
            written(out, row, a, end, last)
        x += count * row
        done += count


def dense4(points):
    """The kernel for register tiles of `points`, at one of four widths, as spmm.py's."""
    half, three = points // 2, has_three_quarters(points)

    def kernel(step, arena, row, live, borders):
        x, y = arena + load_i64(step + 8), arena + load_i64(step + 16)
        if live <= NARROW:
            _dense4_narrow(zeros(NARROW), points, step, x, y, live)
        elif live <= half:
            _dense4_narrow(zeros(half), points, step, x, y, live)
        elif three and live <= 3 * NARROW:
            _dense4(zeros_in_pieces(3, NARROW), points, step, x, y, live)
        else:
            _dense4(zeros(points), points, step, x, y, live)

    return kernel
