"""Grids: where the rows, channels and pixels of a picture lie, for lane groups of T images.

A grid is a ring of `slots` image rows in the arena, a slot `[channels][width][T]` float32: every
pixel of every channel is one vector, and T images are its lanes. Five words tell where it lies:

    base            bytes in the arena of slot 0, first channel, first pixel
    first           slot of the visit's first row, 0..slots-1
    slots           rows that the ring holds
    slot_nbytes     bytes from a row to the next, and so of a slot
    channel_nbytes  bytes from a channel to the next

Row r of a visit lies in slot (first + r) mod slots. Every kernel on pictures has its first input's
grid in words 1-5, its output's in 6-10, its second input's in 11-15, and in word 16 the number of
rows to write; the words of grids that it lacks are not read. Strides, padding and dilation are
offsets, so no kernel knows of borders: rows and pixels of padding lie in the ring, as zeros.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import inline
from engine.kernels.vector import load_i64

X, Y, R = 8, 48, 88
"""Bytes from the start of a step's words to a grid's: first input, output, second input."""


@inline
def word(step, index):
    return load_i64(step + 8 * index)


@inline
def row_of(step, grid, arena, row):
    """Address of a visit's row `row` (which may lie in padding: any row of the ring)."""
    at = step + grid
    slot = (load_i64(at + 8) + row) % load_i64(at + 16)
    return arena + load_i64(at) + slot * load_i64(at + 24)


@inline
def channel_nbytes(step, grid):
    return load_i64(step + grid + 32)
