"""RecordBatch <-> feeds and outputs, and which rows cannot make the way.

| field                                   | feed                                             |
|-----------------------------------------|--------------------------------------------------|
| int, float                              | no copy: a view of the Arrow buffer              |
| bool                                    | copied: Arrow packs eight a byte                 |
| fixed_size_list, also nested, of those  | no copy                                          |
| arrow.fixed_shape_tensor                | no copy                                          |
| list, large_list, all of one length     | no copy                                          |
| list, large_list, as sequences          | no copy, see pipeline/sequences.py               |
| any, of another element type            | copied by the conversion                         |
| tensor [H, W, C] for [C, H, W], or back | copied, see pipeline/picture_binding.py          |
| encoded pictures                        | decoded before, see pipeline/pictures.py         |

A row is bad when it is null, holds a null, or is a list of another length. NaN is data. Outputs
become Arrow arrays without a copy, except bools, and except beside bad rows that become nulls.
Feeds are read-only views: they live as long as the batch, and the engine may not write to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.ragged import Ragged
from pipeline.bound import Binding, FieldBinding, OutputField
from pipeline.errors import RowError
from pipeline.flat import BadRow, Flat, flatten, only
from pipeline.sequences import Feed, different_lengths, flatten_sequences, to_lists

__all__ = ["BadRow", "bad_rows", "to_batch", "to_feeds", "without_rows"]

Array = np.ndarray[Any, Any]


def bad_rows(batch: pa.RecordBatch, binding: Binding) -> tuple[BadRow, ...]:
    """Rows that cannot be fed, ascending, each once with the first field that is to blame.

    Costs little when there is none: null counts, list offsets and ids are looked at.
    """
    found: dict[int, BadRow] = {}
    rows_of: list[tuple[FieldBinding, Array]] = []
    for field in binding.fields:
        flat = _flat(batch, field, binding)
        for row, reason in flat.reasons.items():
            found.setdefault(row, BadRow(row, field.field, reason))
        if flat.offsets is not None:
            rows_of.append((field, np.diff(flat.offsets)))
    for row, name, reason in different_lengths(rows_of):
        found.setdefault(row, BadRow(row, name, reason))
    return tuple(found[row] for row in sorted(found))


def without_rows(batch: pa.RecordBatch, bad: Sequence[BadRow]) -> pa.RecordBatch:
    """The batch without its bad rows (a copy, unless there are none)."""
    if not bad:
        return batch
    return only(batch, _good_mask(batch.num_rows, bad))


def to_feeds(batch: pa.RecordBatch, binding: Binding) -> dict[str, Feed]:
    """Arrays [rows, *shape], or sequences, by input name. Raises RowError for the first bad row."""
    feeds: dict[str, Feed] = {}
    for field in binding.fields:
        flat = _flat(batch, field, binding)
        if flat.reasons:
            row = min(flat.reasons)
            raise RowError(row, field.field, flat.reasons[row])
        copied = pa.types.is_boolean(flat.values.type)
        array = flat.values.to_numpy(zero_copy_only=not copied)
        array = array.astype(field.dtype, copy=False)
        if flat.offsets is None:
            feeds[field.input] = _turned(array.reshape(batch.num_rows, *field.stored_shape), field)
        else:
            feeds[field.input] = Ragged(array.reshape(-1, *field.shape), flat.offsets)
    return feeds


def to_batch(
    batch: pa.RecordBatch,
    outputs: Mapping[str, Feed],
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


def _turned(array: Array, field: FieldBinding) -> Array:
    if not field.axes:
        return array
    return np.ascontiguousarray(array.transpose(0, *(axis + 1 for axis in field.axes)))


def _flat(batch: pa.RecordBatch, field: FieldBinding, binding: Binding) -> Flat:
    column = batch.column(field.column)
    if field.tokens:
        assert binding.lengths is not None, "a binding with sequences says how long they may be"
        flat = flatten_sequences(column, field, binding.lengths)
        if field.text:
            _tell_nulls(flat, batch.column(field.field), column)
        return flat
    flat = flatten(column, math.prod(field.shape))
    if field.picture and column.null_count:
        told = batch.column(field.problems).to_pylist()
        flat.reasons.update((row, reason) for row, reason in enumerate(told) if reason)
    return flat


def _tell_nulls(flat: Flat, text: pa.Array, tokens: pa.Array) -> None:
    """The reasons of rows that have a text, but one that could not be read."""
    if tokens.null_count > text.null_count:
        unread = np.array(tokens.is_null()) & np.array(text.is_valid())
        flat.reasons.update((int(row), "is no valid UTF-8") for row in np.flatnonzero(unread))


def _good_mask(rows: int, bad: Sequence[BadRow]) -> Array:
    mask = np.ones(rows, dtype=np.bool_)
    mask[[b.row for b in bad]] = False
    return mask


def _scatter(rows: int, bad: Sequence[BadRow]) -> pa.Array:
    """For each row its place among the good ones, null for a bad one."""
    mask = _good_mask(rows, bad)
    return pa.array(np.cumsum(mask) - 1, mask=~mask)


def _to_arrow(output: Feed, field: OutputField, rows: int, indices: pa.Array | None) -> pa.Array:
    if field.tokens:
        return to_lists(output, field, rows, indices)
    # of sequences that all have one length
    if isinstance(output, Ragged):
        output = output.values.reshape(len(output), *field.shape)
    array = output
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
