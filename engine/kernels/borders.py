"""Where rows become panels and back: the only transposes there are.

`import`: x[rows, K] of some element type -> panel[K, T] float32, `points` rows of it; lanes of
rows that do not exist become zero. `export`: panel[K, T] -> y[rows, K] float32.

The array's address comes from the borders table at run time (word 2 is its index there), because
it is another one at every call.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import inline
from engine.kernels.vector import (
    exchange,
    load,
    load_as_float,
    load_float,
    load_i64,
    store,
    store_float,
    zeros,
)


@inline
def _transpose8(r0, r1, r2, r3, r4, r5, r6, r7):
    """Eight vectors of eight lanes, transposed in 24 shuffles."""
    a0, a1 = exchange("low1", r0, r1), exchange("high1", r0, r1)
    a2, a3 = exchange("low1", r2, r3), exchange("high1", r2, r3)
    a4, a5 = exchange("low1", r4, r5), exchange("high1", r4, r5)
    a6, a7 = exchange("low1", r6, r7), exchange("high1", r6, r7)
    b0, b1 = exchange("low2", a0, a2), exchange("high2", a0, a2)
    b2, b3 = exchange("low2", a1, a3), exchange("high2", a1, a3)
    b4, b5 = exchange("low2", a4, a6), exchange("high2", a4, a6)
    b6, b7 = exchange("low2", a5, a7), exchange("high2", a5, a7)
    return (
        exchange("low4", b0, b4),
        exchange("low4", b1, b5),
        exchange("low4", b2, b6),
        exchange("low4", b3, b7),
        exchange("high4", b0, b4),
        exchange("high4", b1, b5),
        exchange("high4", b2, b6),
        exchange("high4", b3, b7),
    )


@inline
def _copy8x8(source, source_stride, target, target_stride):
    """target[8, 8] = source[8, 8] transposed; strides in bytes."""
    e = zeros(8)
    rows = _transpose8(
        load(e, source),
        load(e, source + source_stride),
        load(e, source + 2 * source_stride),
        load(e, source + 3 * source_stride),
        load(e, source + 4 * source_stride),
        load(e, source + 5 * source_stride),
        load(e, source + 6 * source_stride),
        load(e, source + 7 * source_stride),
    )
    store(target, rows[0])
    store(target + target_stride, rows[1])
    store(target + 2 * target_stride, rows[2])
    store(target + 3 * target_stride, rows[3])
    store(target + 4 * target_stride, rows[4])
    store(target + 5 * target_stride, rows[5])
    store(target + 6 * target_stride, rows[6])
    store(target + 7 * target_stride, rows[7])


def import_rows(points, element, nbytes):
    """Words: panel, border, K. `nbytes` is the size of one element."""

    def kernel(step, arena, row, live, borders):
        panel = arena + load_i64(step + 8)
        rows = load_i64(borders + 8 * load_i64(step + 16))
        features = load_i64(step + 24)
        source = rows + row * features * nbytes
        done = 0
        if element == "float32" and live == points:
            while done + 8 <= features:
                for t in range(0, points, 8):
                    _copy8x8(
                        source + (t * features + done) * 4,
                        features * 4,
                        panel + (done * points + t) * 4,
                        points * 4,
                    )
                done += 8
        for k in range(done, features):
            for t in range(live):
                at = source + (t * features + k) * nbytes
                store_float(panel + (k * points + t) * 4, load_as_float(element, at))
        for k in range(done, features):
            for t in range(live, points):
                store_float(panel + (k * points + t) * 4, 0)

    return kernel


def export_rows(points):
    """Words: panel, border, K."""

    def kernel(step, arena, row, live, borders):
        panel = arena + load_i64(step + 8)
        rows = load_i64(borders + 8 * load_i64(step + 16))
        features = load_i64(step + 24)
        target = rows + row * features * 4
        done = 0
        if live == points:
            while done + 8 <= features:
                for t in range(0, points, 8):
                    _copy8x8(
                        panel + (done * points + t) * 4,
                        points * 4,
                        target + (t * features + done) * 4,
                        features * 4,
                    )
                done += 8
        for t in range(live):
            for k in range(done, features):
                value = load_float(panel + (k * points + t) * 4)
                store_float(target + (t * features + k) * 4, value)

    return kernel
