"""Shard -> record batches of the fields that are needed. What a batch holds, the shard decides."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.blocks import Blocks
from pipeline.conforming import Conforming
from pipeline.decoding import ParquetRows
from pipeline.errors import InputError
from pipeline.flat import only
from pipeline.shards import Shard
from pipeline.sources import AGAIN, facts, mapped, naming, opened
from pipeline.where import Where

EVEN_ROWS = 64
"""Batches are cut at multiples of this where they can be: no column of the engine is split."""


def even_rows(rows: int, batch_rows: int) -> int:
    """Rows a batch, so that `rows` make no tiny last batch: 4096 in 3264s are 2 x 2048."""
    batches = max(1, -(-rows // batch_rows))
    even = -(-rows // batches)
    return max(1, min(batch_rows, -(-even // EVEN_ROWS) * EVEN_ROWS))


class ShardReader:
    """An open shard: `schema` of the chosen columns, in their order, and iteration once.

    `schema` has the planned types, which are the file's where none are given; in batches, strings
    may be dictionaries (dictionaries.py).
    Batches have at most `batch_rows` rows and are as even as multiples of EVEN_ROWS allow;
    record batches of Arrow files are cut or joined to that. Raises InputError when the file is
    not the one that was planned, checked at both ends, or cannot be decoded. With `where`, only
    rows of which it is true are in the batches, and what the shard skips is not read.
    """

    def __init__(
        self,
        shard: Shard,
        columns: Sequence[str],
        batch_rows: int,
        where: Where | None = None,
        blocks: defaultdict[str, Blocks] | None = None,
        planned: pa.Schema | None = None,
    ) -> None:
        """`blocks` by field are memory that shards read one after the other share. `planned` are
        the fields as the whole dataset has them."""
        self.shard = shard
        self.columns = list(columns)
        self._blocks = blocks
        self._where = where
        self._conforming: Conforming | None = None
        self._fields = list(dict.fromkeys([*columns, *(where.fields if where else ())]))
        self._given = [p for p in shard.partitions if p.name in self._fields]
        given = {p.name for p in self._given}
        self._of_file = [name for name in self._fields if name not in given]
        self._numbers: Sequence[int] = range(shard.first_row, shard.first_row + shard.rows)
        self.batch_rows = even_rows(shard.rows, batch_rows)
        self._stack = contextlib.ExitStack()
        try:
            with self._naming_the_file():
                self._check_unchanged()
                batches, schema = (
                    self._open_parquet() if shard.format == "parquet" else self._open_arrow()
                )
                for partition in self._given:
                    schema = schema.append(partition.field)
                if planned is not None:
                    planned = _of(planned, self._fields)
                    self._conforming = Conforming(schema, planned, str(shard))
                    schema = planned
                self.schema: pa.Schema = _of(schema, self.columns)
                self._where = where.fitted(schema) if where else None
        except BaseException:
            self._stack.close()
            raise
        self._batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Batches in order; the rows read add up to the shard's, or InputError."""
        return (batch for _, batch in self.numbered())

    def numbered(self) -> Iterator[tuple[Sequence[int], pa.RecordBatch]]:
        """The same batches, each behind the numbers that its rows have in the file."""
        rows = 0
        while True:
            with self._naming_the_file():
                batch = next(self._batches, None)
            if batch is None:
                break
            batch = self._as_planned(self._with_partitions(batch))
            numbers = self._numbers[rows : rows + batch.num_rows]
            rows += batch.num_rows
            yield self._chosen(numbers, batch)
        with self._naming_the_file():
            self._check_unchanged()
        if rows != len(self._numbers):
            raise InputError(f"{self.shard}: expected {len(self._numbers)} rows, got {rows}")

    def _with_partitions(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not self._given:
            return batch
        for partition in self._given:
            batch = batch.append_column(partition.field, partition.column(batch.num_rows))
        return batch.select([name for name in self._fields if name in batch.schema.names])

    def _as_planned(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch if self._conforming is None else self._conforming(batch)

    def _chosen(
        self, numbers: Sequence[int], batch: pa.RecordBatch
    ) -> tuple[Sequence[int], pa.RecordBatch]:
        """The rows that are scored, without the fields that only `where` looks at."""
        if self._where is None:
            return numbers, batch
        mask = self._where.mask(batch).fill_null(False).to_numpy(zero_copy_only=False)
        kept = np.asarray(numbers)[mask]
        return kept.tolist(), only(batch, mask).select(self.columns)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_parquet(self) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
        groups = [g for g in self.shard.row_groups if g not in self.shard.skipped]
        source = self._stack.enter_context(opened(self.shard.path))
        rows = ParquetRows(
            source, self.shard.path, groups, self._of_file, self._stack, self._blocks
        )
        if self.shard.skipped:
            self._numbers = self._numbers_of(rows.metadata)
        return rows.batches(self.batch_rows), rows.schema

    def _numbers_of(self, metadata: pq.FileMetaData) -> list[int]:
        """Of the rows in the row groups that are read."""
        numbers: list[int] = []
        first = self.shard.first_row
        for group in self.shard.row_groups:
            rows = metadata.row_group(group).num_rows
            numbers += [] if group in self.shard.skipped else range(first, first + rows)
            first += rows
        return numbers

    def _open_arrow(self) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
        """Memory-mapped where it can be: an uncompressed file is not copied at all."""
        source = self._stack.enter_context(mapped(self.shard.path))
        with pa.ipc.open_file(source) as whole:
            schema = whole.schema
        self._of_file = [name for name in self._of_file if name in schema.names]
        indices = [schema.get_field_index(name) for name in self._of_file]
        options = pa.ipc.IpcReadOptions(included_fields=indices, use_threads=False)
        reader = self._stack.enter_context(pa.ipc.open_file(source, options=options))
        return self._arrow_batches(reader), schema

    def _arrow_batches(self, reader: pa.ipc.RecordBatchFileReader) -> Iterator[pa.RecordBatch]:
        waiting: list[pa.RecordBatch] = []
        rows = 0
        for group in self.shard.row_groups:
            batch = reader.get_batch(group).select(self._of_file)
            # Offsets of a damaged or hostile file may point outside its buffers.
            batch.validate(full=True)
            while batch.num_rows:
                piece = batch.slice(0, self.batch_rows - rows)
                batch = batch.slice(piece.num_rows)
                waiting.append(piece)
                rows += piece.num_rows
                if rows == self.batch_rows:
                    yield _joined(waiting)
                    waiting, rows = [], 0
        if waiting:
            yield _joined(waiting)

    def _check_unchanged(self) -> None:
        now, shard = facts(self.shard.path), self.shard
        if (now.nbytes, now.mtime_ns) == (shard.file_nbytes, shard.file_mtime_ns):
            return
        moment = datetime.fromtimestamp(now.mtime_ns / 1e9)
        written = moment.astimezone().isoformat(" ", "seconds")
        raise InputError(
            f"{shard.path}: input changed during the run: expected the {shard.file_nbytes:,} bytes "
            f"that were planned, got {now.nbytes:,} bytes, written at {written}; "
            "start again with --restart"
        )

    def _naming_the_file(self) -> contextlib.AbstractContextManager[None]:
        return naming(str(self.shard), self.shard.path, "cannot be read", AGAIN)


def _of(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """Some of its fields."""
    return pa.schema([schema.field(name) for name in names])


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
