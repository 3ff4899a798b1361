"""Strings that Parquet stores in dictionaries stay there until they are written.

A footer tells how many bytes a column takes encoded. Repeated strings stand once in a dictionary
page, so decoded they take many times that, and no footer tells how many. Read as dictionaries
(indices, and one copy of the page's values a batch) they take what the page's header tells; the
writer decodes them piece by piece.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.page_headers import DICTIONARY, OddHeader, page_header

PIECE_NBYTES = 4 << 20
"""Dictionaries are decoded for writing in pieces of at most so much, or of one row."""

SMALL_NBYTES = 1 << 20
"""A column chunk of no more is taken for a dictionary as a whole, without a look at its pages."""

_HEADER_NBYTES = 64


def is_string(kind: pa.DataType) -> bool:
    """Text or bytes of any length, in the types that can be read as dictionaries."""
    return kind in (pa.string(), pa.binary(), pa.large_string(), pa.large_binary())


def leaf_types(kind: pa.DataType) -> list[pa.DataType]:
    """Types of the Parquet columns that a field of this type becomes, in their order."""
    if isinstance(kind, pa.BaseExtensionType):
        return leaf_types(kind.storage_type)
    if pa.types.is_dictionary(kind) or kind.num_fields == 0:
        return [kind]
    if pa.types.is_map(kind):
        return leaf_types(kind.key_type) + leaf_types(kind.item_type)
    return [leaf for i in range(kind.num_fields) for leaf in leaf_types(kind.field(i).type)]


def width(kind: pa.DataType) -> int | None:
    """Decoded bytes of one element of a leaf type; None where elements differ."""
    if pa.types.is_dictionary(kind):  # its bit_width is that of the indices
        return None
    try:
        return (int(kind.bit_width) + 7) // 8
    except ValueError:
        return None


def dictionary_paths(
    metadata: Any, schema: pa.Schema, names: Collection[str], groups: Collection[int]
) -> list[str]:
    """Parquet columns of the fields to be read as dictionaries: strings stored so in any group."""
    paths, leaf = [], 0
    for field in schema:
        for kind in leaf_types(field.type):
            chunks = [metadata.row_group(group).column(leaf) for group in groups]
            if (
                field.name in names
                and is_string(kind)
                and any(chunk.has_dictionary_page for chunk in chunks)
            ):
                paths.append(chunks[0].path_in_schema)
            leaf += 1
    return paths


def dictionary_nbytes(file: BinaryIO, chunk: Any) -> int:
    """Decoded bytes of a column chunk's dictionary, 0 without one; at most a little too many."""
    if not chunk.has_dictionary_page:
        return 0
    most = int(chunk.total_uncompressed_size)
    if most <= SMALL_NBYTES:
        return most
    file.seek(chunk.dictionary_page_offset)
    said = _page_nbytes(file.read(_HEADER_NBYTES))
    return most if said is None else min(said, most)


def _page_nbytes(data: bytes) -> int | None:
    """Uncompressed size of a dictionary page from its header; None where that reads oddly."""
    try:
        header = page_header(data)
    except OddHeader:
        return None
    return header.nbytes if header.kind == DICTIONARY else None


def decoded(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batch with the types of `schema`, in pieces of at most PIECE_NBYTES or one row."""
    if batch.schema.equals(schema, check_metadata=False):
        yield batch
    elif batch.num_rows <= 1 or sum(map(_nbytes, batch.columns)) <= PIECE_NBYTES:
        arrays = [cast(batch.column(f.name), f.type) for f in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
    else:
        half = batch.num_rows // 2
        yield from decoded(batch.slice(0, half), schema)
        yield from decoded(batch.slice(half), schema)


def cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values, decoded where they are in a dictionary; pa.ArrowException where a value does
    not fit."""
    if array.type == kind:
        return array
    if array.type.num_fields:
        # A slice of lists has its parent's values, and a cast would decode them all.
        array = array.take(pa.array(np.arange(len(array))))
    return array.cast(kind)


def _nbytes(array: pa.Array) -> int:
    """What the array will take once its dictionaries are decoded."""
    if isinstance(array, pa.ExtensionArray):
        return _nbytes(array.storage)
    kind = array.type
    if pa.types.is_dictionary(kind):
        each = width(kind.value_type)
        if each is not None:
            return each * len(array)
        if not is_string(kind.value_type):
            return int(array.nbytes)
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return int(pc.sum(lengths).as_py() or 0) + 4 * len(array)
    if pa.types.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        inside = (each.slice(first, last - first) for each in (array.keys, array.items))
        return sum(map(_nbytes, inside)) + 4 * len(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _nbytes(array.flatten()) + 8 * len(array)
    if pa.types.is_struct(kind):
        return sum(map(_nbytes, array.flatten()))
    return int(array.nbytes)
