"""Where rows become panels and back: the only transposes there are.

`import`: x[rows, K] of some element type -> panel[K, T] float32, `points` rows of it; lanes of
rows that do not exist become zero. `export`: panel[K, T] -> y[rows, K] float32, or int64 of whole
numbers.

The array's address comes from the borders table at run time (word 2 is its index there), because
it is another one at every call.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from numba.extending import intrinsic

from engine.kernels.elements import load_as_float, store_from_float
from engine.kernels.emitting import shuffle
from engine.kernels.functions import inline
from engine.kernels.vector import (
    load,
    load_float,
    load_i64,
    store,
    store_float,
    zeros,
)

# The three rounds of an 8x8 transpose, as lanes of two vectors side by side (0..7 and 8..15):
# interleave singles within a half, then pairs, then exchange halves.
_EXCHANGES = {
    "low1": (0, 8, 1, 9, 4, 12, 5, 13),
    "high1": (2, 10, 3, 11, 6, 14, 7, 15),
    "low2": (0, 1, 8, 9, 4, 5, 12, 13),
    "high2": (2, 3, 10, 11, 6, 7, 14, 15),
    "low4": (0, 1, 2, 3, 8, 9, 10, 11),
    "high4": (4, 5, 6, 7, 12, 13, 14, 15),
}


@intrinsic(prefer_literal=True)
def _exchange(typing, which, x, y):
    """One of _EXCHANGES on two vectors of 8 lanes."""
    mask = _EXCHANGES[which.literal_value]
    return x(which, x, y), lambda c, b, s, a: shuffle(b, a[1], a[2], mask)


@inline
def _transpose8(r0, r1, r2, r3, r4, r5, r6, r7):
    """Eight vectors of eight lanes, transposed in 24 shuffles."""
    a0, a1 = _exchange("low1", r0, r1), _exchange("high1", r0, r1)
    a2, a3 = _exchange("low1", r2, r3), _exchange("high1", r2, r3)
    a4, a5 = _exchange("low1", r4, r5), _exchange("high1", r4, r5)
    a6, a7 = _exchange("low1", r6, r7), _exchange("high1", r6, r7)
    b0, b1 = _exchange("low2", a0, a2), _exchange("high2", a0, a2)
    b2, b3 = _exchange("low2", a1, a3), _exchange("high2", a1, a3)
    b4, b5 = _exchange("low2", a4, a6), _exchange("high2", a4, a6)
    b6, b7 = _exchange("low2", a5, a7), _exchange("high2", a5, a7)
    return (
        _exchange("low4", b0, b4),
        _exchange("low4", b1, b5),
        _exchange("low4", b2, b6),
        _exchange("low4", b3, b7),
        _exchange("high4", b0, b4),
        _exchange("high4", b1, b5),
        _exchange("high4", b2, b6),
        _exchange("high4", b3, b7),
    )


@inline
def copy_eight(target, target_stride, r0, r1, r2, r3, r4, r5, r6, r7):
    """target[8, 8] = eight floats of each of eight rows, transposed; the stride in bytes."""
    e = zeros(8)
    columns = _transpose8(
        load(e, r0),
        load(e, r1),
        load(e, r2),
        load(e, r3),
        load(e, r4),
        load(e, r5),
        load(e, r6),
        load(e, r7),
    )
    store(target, columns[0])
    store(target + target_stride, columns[1])
    store(target + 2 * target_stride, columns[2])
    store(target + 3 * target_stride, columns[3])
    store(target + 4 * target_stride, columns[4])
    store(target + 5 * target_stride, columns[5])
    store(target + 6 * target_stride, columns[6])
    store(target + 7 * target_stride, columns[7])


@inline
def copy8x8(source, stride, target, target_stride):
    """target[8, 8] = source[8, 8] transposed; strides in bytes."""
    r2, r4 = source + 2 * stride, source + 4 * stride
    r6 = r4 + 2 * stride
    copy_eight(
        target,
        target_stride,
        source,
        source + stride,
        r2,
        r2 + stride,
        r4,
        r4 + stride,
        r6,
        r6 + stride,
    )


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
                    copy8x8(
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


def export_rows(points, element, nbytes):
    """Words: panel, border, K. `nbytes` is the size of one element."""

    def kernel(step, arena, row, live, borders):
        panel = arena + load_i64(step + 8)
        rows = load_i64(borders + 8 * load_i64(step + 16))
        features = load_i64(step + 24)
        target = rows + row * features * nbytes
        done = 0
        if element == "float32" and live == points:
            while done + 8 <= features:
                for t in range(0, points, 8):
                    copy8x8(
                        panel + (done * points + t) * 4,
                        points * 4,
                        target + (t * features + done) * 4,
                        features * 4,
                    )
                done += 8
        for t in range(live):
            for k in range(done, features):
                value = load_float(panel + (k * points + t) * 4)
                store_from_float(element, target + (t * features + k) * nbytes, value)

    return kernel
