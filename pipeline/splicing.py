"""Parquet files in which plain tensors are pages of our own, and everything else is pyarrow's.

pyarrow makes two levels for each element of a list and encodes them in runs. Where lists have one
size, nothing is null and values are stored as they are, the levels of every page are alike, and
behind them a page is the tensor's bytes: they are made once, and the rows go into the file from
where they lie. Each row group is

    the other columns   a file that pyarrow writes, without its ends; its column chunks, moved
    the plain ones      pages of PAGE_NBYTES, cut by rows of the group: batches change no byte

and the footer is pyarrow's, too, of a file of one row, with other row groups: schema, metadata,
paths and types come from there. A column that is not plain in some row group (a null) is one of
the others there.

Measured (Zen 4, rows of 256 floats and an id into a sink that keeps nothing): pyarrow takes 1.23
microseconds of CPU a row, this 0.12; arro3, which is arrow-rs, 2.2 into memory.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.levels import SIZE_NBYTES, all_are, full_lists
from pipeline.page_headers import DATA, PLAIN, RLE, plain_header
from pipeline.stores import Sink
from pipeline.thrift import I32, I64, KINDS, STRUCT, Items, Struct, parsed, serialised

MAGIC = b"PAR1"
TAIL_NBYTES = 4 + len(MAGIC)
"""Behind a footer: its size, and the magic."""

PAGE_NBYTES = 1 << 20
"""Of a page's rows, or one row; pyarrow's pages have as many."""

GROUP_ROWS = 1 << 20
"""Of a row group at most, as pyarrow has it."""

LEAST_SIZE = 16
"""Elements of a row. The levels of shorter lists take fewer bytes as pyarrow packs them."""

LONGEST_NBYTES = 1 << 28
"""Of a row: the size of a page has 31 bits."""

_FILE_ROWS, _GROUPS = 3, 4
_CHUNKS, _GROUP_NBYTES, _GROUP_ROWS, _GROUP_PLACE, _GROUP_STORED_NBYTES = 1, 2, 3, 5, 6
_CHUNK_PLACE, _COLUMN = 2, 3
_TYPE, _ENCODINGS, _PATH, _CODEC, _VALUES, _NBYTES, _STORED_NBYTES = range(1, 8)
_FIRST_PAGE, _PAGES = 9, 13
_PLACES = (9, 10, 11)
"""Numbers of fields in Parquet's footer: of the file, of a row group, of a column's chunk, and of
what is said of the column; the last are where its pages lie."""

ELEMENTS = frozenset([pa.float32(), pa.float64(), pa.int32(), pa.int64()])
"""Whose bytes are the same in Arrow and in a page."""


@dataclass(frozen=True, slots=True)
class Lists:
    """How a field's rows lie in a page of our own."""

    size: int
    """Elements of a row."""
    row_nbytes: int
    deepest: int
    """The definition level of an element that is there."""

    @classmethod
    def of(cls, field: pa.Field) -> Lists | None:
        """None for what such a page cannot hold."""
        kind = _storage_type(field.type)
        if not pa.types.is_fixed_size_list(kind) or kind.value_type not in ELEMENTS:
            return None
        row_nbytes = kind.list_size * kind.value_type.bit_width // 8
        if kind.list_size < LEAST_SIZE or row_nbytes > LONGEST_NBYTES:
            return None
        return cls(kind.list_size, row_nbytes, 1 + field.nullable + kind.value_field.nullable)

    @property
    def page_rows(self) -> int:
        return max(1, PAGE_NBYTES // self.row_nbytes)


class SplicedWriter:
    """Writes tables, as pyarrow's ParquetWriter does; `close` writes the footer."""

    def __init__(
        self, sink: Sink, first: pa.Table, plain: Mapping[str, Lists], options: Mapping[str, Any]
    ) -> None:
        """`first` has a row at least; `plain` are fields that are not compressed; `options` are
        pyarrow's."""
        self._sink, self._plain, self._options = sink, plain, options
        self._footer = _write_file(first.slice(0, 1), options, lambda _: None)
        (group,) = self._footer[_GROUPS]
        self._columns = [chunk[_COLUMN] for chunk in group[_CHUNKS]]
        """What pyarrow says of each, in the order of the schema."""
        self._groups = Items(STRUCT)
        self._rows = self._at = 0
        self._closed = False
        self._put(MAGIC)

    def write_table(self, table: pa.Table) -> None:
        """In row groups of GROUP_ROWS at most; none for a table without rows."""
        for first in range(0, table.num_rows, GROUP_ROWS):
            self._write_group(table.slice(first, GROUP_ROWS))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._footer |= {_FILE_ROWS: I64(self._rows), _GROUPS: self._groups}
        footer = serialised(self._footer)
        self._put(footer + len(footer).to_bytes(4, "little") + MAGIC)

    def _write_group(self, table: pa.Table) -> None:
        began = self._at
        plain = {name for name in self._plain if _is_full(table.column(name))}
        others = iter(self._write_others(table.drop_columns(sorted(plain))))
        chunks: Items = Items(STRUCT)
        for column in self._columns:
            name = column[_PATH][0].decode()
            if name in plain:
                chunks.append(self._write_plain(column, table.column(name), self._plain[name]))
            else:
                chunks.append(next(others))
        self._rows += table.num_rows
        nbytes, stored = (sum(c[_COLUMN][n] for c in chunks) for n in (_NBYTES, _STORED_NBYTES))
        self._groups.append(
            {
                _CHUNKS: chunks,
                _GROUP_NBYTES: I64(nbytes),
                _GROUP_ROWS: I64(table.num_rows),
                _GROUP_PLACE: I64(began),
                _GROUP_STORED_NBYTES: I64(stored),
            }
        )

    def _write_others(self, table: pa.Table) -> list[Struct]:
        """Their chunks, as pyarrow writes them, from where the file is now."""
        if not table.num_columns:
            return []
        moved = self._at - len(MAGIC)
        footer = _write_file(table.replace_schema_metadata(), self._options, self._put)
        (group,) = footer[_GROUPS]
        for chunk in group[_CHUNKS]:
            column = chunk[_COLUMN]
            column |= {n: I64(column[n] + moved) for n in _PLACES if n in column}
        return list(group[_CHUNKS])

    def _write_plain(self, column: Struct, rows: pa.ChunkedArray, lists: Lists) -> Struct:
        """Its pages, and the chunk that says where they are."""
        began, pages = self._at, range(0, len(rows), lists.page_rows)
        for first in pages:
            page = rows.slice(first, lists.page_rows)
            self._put(_page_head(len(page), lists))
            for piece in page.chunks:
                self._put(_elements(piece).to_numpy().view(np.uint8).data)
        said = {
            _TYPE: column[_TYPE],
            _ENCODINGS: Items(KINDS[I32], [I32(PLAIN), I32(RLE)]),
            _PATH: column[_PATH],
            _CODEC: column[_CODEC],
            _VALUES: I64(len(rows) * lists.size),
            _NBYTES: I64(self._at - began),
            _STORED_NBYTES: I64(self._at - began),
            _FIRST_PAGE: I64(began),
            _PAGES: Items(STRUCT, [{1: I32(DATA), 2: I32(PLAIN), 3: I32(len(pages))}]),
        }
        return {_CHUNK_PLACE: I64(0), _COLUMN: said}

    def _put(self, data: Any) -> None:
        self._sink.write(data)
        self._at += memoryview(data).nbytes


@lru_cache(maxsize=32)
def _page_head(rows: int, lists: Lists) -> bytes:
    """What stands in front of the elements of so many rows: a header, and their levels."""
    values = rows * lists.size
    levels = _sized(full_lists(rows, lists.size)) + _sized(all_are(values, lists.deepest))
    return plain_header(values, len(levels) + rows * lists.row_nbytes) + levels


def _sized(levels: bytes) -> bytes:
    return len(levels).to_bytes(SIZE_NBYTES, "little") + levels


def _write_file(table: pa.Table, options: Mapping[str, Any], put: Callable[[Any], None]) -> Struct:
    """The footer of a file that pyarrow writes, of the table as one row group; its pages are put
    on while it writes: of text, a whole row group would take three times its bytes in memory."""
    relay = _Relay(put)
    with pq.ParquetWriter(pa.PythonFile(relay, mode="w"), table.schema, **options) as writer:
        writer.write_table(table, row_group_size=table.num_rows)
        relay.end = io.BytesIO()
    footer, _ = parsed(relay.end.getvalue())
    return footer


class _Relay:
    """Takes what pyarrow writes: passes pages on, but neither the magic before them nor, once
    there is an `end` to put it into, what comes behind them; nor what it still writes after a
    failure."""

    closed = False

    def __init__(self, put: Callable[[Any], None]) -> None:
        self._put = put
        self._begun = False
        self.end: io.BytesIO | None = None

    def write(self, data: Any) -> None:
        if self.end is not None:
            self.end.write(data)
        elif self._begun:
            try:
                self._put(data)
            except BaseException:
                self.end = io.BytesIO()
                raise
        self._begun = True

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _is_full(column: pa.ChunkedArray) -> bool:
    """Whether nothing in it is null."""
    return not column.null_count and not any(_elements(c).null_count for c in column.chunks)


def _elements(lists: pa.Array) -> pa.Array:
    """Those of an array of lists of one size, none of them null."""
    return (lists.storage if isinstance(lists, pa.ExtensionArray) else lists).flatten()


def _storage_type(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
