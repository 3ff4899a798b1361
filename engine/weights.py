"""Weights as a session holds them: copies that start on a cache line."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.errors import EngineError
from engine.hollow import Hollow
from engine.lookup import Rows
from engine.mapped import stays_in_place

Array = np.ndarray[Any, Any]
LINE = 64
LARGE_PAGE = 2 << 20
"""Linux gives pages of so many bytes to what begins on one and fills some, where numpy asks for
them: from 4 MB on. With an arena of 14.5 MB (MobileNetV1, Zen 4, two threads) an image took 2.97 ms
of a processor from a cache line on, 2.83 so, and 3.13 in pages of 4 KB (a busy machine's best)."""


def aligned(nbytes: int) -> Array:
    """Zeroed uint8[nbytes] that starts on a cache line; what is large, on a large page."""
    boundary = LARGE_PAGE if nbytes >= 2 * LARGE_PAGE else LINE
    raw = np.zeros(nbytes + boundary, np.uint8)
    start = -raw.ctypes.data % boundary
    return raw[start : start + nbytes]


class Weights:
    """Aligned copies of arrays, each made once, by the thread that first asks for it: whoever
    writes a page first decides on which NUMA node it lies."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Array, Array]] = {}
        self._rows: dict[int, tuple[Array, Rows]] = {}

    def copies(self) -> list[Array]:
        return [copy for _, copy in self._copies.values()]

    def fetch(self, table: Array, ids: Array) -> None:
        """Rows of a table that stays in its file, before a batch looks them up."""
        self._rows[id(table)][1].fetch(ids)

    def address(self, array: Array) -> int:
        """Where the copy starts; 16 bytes of slack follow it. Of a table that stays in its file
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
            memory = aligned(flat.nbytes + LINE)
            copy = memory[: flat.nbytes].view(flat.dtype)
            copy[...] = flat
            self._copies[id(array)] = array, copy  # the array too, or its id could come again
        return int(self._copies[id(array)][1].ctypes.data)
