"""Tables that are larger than memory: rows are read from their file when a batch asks for them.

A kernel looks rows up at `table + number * nbytes`. What it gets is memory of the table's size that
is only promised: before a batch runs, the rows that it names and that are not there yet are read
into their own places, and only pages with rows in them take memory. Rows stay for later batches,
until so much is held that all of it is given back. Reading goes by file, not through the map of
the model: the kernel maps up to a megabyte of the page cache around a row that is looked at, which
would soon make the whole table resident.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError
from engine.mapped import SEEN_NBYTES, Source, source_of

Array = np.ndarray[Any, Any]

_NO_RESERVE = 0x4000
"""MAP_NORESERVE of Linux: memory that is promised does not count before it is touched."""


class Rows:
    """One NUMA node's rows of a table; `address` is where the table would begin."""

    def __init__(self, table: Array) -> None:
        self._source = source_of(table)
        self._file = _opened(self._source)
        self._stride = table.nbytes // max(1, len(table))
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        self._memory = mmap.mmap(-1, table.nbytes, flags=flags)
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)  # or a row would take two megabytes
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self.address = int(self._bytes.ctypes.data)
        self._have = np.zeros(len(table), bool)
        self._pages = -(-self._stride // mmap.PAGESIZE) + 1
        self.held_nbytes = 0
        """At most, of the rows that are there."""

    def fetch(self, ids: Array) -> None:
        """Reads the rows of these numbers, from -entries up; one batch at a time."""
        if self.held_nbytes > SEEN_NBYTES:
            self._memory.madvise(mmap.MADV_DONTNEED)
            self._have[:] = False
            self.held_nbytes = 0
        numbers = np.unique(np.where(ids < 0, ids + len(self._have), ids))
        missing = numbers[~self._have[numbers]]
        for number in missing.tolist():
            self._read(number * self._stride)
        if len(missing):  # afterwards: what was read before a change is good
            self._check_unchanged()
        self._have[missing] = True
        self.held_nbytes += len(missing) * self._pages * mmap.PAGESIZE

    def _read(self, at: int) -> None:
        end = at + self._stride
        while at < end:
            got = os.preadv(self._file, [self._bytes[at:end].data], self._source.offset + at)
            if not got:
                raise EngineError(
                    f"{self._source.path}: expected a table up to byte "
                    f"{self._source.offset + end}, got a file that ends before; it was changed "
                    "while in use, start again"
                )
            at += got

    def _check_unchanged(self) -> None:
        """Raises EngineError for a file that was written to in place: rows of two models, mixed."""
        if _state(self._file) != self._source.state:
            raise EngineError(
                f"{self._source.path}: expected the file that the model was read from, got one "
                "that was changed while in use; keep it as it is until the end, and start again"
            )

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            os.close(file)


def _opened(source: Source) -> int:
    """The file that was mapped, and not one that has its name by now."""
    try:
        file = os.open(Path(source.path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise EngineError(
            f"{source.path}: expected the file that the model was read from, got: "
            f"{error.strerror}; keep it while the model is in use"
        ) from error
    if _state(file) != source.state:
        os.close(file)
        raise EngineError(
            f"{source.path}: expected the file that the model was read from, got one that was "
            "changed since; read the model again"
        )
    return file


def _state(file: int) -> tuple[int, int, int, int]:
    """As engine.mapped tells files and their states."""
    found = os.fstat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
