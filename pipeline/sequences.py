"""Lists of Arrow <-> Ragged: both are values behind each other, and offsets.

A row is bad when it is null or holds a null, has no token, has more than allowed (unless they are
to be cut), ids that the model's table does not have, or another length than the input beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.ragged import Ragged
from pipeline.bound import FieldBinding, Lengths, OutputField
from pipeline.flat import Flat, Rows, as_lists, flatten, note, rows_of_list

Array = np.ndarray[Any, Any]
Feed = Array | Ragged


def flatten_sequences(column: pa.Array, field: FieldBinding, lengths: Lengths) -> Flat:
    """The tokens of a column's rows, cut to what is allowed. Not copied, unless some are cut."""
    reasons: dict[int, str] = {}
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    column = as_lists(column)
    if column.null_count:
        note(reasons, np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)), "is null")
    values, offsets = _tokens(column, field)
    counts = np.diff(offsets)
    if not lengths.truncate:
        for row in np.flatnonzero(counts > lengths.most):
            got = f"has {counts[row]} tokens"
            reason = f"{'has more tokens' if field.text else got}, expected at most {lengths.most}"
            reasons.setdefault(int(row), reason)
    elif bool((counts > lengths.most).any()):
        values, offsets = _cut(values, offsets, lengths.most)
    note(reasons, np.flatnonzero(counts == 0), "is an empty sequence, expected a token or more")
    # elements of one token each: what is wrong inside is wrong with the token's row
    inside = flatten(values, _each(values))
    rows = rows_of_list(lambda rows: rows, offsets)
    note(reasons, rows(np.array(list(inside.reasons), np.int64)), "holds a null")
    if field.entries is not None:
        _note_ids(reasons, inside.values, rows, field.entries)
    return Flat(inside.values, reasons, offsets)


def _tokens(column: pa.Array, field: FieldBinding) -> tuple[pa.Array, Array]:
    """What the outermost lists hold, one row after the other, and where each row begins."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = column.offsets.to_numpy().astype(np.int64)
        first = int(offsets[0]) if len(offsets) else 0
        return column.values.slice(first, int(offsets[-1]) - first), offsets - first
    size = kind.list_size
    values = column.values.slice(column.offset * size, len(column) * size)
    assert field.length, "a binding to a fixed_size_list says how many tokens it has"
    each = size // field.length
    if each > 1:  # a flat field holds tokens of several numbers
        values = pa.FixedSizeListArray.from_arrays(values, each)
    return values, np.arange(len(column) + 1, dtype=np.int64) * field.length


def _cut(values: pa.Array, offsets: Array, most: int) -> tuple[pa.Array, Array]:
    """The first `most` tokens of each row."""
    counts = np.minimum(np.diff(offsets), most)
    ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    kept = np.arange(ends[-1]) + np.repeat(offsets[:-1] - ends[:-1], counts)
    return values.take(pa.array(kept)), ends


def _each(values: pa.Array) -> int:
    """Elements of a token."""
    count, kind = 1, values.type
    while pa.types.is_fixed_size_list(kind):
        count, kind = count * kind.list_size, kind.value_type
    return count


def _note_ids(reasons: dict[int, str], values: pa.Array, rows: Rows, entries: int) -> None:
    """Ids that the table does not have: a row is told of the first."""
    ids = (values.fill_null(0) if values.null_count else values).to_numpy(zero_copy_only=False)
    if not ids.size or (int(ids.min()) >= 0 and int(ids.max()) < entries):
        return
    tokens = np.flatnonzero((ids < 0) | (ids >= entries))
    for row, first in zip(*np.unique(rows(tokens), return_index=True), strict=True):
        got = f"holds the id {ids[tokens[first]]}"
        reasons.setdefault(int(row), f"{got}, expected ids from 0 to {entries - 1}")


def different_lengths(
    fields: Sequence[tuple[FieldBinding, Array]],
) -> Iterator[tuple[int, str, str]]:
    """(row, field, reason) of rows that have fewer or more tokens than in the first field."""
    for field, counts in fields[1:]:
        first, expected = fields[0]
        for row in np.flatnonzero(counts != expected):
            reason = f"has {counts[row]} tokens, expected {expected[row]} as in {first.field!r}"
            yield int(row), field.field, reason


def to_lists(output: Feed, field: OutputField, rows: int, indices: pa.Array | None) -> pa.Array:
    """An output of tokens as lists; rows of `indices` that are null become null."""
    expected = f"{field.dtype} for each token{list(field.shape)} of {rows} rows"
    if not isinstance(output, Ragged):
        raise ValueError(f"output {field.output!r}: expected {expected}, got an array")
    values = output.values
    if (len(output), values.shape[1:], values.dtype.name) != (rows, field.shape, field.dtype):
        got = f"{values.dtype.name}{list(values.shape[1:])} of {len(output)} rows"
        raise ValueError(f"output {field.output!r}: expected {expected}, got {got}")
    kind = field.to_arrow().type
    items = pa.array(np.ascontiguousarray(values).reshape(-1))
    nested = []
    inner = kind.value_type
    while pa.types.is_fixed_size_list(inner):
        nested.append(inner)
        inner = inner.value_type
    for level in reversed(nested):
        items = pa.FixedSizeListArray.from_arrays(items, type=level)
    if indices is None:
        return pa.ListArray.from_arrays(pa.array(output.offsets.astype(np.int32)), items, type=kind)
    missing = indices.is_null().to_numpy(zero_copy_only=False)
    counts = np.zeros(len(indices), np.int64)
    counts[~missing] = output.lengths
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), items, type=kind, mask=pa.array(missing))


def rows_of(feed: Feed, first: int, last: int) -> Feed:
    """Those rows of a feed, without a copy of their values."""
    if not isinstance(feed, Ragged):
        return feed[first:last]
    ends = feed.offsets[first : last + 1]
    return Ragged(feed.values[ends[0] : ends[-1]], ends - ends[0])


def joined(feeds: Sequence[Feed]) -> Feed:
    """The rows of several, one after the other."""
    ragged = [feed for feed in feeds if isinstance(feed, Ragged)]
    if not ragged:
        return np.concatenate([feed for feed in feeds if not isinstance(feed, Ragged)])
    starts = np.cumsum([0, *(len(feed.values) for feed in ragged)])
    ends = [feed.offsets[1:] + start for feed, start in zip(ragged, starts[:-1], strict=True)]
    return Ragged(
        np.concatenate([feed.values for feed in ragged]),
        np.concatenate([np.zeros(1, np.int64), *ends]),
    )
