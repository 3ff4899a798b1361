"""Tables in memory through the binding and the engine: what a scorer does, without shards.

A pipeline of other people's (Ray Data's) hands over tables; what it may hold that no file of
ours does, Ray's own tensors, is turned into Arrow's first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.batches import MAX_BATCH_ROWS, by_tokens, default_batch_tokens
from pipeline.bound import Binding
from pipeline.picture_rules import PictureRules
from pipeline.pictures import Decoder
from pipeline.scoring import Run, encode, prepare, score
from pipeline.text import Encoder, TokenizerFile

RAY_TENSOR = "ray.data.arrow_tensor"
"""How the names of Ray's types for tensors of one shape begin."""


class TableScorer:
    """Table -> table: kept fields, then outputs, of the rows in their order."""

    def __init__(
        self,
        run: Run,
        binding: Binding,
        on_error: str,
        *,
        threads: int,
        tokenizer: TokenizerFile | None = None,
        pictures: PictureRules | None = None,
    ) -> None:
        self._run = run
        self._binding = binding
        self._on_error = on_error
        self._tokens = default_batch_tokens(binding)
        self._made: list[Callable[[pa.RecordBatch], pa.RecordBatch]] = []
        if tokenizer is not None:
            self._made.append(Encoder(tokenizer, binding))
        if pictures is not None and any(f.picture for f in binding.fields):
            self._made.append(Decoder(pictures, binding, threads))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Raises RowError for a row that cannot be scored, under `fail`."""
        schema = self._binding.output_schema(table.schema)
        return pa.Table.from_batches(self._scored(table), schema)

    def _scored(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        for batch in table.to_batches(max_chunksize=MAX_BATCH_ROWS):
            for make in self._made:
                batch = make(batch)
            prepared = prepare(batch, self._binding, self._on_error)
            for _, piece in by_tokens(prepared, self._tokens):
                scored = score(self._run, piece, self._on_error)
                yield encode(scored, self._binding, self._on_error)


def is_schema(told: object) -> bool:
    """Whether it is Arrow's, and not that of pandas' blocks."""
    return isinstance(told, pa.Schema)


def canonical(table: pa.Table) -> pa.Table:
    """The table with tensors of Ray's types as arrow.fixed_shape_tensor; no values are copied."""
    wanted = canonical_schema(table.schema)
    if wanted == table.schema:
        return table
    columns = [
        column if column.type == field.type else _tensors(column, field.type)
        for column, field in zip(table.columns, wanted, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=wanted)


def canonical_schema(schema: pa.Schema) -> pa.Schema:
    """The schema that `canonical` gives."""
    return pa.schema([_canonical_field(field) for field in schema], schema.metadata)


def _canonical_field(field: pa.Field) -> pa.Field:
    kind: Any = field.type
    if not str(getattr(kind, "extension_name", "")).startswith(RAY_TENSOR):
        return field
    return field.with_type(pa.fixed_shape_tensor(kind.storage_type.value_type, list(kind.shape)))


def _tensors(column: pa.ChunkedArray, kind: Any) -> pa.ChunkedArray:
    count = int(np.prod(kind.shape))
    chunks = []
    for chunk in column.chunks:
        lists = chunk.storage
        nulls = lists.is_null() if lists.null_count else None
        storage = pa.FixedSizeListArray.from_arrays(_values(lists, count), count, mask=nulls)
        chunks.append(pa.ExtensionArray.from_storage(kind, storage))
    return pa.chunked_array(chunks, kind)


def _values(lists: Any, count: int) -> pa.Array:
    """All values of the lists, `count` for each, zeros for a list that is null."""
    if not lists.null_count:
        return lists.flatten()
    zeros = pa.array([[0] * count], lists.type)
    return lists.fill_null(zeros[0]).flatten()
