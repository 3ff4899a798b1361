"""RecordBatch <-> feeds and outputs, and which rows cannot make the way.

| field                                   | feed                                             |
|-----------------------------------------|--------------------------------------------------|
| int, float                              | no copy: a view of the Arrow buffer              |
| bool                                    | copied: Arrow packs eight a byte                 |
| fixed_size_list, also nested, of those  | no copy                                          |
| arrow.fixed_shape_tensor                | no copy                                          |
| list, large_list, all of one length     | no copy                                          |
| any, of another element type            | copied by the conversion                         |

A row is bad when it is null, holds a null, or is a list of another length. NaN is data. Outputs
become Arrow arrays without a copy, except bools, and except beside bad rows that become nulls.
Feeds are read-only views: they live as long as the batch, and the engine may not write to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.binding import Binding, FieldBinding, OutputField
from pipeline.errors import RowError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    row: int
    """From 0 in the batch."""
    field: str
    reason: str


def bad_rows(batch: pa.RecordBatch, binding: Binding) -> tuple[BadRow, ...]:
    """Rows that cannot be fed, ascending, each once with the first field that is to blame.

    Costs nothing to speak of when there is none: null counts and list offsets are looked at.
    """
    found: dict[int, BadRow] = {}
    for field in binding.fields:
        reasons = _flatten(batch.column(field.field), field).reasons
        for row, reason in reasons.items():
            found.setdefault(row, BadRow(row, field.field, reason))
    return tuple(found[row] for row in sorted(found))


def without_rows(batch: pa.RecordBatch, bad: Sequence[BadRow]) -> pa.RecordBatch:
    """The batch without its bad rows (a copy, unless there are none)."""
    if not bad:
        return batch
    return batch.filter(pa.array(_good_mask(batch.num_rows, bad)))


def to_feeds(batch: pa.RecordBatch, binding: Binding) -> dict[str, Array]:
    """Arrays [rows, *shape] by input name. Raises RowError for the first bad row."""
    feeds = {}
    for field in binding.fields:
        flat = _flatten(batch.column(field.field), field)
        if flat.reasons:
            row = min(flat.reasons)
            raise RowError(row, field.field, flat.reasons[row])
        copied = pa.types.is_boolean(flat.values.type)
        array = flat.values.to_numpy(zero_copy_only=not copied)
        array = array.astype(field.dtype, copy=False)
        feeds[field.input] = array.reshape(batch.num_rows, *field.shape)
    return feeds


def to_batch(
    batch: pa.RecordBatch,
    outputs: Mapping[str, Array],
    binding: Binding,
    nulls: Sequence[BadRow] = (),
) -> pa.RecordBatch:
    """Kept fields of `batch` beside the outputs.

    `nulls` are rows of `batch` that were not fed: they become null in every output, and
    `outputs` hold the other rows in order.
    """
    fed = batch.num_rows - len(nulls)
    indices = _scatter(batch.num_rows, nulls) if nulls else None
    arrays = [batch.column(name) for name in binding.keep]
    arrays += [_to_arrow(outputs[o.output], o, fed, indices) for o in binding.outputs]
    return pa.RecordBatch.from_arrays(arrays, schema=binding.output_schema(batch.schema))


@dataclass(frozen=True, slots=True)
class _Flat:
    values: pa.Array
    """All elements of the column, in order; of use only when `reasons` is empty."""
    reasons: dict[int, str]
    """Bad row -> why."""


def _flatten(column: pa.Array, field: FieldBinding) -> _Flat:
    """Goes down the levels of a column to its elements, noting bad rows on the way.

    Slices share their parent's buffers: `values` of a sliced list is the parent's, so each level
    is cut to what this slice owns.
    """
    reasons: dict[int, str] = {}
    rows: Callable[[Array], Array] = lambda positions: positions  # noqa: E731
    count = math.prod(field.shape)
    depth = 0
    while True:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if column.null_count:
            positions = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
            _note(reasons, rows(positions), "is null" if depth == 0 else "holds a null")
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
            rows = _rows_of_list(rows, offsets - offsets[0])
            column = column.values.slice(offsets[0], offsets[-1] - offsets[0])
        else:
            return _Flat(column, reasons)
        depth += 1


def _rows_of_fixed(rows: Callable[[Array], Array], size: int) -> Callable[[Array], Array]:
    return lambda positions: rows(positions // size)


def _rows_of_list(rows: Callable[[Array], Array], offsets: Array) -> Callable[[Array], Array]:
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


def _note(reasons: dict[int, str], rows: Array, reason: str) -> None:
    for row in np.unique(rows):
        reasons.setdefault(int(row), reason)


def _good_mask(rows: int, bad: Sequence[BadRow]) -> Array:
    mask = np.ones(rows, dtype=np.bool_)
    mask[[b.row for b in bad]] = False
    return mask


def _scatter(rows: int, bad: Sequence[BadRow]) -> pa.Array:
    """For each row its place among the good ones, null for a bad one."""
    mask = _good_mask(rows, bad)
    return pa.array(np.cumsum(mask) - 1, mask=~mask)


def _to_arrow(array: Array, field: OutputField, rows: int, indices: pa.Array | None) -> pa.Array:
    expected = (rows, *field.shape)
    if array.shape != expected or array.dtype != np.dtype(field.dtype):
        raise ValueError(
            f"output {field.output!r}: expected {field.dtype}{list(expected)}, "
            f"got {array.dtype.name}{list(array.shape)}"
        )
    kind = field.to_arrow().type
    values = pa.array(np.ascontiguousarray(array).reshape(-1))
    if not field.shape:
        return values if indices is None else values.take(indices)
    storage_type = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    storage = pa.FixedSizeListArray.from_arrays(values, type=storage_type)
    if indices is not None:
        storage = storage.take(indices)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, storage)
    return storage
