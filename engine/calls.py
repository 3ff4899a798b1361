"""A batch's calls into machine code: each thread makes one, and takes columns in it.

What a call is told beside columns and borders stays from batch to batch, a row of words for each
thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.kernels.running import run_columns
from engine.workers import Workers

Array = np.ndarray[Any, Any]
HELD_WORDS = 10
"""int64 that a thread's call is told, see kernels/running.py; the last is where the borders are."""


@dataclass(frozen=True, slots=True)
class Borders:
    """One batch's arrays of imports, then of exports."""

    arrays: tuple[Array, ...]
    table: Array
    """int64: their addresses."""

    @classmethod
    def of(cls, arrays: Sequence[Array]) -> Borders:
        return cls(tuple(arrays), np.array([a.ctypes.data for a in arrays] or [0], np.int64))


class Calls:
    """Those of one batch: `calls(index)` is the one of a thread.

    They hold what machine code reads and writes, `owner` among it, whose arenas and weights these
    are: a thread may still be in there when the caller has left by an exception.
    """

    def __init__(self, owner: object, columns: Array, held: Array, borders: Borders) -> None:
        """`columns` int64[columns, 4]; `held` int64[threads, HELD_WORDS]: kernels/running.py says
        what is in them. A thread reads its row when its turn comes: arenas may have grown."""
        self._owner, self._columns, self._held, self._borders = owner, columns, held, borders
        self._counter = np.zeros(1, np.int64)
        self._run = run_columns()

    def __call__(self, index: int) -> None:
        """Into machine code, which takes columns until the counter has passed them all."""
        own, columns = self._held[index].copy(), self._columns
        own[-1] = self._borders.table.ctypes.data
        told = self._counter.ctypes.data, len(columns), columns.ctypes.data, own.ctypes.data
        self._run(*told)

    def made_by(self, workers: Workers) -> None:
        """By as many threads as there are columns for; returns when all columns are done."""
        workers.run(self, self._abandon, min(len(workers), len(self._columns)))

    def _abandon(self) -> None:
        self._counter[0] = len(self._columns)
