"""Batches of one file with the dataset's fields and types: the one place where they are cast.

A file may lack a field that is kept, have fields in another order, or of a narrower type
(pipeline/merging.py). What is planned is decided from all files, so that parts have one schema
whichever file they come from.
"""

from __future__ import annotations

import base64
from functools import partial

import pyarrow as pa

from pipeline.dictionaries import cast, is_string
from pipeline.errors import InputError


class Conforming:
    """From batches of `found`, a file's fields, to batches of `planned`, the dataset's."""

    def __init__(self, found: pa.Schema, planned: pa.Schema, where: str) -> None:
        """`where` names the shard. Raises InputError where a field is missing that no null may
        stand for."""
        self._planned = planned
        self._where = where
        own = pa.schema([found.field(name) for name in planned.names if name in found.names])
        self._same = own.equals(planned, check_metadata=True)
        self._casts = {}
        for field in planned:
            if field.name not in found.names:
                self._refuse_missing(field)
            elif found.field(field.name).type != field.type:
                self._casts[field.name] = partial(self._cast, found.field(field.name), field)

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Strings that are in dictionaries stay there (pipeline/dictionaries.py)."""
        if self._same:
            return batch
        arrays = [self._column(batch, field) for field in self._planned]
        fields = [f.with_type(a.type) for f, a in zip(self._planned, arrays, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _column(self, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
        if field.name not in batch.schema.names:
            return pa.nulls(batch.num_rows, field.type)
        column = batch.column(field.name)
        return self._casts[field.name](column) if field.name in self._casts else column

    def _cast(self, found: pa.Field, planned: pa.Field, column: pa.Array) -> pa.Array:
        try:
            return as_kind(column, planned.type)
        except pa.ArrowException as e:
            raise InputError(
                f"{self._where}: field {found.name!r}: expected values that fit {planned.type}, as "
                f"other files have it, got {found.type}: {e}; leave the field out with --keep, or "
                "write all files with one type"
            ) from e

    def _refuse_missing(self, field: pa.Field) -> None:
        if not field.nullable:
            raise InputError(
                f"{self._where}: expected field {field.name!r}, got none; the file is not the one "
                "that was planned: start again with --restart"
            )


def as_kind(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values in another type; pa.ArrowException where it does not hold them."""
    if isinstance(array, pa.DictionaryArray) and not pa.types.is_dictionary(kind):
        if is_string(kind):  # decoded where it is written, piece by piece
            values = as_kind(array.dictionary, kind)
            return pa.DictionaryArray.from_arrays(array.indices, values)
        array = array.dictionary_decode()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(kind, pa.BaseExtensionType) and not pa.types.is_null(array.type):
        return pa.ExtensionArray.from_storage(kind, cast(array, kind.storage_type))
    return cast(array, kind)


def to_text(schema: pa.Schema) -> str:
    """For messages to scorers."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def from_text(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
