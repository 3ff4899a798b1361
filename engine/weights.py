"""Weights as a session holds them: copies that start on a cache line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from engine.errors import EngineError
from engine.hollow import Hollow
from engine.lookup import Rows
from engine.mapped import stays_in_place
from numa.memory import PAGE_NBYTES
from numa.memory import large_pages as advise_large_pages

Array = np.ndarray[Any, Any]
LINE = 64
SLACK = 16
"""Bytes behind weights that a kernel may read."""
LARGE_PAGE = 2 << 20
"""Bytes of what Linux calls a huge page: one entry of a TLB instead of 512, and prefetches do not
end every 4 KB. Where the system leaves them to who asks (`madvise`, as Debian does), somebody must.
Weights that come from L3 or memory cost 2 to 4 % less so (kernels/streams.py, the last column), an
image of MobileNetV1 with an arena of 14.5 MB 2.83 ms of a processor instead of 3.13."""


def aligned(nbytes: int) -> Array:
    """Zeroed uint8[nbytes] that starts on a cache line."""
    return _from(np.zeros(nbytes + LINE, np.uint8), nbytes, LINE)


def room(nbytes: int, large_pages: bool) -> Array:
    """The same for what may be large: in large pages as far as it fills them, not one byte beyond,
    if they are wanted. Who writes a page first decides where it lies, here as well."""
    if nbytes < LARGE_PAGE:
        return aligned(nbytes)
    raw = np.zeros(nbytes + LARGE_PAGE, np.uint8)
    found = _from(raw, nbytes, LARGE_PAGE)
    # numpy asks for them from 4 MB on, to the end: a page for the rest is memory nobody counted
    first = -(-raw.ctypes.data // PAGE_NBYTES) * PAGE_NBYTES
    whole = (raw.ctypes.data + len(raw) - first) // PAGE_NBYTES * PAGE_NBYTES
    advise_large_pages(first, whole, wanted=False)
    if large_pages:
        filled = nbytes // LARGE_PAGE * LARGE_PAGE
        advise_large_pages(found.ctypes.data, filled, wanted=True)
    return found


def _from(memory: Array, nbytes: int, boundary: int) -> Array:
    start = -memory.ctypes.data % boundary
    return memory[start : start + nbytes]


def _room_nbytes(array: Array) -> int:
    """Of a copy, with the slack behind it."""
    return -(-(array.nbytes + SLACK) // LINE) * LINE


class Weights:
    """Aligned copies of arrays, each made once, by the thread that first asks for it: whoever
    writes a page first decides on which NUMA node it lies. Those that are `expected` lie side by
    side."""

    def __init__(self, expected: Iterable[Array] = (), large_pages: bool = True) -> None:
        copied = (a for a in expected if not isinstance(a, Hollow) and not stays_in_place(a))
        self._room = room(sum(map(_room_nbytes, copied)), large_pages)
        self._taken = 0
        self._copies: dict[int, tuple[Array, Array]] = {}
        self._rows: dict[int, tuple[Array, Rows]] = {}

    def copies(self) -> list[Array]:
        return [copy for _, copy in self._copies.values()]

    def fetch(self, table: Array, ids: Array) -> None:
        """Rows of a table that stays in its file, before a batch looks them up."""
        self._rows[id(table)][1].fetch(ids)

    def address(self, array: Array) -> int:
        """Where the copy starts; SLACK bytes follow it. Of a table that stays in its file
        the rows that were fetched are there, and no slack."""
        if isinstance(array, Hollow):
            raise EngineError(
                "Session: expected a program with its weights, got a hollow one; "
                "compile it without hollow=True"
            )
        if stays_in_place(array):
            if id(array) not in self._rows:
                self._rows[id(array)] = array, Rows(array)
            return self._rows[id(array)][1].address
        if id(array) not in self._copies:
            flat = np.ascontiguousarray(array).reshape(-1)
            copy = self._take(_room_nbytes(flat))[: flat.nbytes].view(flat.dtype)
            copy[...] = flat
            self._copies[id(array)] = array, copy  # the array too, or its id could come again
        return int(self._copies[id(array)][1].ctypes.data)

    def _take(self, nbytes: int) -> Array:
        """The next of the room; memory of its own for what was not expected."""
        if self._taken + nbytes > len(self._room):
            return aligned(nbytes)
        self._taken += nbytes
        return self._room[self._taken - nbytes : self._taken]
