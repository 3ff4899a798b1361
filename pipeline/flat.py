"""A column's elements without its lists, and the rows that cannot make the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, Any]
Rows = Callable[[Array], Array]
"""Places of elements -> the rows they belong to."""


@dataclass(frozen=True, slots=True)
class BadRow:
    row: int
    """From 0 in the batch."""
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Flat:
    values: pa.Array
    """All elements of the column, in order; of use only when `reasons` is empty."""
    reasons: dict[int, str]
    """Bad row -> why."""
    offsets: Array | None = None
    """int64[rows + 1]: tokens before each row, where rows are sequences."""


def flatten(column: pa.Array, count: int) -> Flat:
    """Goes down the levels of a column, of `count` elements a row, noting bad rows on the way.

    Slices share their parent's buffers: `values` of a sliced list is the parent's, so each level
    is cut to what this slice owns.
    """
    reasons: dict[int, str] = {}
    rows: Rows = lambda positions: positions  # noqa: E731
    depth = 0
    while True:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        column = as_lists(column)
        if column.null_count:
            positions = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
            note(reasons, rows(positions), "is null" if depth == 0 else "holds a null")
        if pa.types.is_fixed_size_list(column.type):
            size = column.type.list_size
            rows = _rows_of_fixed(rows, size)
            column = column.values.slice(column.offset * size, len(column) * size)
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            offsets = column.offsets.to_numpy().astype(np.int64)
            inner = _inner_count(column.type.value_type)
            lengths = np.diff(offsets)
            for row in np.flatnonzero(lengths * inner != count):
                reason = f"has {lengths[row]} elements, expected {count // max(inner, 1)}"
                reasons.setdefault(int(row), reason)
            rows = rows_of_list(rows, offsets - offsets[0])
            column = column.values.slice(offsets[0], offsets[-1] - offsets[0])
        else:
            return Flat(column, reasons)
        depth += 1


def as_lists(column: pa.Array) -> pa.Array:
    """A column of list views, whose values may lie in any order, as lists; others as they are."""
    if not (pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type)):
        return column
    missing = column.is_null().to_numpy(zero_copy_only=False)
    counts = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(ends), column.flatten(), mask=pa.array(missing))


def only(batch: pa.RecordBatch, mask: Array) -> pa.RecordBatch:
    """The rows of the batch where bool[rows] is true. Arrow cannot pick among views of strings and
    bytes (string_view): a batch that has some is joined of its runs of such rows."""
    if not any(map(_has_views, batch.schema.types)):
        return batch.filter(pa.array(mask))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))).reshape(-1, 2)
    runs = [batch.slice(first, end - first) for first, end in edges.tolist()]
    return pa.concat_batches(runs or [batch.slice(0, 0)])


def _has_views(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return True
    return any(_has_views(kind.field(i).type) for i in range(kind.num_fields))


def _rows_of_fixed(rows: Rows, size: int) -> Rows:
    return lambda positions: rows(positions // size)


def rows_of_list(rows: Rows, offsets: Array) -> Rows:
    return lambda positions: rows(np.searchsorted(offsets, positions, side="right") - 1)


def _inner_count(kind: pa.DataType) -> int:
    """Elements in one item of a list."""
    count = 1
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_fixed_size_list(kind):
            count *= kind.list_size
            kind = kind.value_type
        else:
            return count


def note(reasons: dict[int, str], rows: Array, reason: str) -> None:
    for row in np.unique(rows):
        reasons.setdefault(int(row), reason)
