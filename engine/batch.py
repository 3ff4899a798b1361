"""A batch: how many rows, how long each is, and the feeds as the segments take them.

Values of tokens travel packed, `[tokens, ...]`: the sequences of all rows, one after the other,
with one table of offsets for all of them. A feed `[N, S, ...]` is that already; a `Ragged` feed
says its own lengths.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import FeedError, UnsupportedError
from engine.graph import ROWS, TOKENS, Value
from engine.ragged import Ragged

Array = np.ndarray[Any, Any]
Feed = Array | Ragged


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The free dimensions of one batch."""

    rows: int
    offsets: Array | None = None
    """int64[rows + 1]: tokens before each row's sequence; None where the model has no tokens."""
    ragged: bool = False
    """Whether outputs of tokens are to come back as `Ragged`."""

    @property
    def tokens(self) -> int:
        return 0 if self.offsets is None else int(self.offsets[-1])

    @property
    def length(self) -> int | None:
        """The length of all sequences, or None where they differ."""
        if self.offsets is None or not self.rows:
            return 0
        lengths = np.diff(self.offsets)
        return int(lengths[0]) if bool((lengths == lengths[0]).all()) else None

    def positions(self) -> Array:
        """int64[tokens]: each token's place in its sequence."""
        assert self.offsets is not None
        starts = np.repeat(self.offsets[:-1], np.diff(self.offsets))
        return np.asarray(np.arange(self.tokens, dtype=np.int64) - starts)

    def counted(self, ids: Array, padding: int | None) -> Array:
        """int64[tokens]: how many of a sequence up to a token are not `padding`, and 0 for one that
        is. Without, `ids` are a mask: sums of it, times it."""
        assert self.offsets is not None
        counts = np.asarray(ids if padding is None else ids != padding, np.int64)
        total = np.cumsum(counts)
        before = (total - counts)[self.offsets[:-1]]
        return np.asarray((total - np.repeat(before, np.diff(self.offsets))) * counts)

    def shaped(self, array: Array, value: Value | None) -> Array:
        """A packed array in the shape that the graph gives the value; lengths must be equal."""
        if value is None or value.shape is None or value.features is None:
            return array
        if value.has_tokens:
            return array.reshape(self.rows, self.length or 0, *(int(d) for d in value.shape[2:]))
        return array.reshape(self.rows, *(int(d) for d in value.shape[1:]))

    def packed(self, array: Array, value: Value | None) -> Array:
        """What onnx gave for a value, after checking that it is as large as the graph says."""
        if value is None or value.shape is None or value.features is None:
            return array
        points = self.tokens if value.has_tokens else self.rows
        if array.size != points * value.features:
            raise UnsupportedError(
                f"{value.name}: expected {value} for {self.rows} rows, got {list(array.shape)}; "
                "the model declares another shape than its nodes give: export it again"
            )
        return array.reshape(points, *(int(d) for d in value.shape[value.lead :]))

    def output(self, array: Array, value: Value) -> Array | Ragged:
        """A packed array as the caller gets it."""
        array = self.packed(array, value)
        if not (self.ragged and value.has_tokens):
            return self.shaped(array, value)
        assert self.offsets is not None
        return Ragged(array, self.offsets.copy())


def batch_of(feeds: Mapping[str, Feed], inputs: Sequence[Value]) -> tuple[Batch, dict[str, Array]]:
    """The batch, and its arrays packed, after checking every feed against its input.

    Of a ragged batch three kinds of input need not be given, because the lengths tell them: a
    mask (in its name: "mask") is all ones, segment or token types ("type", "segment") all zeros,
    positions ("position") count from 0.
    """
    ragged = any(isinstance(f, Ragged) for f in feeds.values())
    names = [v.name for v in inputs]
    told = {v.name for v in inputs if ragged and known_by_length(v)}
    unknown = [n for n in feeds if n not in names]
    missing = [n for n in names if n not in feeds and n not in told]
    if unknown or missing:
        raise FeedError(f"feeds: expected {names}, got {sorted(feeds)}; missing {missing}")
    known: dict[str, Array] = {}
    sizes = _Sizes()
    for value in inputs:
        if value.name in feeds:
            known[value.name] = _as_bytes(sizes.take(value, feeds[value.name]))
    batch = Batch(sizes.rows or 0, sizes.offsets, ragged)
    _refuse_empty(batch)
    for value in inputs:
        make = known_by_length(value)
        if value.name not in known and make is not None:
            known[value.name] = make(batch).astype(value.dtype)
    return batch, known


