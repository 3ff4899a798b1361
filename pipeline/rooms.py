"""Rooms: arrays handed from one process to another through memory on the receiver's NUMA node.

A room is anonymous memory that both ends map: who receives makes it larger and touches its pages
first, so that they lie on its own node; who sends copies arrays in. It has no name, and is gone
when both ends are, however they end.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.ragged import Ragged
from pipeline.sequences import Feed

Array = np.ndarray[Any, Any]

LINE = 64
"""Arrays begin on cache lines."""

ROUND = 1 << 20
"""Rooms grow by whole MiB, so that batches of nearly one size need one room."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an array lies in a room; `part` is "" for an array, or a field of a Ragged."""

    name: str
    part: str
    dtype: str
    shape: tuple[int, ...]
    at: int
    """Bytes from the start of the room."""


def layout(feeds: Mapping[str, Feed]) -> tuple[tuple[Slot, ...], int]:
    """Slots for all arrays, one after the other, and the bytes that they need."""
    slots, at = [], 0
    for name, part, array in _arrays(feeds):
        slots.append(Slot(name, part, array.dtype.str, array.shape, at))
        at += -(-array.nbytes // LINE) * LINE
    return tuple(slots), at


class Room:
    """One end of a room. `handle` is the file that both ends share; it is not owned."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._memory: mmap.mmap | None = None
        self.nbytes = 0

    def grow(self, nbytes: int) -> int:
        """By the receiver: at least so large, every page touched by the caller; how large."""
        if nbytes > self.nbytes:
            wanted = -(-nbytes // ROUND) * ROUND
            os.ftruncate(self._handle, wanted)
            self.see(wanted)
            whole = np.frombuffer(self._map(), np.uint8)
            whole[:: mmap.PAGESIZE] = 0
        return self.nbytes

    def see(self, nbytes: int) -> None:
        """By the sender: the receiver has made it so large."""
        if nbytes != self.nbytes:
            self._memory = mmap.mmap(self._handle, nbytes)  # the old one goes with its last array
            self.nbytes = nbytes

    def put(self, feeds: Mapping[str, Feed], slots: tuple[Slot, ...]) -> None:
        """By the sender."""
        for slot, (_, _, array) in zip(slots, _arrays(feeds), strict=True):
            self._view(slot)[...] = array

    def take(self, slots: tuple[Slot, ...], *, copy: bool) -> dict[str, Feed]:
        """By the receiver: arrays of its own, or views that hold until the next batch."""
        found: dict[str, Any] = {}
        for slot in slots:
            view = self._view(slot)
            array = view.copy() if copy else view
            if slot.part:
                found.setdefault(slot.name, {})[slot.part] = array
            else:
                found[slot.name] = array
        return {n: Ragged(**f) if isinstance(f, dict) else f for n, f in found.items()}

    def _view(self, slot: Slot) -> Array:
        dtype = np.dtype(slot.dtype)
        count = int(np.prod(slot.shape))
        return np.frombuffer(self._map(), dtype, count, slot.at).reshape(slot.shape)

    def _map(self) -> mmap.mmap:
        if self._memory is None:
            self._memory = mmap.mmap(-1, LINE)  # for arrays of nothing
        return self._memory


def _arrays(feeds: Mapping[str, Feed]) -> list[tuple[str, str, Array]]:
    """Name, part and array of all that there is to hand over."""
    found: list[tuple[str, str, Array]] = []
    for name, feed in feeds.items():
        if isinstance(feed, Ragged):
            found += [(name, "values", feed.values), (name, "offsets", feed.offsets)]
        else:
            found.append((name, "", np.asarray(feed)))
    return found
