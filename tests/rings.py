"""Rings of picture rows as the image kernels take them, made of numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from kernel_calls import aligned

Array = np.ndarray[Any, Any]
UNTOUCHED = -12345.0
"""What a ring holds wherever nobody wrote."""


@dataclass(frozen=True)
class Ring:
    """[slots, channels, width, T] on a cache line; the slot of row 0; pixel 0's place in a row."""

    array: Array
    first: int = 0
    left: int = 0
    channel: int = 0

    def grid(self) -> tuple[Array | int, ...]:
        """The five words; the base as an array that begins there, and so lives until the call."""
        _, channels, width, lanes = self.array.shape
        base = self.array[:, self.channel :, self.left :]
        return base, self.first, len(self.array), channels * width * lanes * 4, self.channel_nbytes

    @property
    def channel_nbytes(self) -> int:
        return self.array.shape[2] * self.array.shape[3] * 4

    def rows(self, count: int, channels: int, pixels: int) -> Array:
        """[T, channels, count, pixels] of the visit's rows, as they lie there."""
        slots = (self.first + np.arange(count)) % len(self.array)
        here = self.array[slots, self.channel : self.channel + channels]
        return np.ascontiguousarray(
            here[:, :, self.left : self.left + pixels].transpose(3, 1, 0, 2)
        )


def empty_ring(
    shape: tuple[int, int, int, int], first: int = 0, left: int = 0, channel: int = 0
) -> Ring:
    """Nothing written: of [slots, channels, width, T]."""
    return Ring(aligned(shape), first % max(1, shape[0]), left, channel)


def ring_of(x: Array, *, slots: int = 0, first: int = 0, left: int = 0, right: int = 0) -> Ring:
    """x[T, C, rows, W] with zeros beside it, row 0 in slot `first`; `slots` at least the rows."""
    lanes, channels, rows, width = x.shape
    slots = max(slots, rows)
    ring = empty_ring((slots, channels, left + width + right, lanes), first, left)
    places = (ring.first + np.arange(rows)) % slots
    ring.array[places] = 0.0
    ring.array[places, :, left : left + width] = x.transpose(2, 1, 3, 0)
    return ring
