"""A slice: the sums of four outputs of a product, begun, bounded and written."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import inline
from engine.kernels.vector import at_least, at_most, broadcast, fma, load, store


@inline
def begun(shape, y, row, bias, first):
    """The sums of four outputs at `y`, `row` bytes apart: of the bias in the first block of inputs,
    of what was written later on."""
    if first:
        return (
            broadcast(shape, bias),
            broadcast(shape, bias + 4),
            broadcast(shape, bias + 8),
            broadcast(shape, bias + 12),
        )
    return (
        load(shape, y),
        load(shape, y + row),
        load(shape, y + 2 * row),
        load(shape, y + 3 * row),
    )


@inline
def added(sums, weights, v):
    """One input more: sums + weights * v."""
    (a0, a1, a2, a3), (w0, w1, w2, w3) = sums, weights
    return fma(w0, v, a0), fma(w1, v, a1), fma(w2, v, a2), fma(w3, v, a3)


@inline
def bounded(sums, bounds):
    """The sums between the bounds; NaN stays."""
    (a0, a1, a2, a3), (low, high) = sums, bounds
    return (
        at_most(at_least(a0, low), high),
        at_most(at_least(a1, low), high),
        at_most(at_least(a2, low), high),
        at_most(at_least(a3, low), high),
    )


@inline
def written(y, row, sums, bounds, last):
    """Puts the sums back to where `begun` would take them from; within bounds after the last
    block of inputs."""
    if last:
        sums = bounded(sums, bounds)
    a0, a1, a2, a3 = sums
    store(y, a0)
    store(y + row, a1)
    store(y + 2 * row, a2)
    store(y + 3 * row, a3)
