"""Row groups of a Parquet file -> record batches: by pyarrow, but for tensors that lie plainly in
their pages (pages.py).

pyarrow reads by `iter_batches` with a buffered stream, which holds 11 MB where a whole row group
of 50 MB of fixed_size_list<float>[1024] holds 110, and by one thread, which leaves the engine its
CPUs; whole row groups, pre_buffer and use_threads cost the same CPU (pyarrow 26).
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.blocks import Blocks
from pipeline.dictionaries import dictionary_paths
from pipeline.pages import NotPlain, PlainColumn, plain_fields
from pipeline.sources import buffer_nbytes
from pipeline.stores import is_url


class ParquetRows:
    """Some row groups of an open file; `schema` is the whole file's. Closes with `stack`. Of the
    names, those that the file has are read."""

    def __init__(
        self,
        source: Any,
        path: str,
        groups: Sequence[int],
        names: Sequence[str],
        stack: contextlib.ExitStack,
        blocks: defaultdict[str, Blocks] | None = None,
    ) -> None:
        """Rows of a plain field are put into its `blocks`, where there are some."""
        with pq.ParquetFile(source) as footer:
            self.metadata, self.schema = footer.metadata, footer.schema_arrow
        names = [name for name in names if name in self.schema.names]
        self._path, self._groups, self._names, self._stack = path, groups, names, stack
        self._blocks = defaultdict(Blocks) if blocks is None else blocks
        strings = dictionary_paths(self.metadata, self.schema, names, groups)
        self._file = stack.enter_context(
            pq.ParquetFile(
                source,
                metadata=self.metadata,
                read_dictionary=strings,
                pre_buffer=False,
                buffer_size=buffer_nbytes(path),
            )
        )

    def batches(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Fields in the order of their names; a batch may reach over row groups."""
        if not self._groups:
            return
        columns = self._plain_columns(batch_rows)
        if not columns:
            # Of no fields, a batch still has rows. A flat field "x.y" is read with "x" too: the
            # names are paths. Hence the select.
            decoded = self._decoded(self._names, batch_rows)
            yield from (batch.select(self._names) for batch in decoded)
            return
        others = [name for name in self._names if name not in columns]
        for rows, batch in self._together(others, batch_rows):
            arrays, fields = [], []
            for name in self._names:
                plain = name in columns
                arrays.append(columns[name].take(rows) if plain else batch.column(name))
                fields.append((self.schema if plain else batch.schema).field(name))
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _plain_columns(self, batch_rows: int) -> dict[str, _Column]:
        if is_url(self._path):  # each page would be two requests
            return {}
        columns = {}
        fields = plain_fields(self.metadata, self.schema, self._names, self._groups)
        for name, field in fields.items():
            rows = PlainColumn(self._path, field, self._blocks[name])
            plain = self._stack.enter_context(rows)
            decode = partial(self._decoded, [name], batch_rows)
            columns[name] = _Column(plain, name, decode)
        return columns

    def _together(self, names: Sequence[str], batch_rows: int) -> Iterator[tuple[int, Any]]:
        """How many rows a batch has, and what pyarrow decodes of it."""
        if names:
            yield from ((batch.num_rows, batch) for batch in self._decoded(names, batch_rows))
            return
        rows = sum(self.metadata.row_group(group).num_rows for group in self._groups)
        yield from ((min(batch_rows, rows - first), None) for first in range(0, rows, batch_rows))

    def _decoded(self, names: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        batches: Iterator[pa.RecordBatch] = self._file.iter_batches(
            batch_rows, row_groups=self._groups, columns=names, use_threads=False
        )
        return batches


class _Column:
    """A field's rows: from its pages as long as these are plain, then decoded by pyarrow."""

    def __init__(
        self, plain: PlainColumn, name: str, decode: Callable[[], Iterator[pa.RecordBatch]]
    ) -> None:
        self._plain: PlainColumn | None = plain
        self._name = name
        self._decode = decode
        self._taken = 0
        self._decoded: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.Array = pa.nulls(0)

    def take(self, rows: int) -> pa.Array:
        """The next rows, or fewer at the end."""
        if self._plain is not None:
            try:
                found = self._plain.take(rows)
            except NotPlain:
                self._plain, self._decoded = None, self._decode()
                for _ in self._pieces(self._taken):
                    pass
            else:
                self._taken += rows
                return found
        pieces = list(self._pieces(rows))
        return pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)

    def _pieces(self, rows: int) -> Iterator[pa.Array]:
        """The next rows that pyarrow decodes."""
        while rows:
            if not len(self._rest):
                batch = next(self._decoded, None)
                if batch is None:
                    return
                self._rest = batch.column(self._name)
            piece = self._rest.slice(0, rows)
            self._rest = self._rest.slice(len(piece))
            rows -= len(piece)
            yield piece