class _Sizes:
    """Collects the free dimensions that feeds agree on."""

    def __init__(self) -> None:
        self.rows: int | None = None
        self.offsets: Array | None = None

    def take(self, value: Value, feed: Feed) -> Array:
        """The feed packed, after checking it."""
        if isinstance(feed, Ragged):
            return self._ragged(value, feed)
        array = np.asarray(feed)
        _check_type(value, array)
        if value.shape is not None and not _fits(value.shape, array.shape):
            raise FeedError(f"feed {value.name}: expected {value}, got {list(array.shape)}")
        if value.has_rows:
            self._count(value, array.shape[0])
        if not value.has_tokens:
            return array
        rows, length = array.shape[:2]
        self._lengths(value, np.arange(rows + 1, dtype=np.int64) * length)
        return array.reshape(rows * length, *array.shape[2:])

    def _ragged(self, value: Value, feed: Ragged) -> Array:
        if not value.has_tokens:
            raise FeedError(f"feed {value.name}: expected {value}, got sequences; give an array")
        _check_type(value, feed.values)
        assert value.shape is not None
        if not _fits(value.shape[1:], feed.values.shape):
            got = f"tokens of {list(feed.values.shape[1:])}"
            raise FeedError(f"feed {value.name}: expected {value}, got {got}")
        self._count(value, len(feed))
        self._lengths(value, feed.offsets)
        return feed.values

    def _count(self, value: Value, rows: int) -> None:
        if self.rows is not None and rows != self.rows:
            raise FeedError(
                f"feed {value.name}: expected {self.rows} rows as in the other inputs, got {rows}"
            )
        self.rows = rows

    def _lengths(self, value: Value, offsets: Array) -> None:
        if self.offsets is None:
            self.offsets = offsets
        elif not np.array_equal(self.offsets, offsets):
            row = int(np.argmax(self.offsets != offsets)) - 1
            expected, got = (int(o[row + 1] - o[row]) for o in (self.offsets, offsets))
            raise FeedError(
                f"feed {value.name}: expected {expected} tokens in row {row} as in the other "
                f"inputs, got {got}"
            )


def _as_bytes(array: Array) -> Array:
    """Booleans as the bytes 0 and 1, which is all that kernels know."""
    return array if array.dtype != np.bool_ else np.asarray(array.view(np.uint8) != 0)


def _check_type(value: Value, array: Array) -> None:
    if array.dtype != value.dtype:
        raise FeedError(f"feed {value.name}: expected {value}, got {_type(array, value)}")


def _fits(shape: Sequence[int | str], got: Sequence[int]) -> bool:
    return len(shape) == len(got) and all(
        not isinstance(d, int) or d == n for d, n in zip(shape, got, strict=True)
    )


def _refuse_empty(batch: Batch) -> None:
    if batch.offsets is not None and bool((np.diff(batch.offsets) == 0).any()):
        row = int(np.argmin(np.diff(batch.offsets)))
        raise FeedError(f"row {row}: expected a sequence of one token or more, got an empty one")


def _ones(batch: Batch) -> Array:
    return np.ones(batch.tokens, np.int64)


def _zeros(batch: Batch) -> Array:
    return np.zeros(batch.tokens, np.int64)


_KNOWN: dict[str, Callable[[Batch], Array]] = {
    "mask": _ones,
    "position": Batch.positions,
    "segment": _zeros,
    "type": _zeros,
}


def known_by_length(value: Value) -> Callable[[Batch], Array] | None:
    """What the lengths of a ragged batch tell of an input, by its name: see `batch_of`."""
    if value.shape != (ROWS, TOKENS):
        return None
    return next((make for word, make in _KNOWN.items() if word in value.name.lower()), None)


def _type(array: Array, value: Value) -> str:
    """Why an array's element type is another."""
    if array.dtype == value.dtype.newbyteorder():
        order = "big" if sys.byteorder == "little" else "little"
        return (
            f"{array.dtype.name} in {order}-endian byte order; "
            f"give array.astype(array.dtype.newbyteorder('='))"
        )
    return str(array.dtype.name)
