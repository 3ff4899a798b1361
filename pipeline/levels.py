"""Levels of a Parquet page: where lists begin, and what is null, in runs.

A run is a varint, then values: an even varint 2n says n times the value that follows, an odd one
2n + 1 that n times eight values follow, packed bit by bit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.thrift import varint

Array = np.ndarray[Any, Any]

SIZE_NBYTES = 4
"""In front of a page's levels of a kind, how many bytes they take."""


class OddLevels(ValueError):
    """Levels that cannot be read."""


@lru_cache(maxsize=32)
def are_full_lists(levels: bytes, values: int, size: int, first: int) -> bool:
    """Whether the repetition levels of a page say that each `size` values are a list; `first` is
    the place of its first value in its list. Pages of a file repeat each other's levels, so most
    are known."""
    begins = (np.arange(first, first + values) % size) == 0
    return bool(np.array_equal(decoded_levels(levels, values, 1), ~begins))


@lru_cache(maxsize=32)
def are_all(levels: bytes, values: int, level: int) -> bool:
    """Whether each is `level`: of definition levels the highest, that nothing is null or empty."""
    return bool((decoded_levels(levels, values, level.bit_length()) == level).all())


def full_lists(rows: int, size: int) -> bytes:
    """Repetition levels of so many lists of `size` elements."""
    return (_run(1, 0) + _run(size - 1, 1)) * rows if size > 1 else _run(rows, 0)


def all_are(values: int, level: int) -> bytes:
    """Levels of which each is `level`, one of less than nine bits."""
    return _run(values, level)


def _run(values: int, level: int) -> bytes:
    return varint(values << 1) + bytes([level])


def decoded_levels(levels: bytes, values: int, width: int) -> Array:
    """uint8[values] of so many bits each, at most 8. OddLevels if there are fewer."""
    found = np.empty(values, np.uint8)
    at = done = 0
    try:
        while done < values:
            head, at = _varint(levels, at)
            count = head >> 1
            if head & 1:
                nbytes = count * width
                packed = np.frombuffer(levels[at : at + nbytes], np.uint8)
                bits = np.unpackbits(packed, bitorder="little")
                run = (bits.reshape(-1, width) << np.arange(width, dtype=np.uint8)).sum(1)[
                    : values - done
                ]
                found[done : done + len(run)] = run
                done, at = done + len(run), at + nbytes
                if not len(run):
                    raise OddLevels("levels: a run of nothing")
            else:
                if not count:
                    raise OddLevels("levels: a run of nothing")
                found[done : done + count] = levels[at]
                done, at = done + count, at + 1
    except (IndexError, ValueError) as e:
        raise OddLevels(f"levels: {e}") from e
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 35:
            raise OddLevels("levels: a number without an end")
