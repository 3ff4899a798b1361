"""Constants that lie in a file and are looked at through a map of it.

Their pages are the page cache's: the kernel reads them when they are looked at, shares them
between processes, and takes them back when memory is short. `release` gives back those that this
process has looked at, so that a pass over many gigabytes never holds more than a stretch of them.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

Array = np.ndarray[Any, Any]

IN_PLACE_NBYTES = 64 << 20
"""A table of at least so many bytes is read row by row where it lies in its file: BERT's is 94 MB,
of which a batch wants some rows. Smaller ones are copied onto the engine's own NUMA node."""

SEEN_NBYTES = 256 << 20
"""Of the rows of such a table, what a session keeps for later batches before it lets go of them."""

_PAGE_NBYTES = mmap.PAGESIZE


_State = tuple[int, int, int, int]
"""Device, inode, size and time of change: what tells a file and its state."""

_maps: WeakValueDictionary[_State, np.memmap[Any, Any]] = WeakValueDictionary()
"""By the state of the file: hundreds of weights of one file share a map, and its
descriptor, as long as somebody looks into it."""


def mapped(path: Path) -> Array:
    """uint8[size of the file], read only; nothing is read before it is looked at."""
    state = path.stat()
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    whole = _maps.get(key)
    if whole is None:
        whole = _maps[key] = np.memmap(path, dtype=np.uint8, mode="r")
    return whole[:].view(np.ndarray)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an array lies."""

    path: str
    offset: int
    """Bytes."""
    state: _State
    """Of the file when it was mapped."""


def source_of(array: Array) -> Source:
    """Of an array that looks into a map."""
    found = map_of(array)
    state, whole = next((s, w) for s, w in _maps.items() if map_of(w) is found)
    offset = array.ctypes.data - whole.ctypes.data
    return Source(str(whole.filename), offset, state)


def map_of(array: Array) -> mmap.mmap | None:
    """The map that the array looks into; None for one in memory of its own."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None


def stays_in_place(array: Array) -> bool:
    """Whether it is read where it lies, and never copied."""
    if (told := getattr(array, "in_place", None)) is not None:  # of what stands for another
        return bool(told)
    large = array.nbytes >= IN_PLACE_NBYTES and array.flags.c_contiguous
    return large and map_of(array) is not None


def contiguous(array: Array) -> Array:
    """C-contiguous, but for an array in a file, which whoever reads it copies then."""
    return array if map_of(array) is not None else np.ascontiguousarray(array)


def settled(array: Array) -> Array:
    """In memory of its own, unless it stays in place: the file may change while programs run."""
    if map_of(array) is None or stays_in_place(array):
        return array
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def release(array: Array) -> None:
    """Gives the pages of a mapped array back; looked at again, they are read again."""
    found = map_of(array)
    if found is None or not array.size:
        return
    low, high = np.lib.array_utils.byte_bounds(array)
    start = np.frombuffer(found, np.uint8).ctypes.data
    first = (low - start) // _PAGE_NBYTES * _PAGE_NBYTES
    found.madvise(mmap.MADV_DONTNEED, first, high - start - first)
