"""Tensors straight from the pages of a Parquet file, where these hold them as they are.

pyarrow decodes two levels for each element of a list and copies every value several times into
buffers that grow. Where lists have one size, nothing is null and values are encoded plainly, a
page is its levels and behind them the tensor's bytes: the levels are compared with what they must
be, and the bytes copied once, or read where they belong if they are not compressed. What is not as
expected is left to pyarrow (NotPlain), so nothing is read here that it would not read alike.

Measured (Zen 4 in a busy virtual machine, zstd, microseconds of CPU for a row of 1,024 floats):
pyarrow 9.3, and 5 to 7 more for pages that its growing buffers get from the kernel; from the pages
5.7, of which 4.1 are zstd's. With mimalloc, which is pyarrow's default: jemalloc's 8.1.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.blocks import Blocks
from pipeline.dictionaries import leaf_types
from pipeline.levels import SIZE_NBYTES, OddLevels, are_all, are_full_lists
from pipeline.page_headers import DATA, DATA_V2, PLAIN, RLE, OddHeader, PageHeader, page_header

Array = np.ndarray[Any, Any]

LEAST_NBYTES = 512
"""Of a row. Levels of shorter lists are many to a page, and pages seldom repeat them."""

HEADER_NBYTES = 1024
"""Read at once for a page's header; statistics of numbers take some 40 of it."""

PAGE_NBYTES = (1 << 31) - 1
"""Of a page at most, as Parquet has it."""

_PHYSICAL = {
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.int32(): "INT32",
    pa.int64(): "INT64",
}
"""Elements whose bytes are the same in Arrow and in a plain page."""

_CODECS = {
    "UNCOMPRESSED": None,
    "SNAPPY": "snappy",
    "ZSTD": "zstd",
    "GZIP": "gzip",
    "LZ4": "lz4_raw",
}


class NotPlain(Exception):
    """A page that holds something else than whole rows as they are."""


@dataclass(frozen=True, slots=True)
class PlainField:
    """A field of fixed-size lists, or of tensors, that may be read from its pages."""

    kind: pa.DataType
    size: int
    """Elements of a row."""
    deepest: int
    """The definition level of an element that is there."""
    chunks: tuple[Any, ...]
    """pyarrow's metadata of its column, group by group."""

    @property
    def storage(self) -> pa.DataType:
        return self.kind.storage_type if isinstance(self.kind, pa.BaseExtensionType) else self.kind

    @property
    def row_nbytes(self) -> int:
        return int(self.size * self.storage.value_type.bit_width // 8)


def plain_fields(
    metadata: Any, schema: pa.Schema, names: Collection[str], groups: Sequence[int]
) -> dict[str, PlainField]:
    """Those of the fields whose footers say nothing against it."""
    found, leaf = {}, 0
    for field in schema:
        if field.name in names and (size := _list_size(field.type)):
            chunks = tuple(metadata.row_group(group).column(leaf) for group in groups)
            column = metadata.schema.column(leaf)
            plain = PlainField(field.type, size, column.max_definition_level, chunks)
            physical = _PHYSICAL[plain.storage.value_type]
            if (
                column.max_repetition_level == 1
                and column.physical_type == physical
                and plain.row_nbytes >= LEAST_NBYTES
                and all(map(_may_be_plain, chunks))
            ):
                found[field.name] = plain
        leaf += len(leaf_types(field.type))
    return found


def _list_size(kind: pa.DataType) -> int:
    """Elements of a row, 0 for what is no list of one size of numbers."""
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if not pa.types.is_fixed_size_list(storage) or storage.value_type not in _PHYSICAL:
        return 0
    return int(storage.list_size)


def _may_be_plain(chunk: Any) -> bool:
    return (
        not chunk.has_dictionary_page
        and chunk.compression in _CODECS
        and set(chunk.encodings) <= {"PLAIN", "RLE"}
        and not (chunk.statistics is not None and chunk.statistics.null_count)
    )


class PlainColumn:
    """The rows of one field of a local file, in order. Raises OSError when it cannot be opened."""

    def __init__(self, path: str, field: PlainField, blocks: Blocks | None = None) -> None:
        """Rows are put into `blocks`, which may outlive the column."""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._field = field
        self._blocks = blocks or Blocks()
        self._nbytes = os.fstat(self._file).st_size
        self._stored = np.empty(0, np.uint8)
        """A page as it is stored; kept for the next."""
        self._pieces = self._values()
        self._rest: Array | range = range(0)
        """Elements that were not taken yet: their bytes, or the places of these in the file."""

    def __enter__(self) -> PlainColumn:
        return self

    def __exit__(self, *about: object) -> None:
        os.close(self._file)

    def take(self, rows: int) -> pa.Array:
        """The next rows. NotPlain if they are not as they should be, or too few."""
        field = self._field
        target, buffer = self._blocks.take(rows * field.row_nbytes)
        filled = 0
        while filled < len(target):
            if not len(self._rest):
                self._rest = self._next()
            piece = self._rest[: len(target) - filled]
            self._put(piece, target[filled : filled + len(piece)])
            self._rest = self._rest[len(piece) :]
            filled += len(piece)
        storage = field.storage
        values = pa.Array.from_buffers(storage.value_type, rows * field.size, [None, buffer])
        found = pa.Array.from_buffers(storage, rows, [None], children=[values])
        if isinstance(field.kind, pa.BaseExtensionType):
            return pa.ExtensionArray.from_storage(field.kind, found)
        return found

    def _put(self, piece: Array | range, target: Array) -> None:
        if not isinstance(piece, range):
            target[:] = piece
            return
        try:
            self._fill(target, piece.start)
        except OSError as e:
            raise NotPlain(str(e)) from e

    def _next(self) -> Array | range:
        try:
            return next(self._pieces)
        except StopIteration:
            raise NotPlain("fewer rows than the footer says") from None
        except (OddHeader, OddLevels, ValueError, OSError, MemoryError) as e:
            raise NotPlain(str(e)) from e

    def _values(self) -> Iterator[Array | range]:
        """Elements, page by page; each array lives until the next is asked for."""
        for chunk in self._field.chunks:
            at, done = int(chunk.data_page_offset), 0
            end = at + int(chunk.total_compressed_size)
            while done < chunk.num_values:
                header = page_header(self._read(at, min(HEADER_NBYTES, end - at)).tobytes())
                at += header.header_nbytes
                most = min(int(chunk.total_uncompressed_size), PAGE_NBYTES)
                if at + header.stored_nbytes > min(end, self._nbytes) or header.nbytes > most:
                    raise NotPlain("a page larger than its column")
                codec = _CODECS[chunk.compression] if header.compressed else None
                if not _is_known(header):
                    raise NotPlain("a page of another kind")
                if codec is None:
                    yield self._in_file(header, at, done)
                else:
                    yield self._unpacked(header, self._read(at, header.stored_nbytes), codec, done)
                at += header.stored_nbytes
                done += header.values
            if done > chunk.num_values or done % self._field.size:
                raise NotPlain("other values than the footer says")

    def _unpacked(self, header: PageHeader, stored: Array, codec: str, done: int) -> Array:
        """The elements of a compressed page, after a look at its levels; `done` were before it."""
        if header.level_nbytes is not None:
            of_lists, of_nulls, rest = _cut(stored, *header.level_nbytes)
            body = _decompressed(rest, codec, header.nbytes - sum(header.level_nbytes))
        else:
            of_lists, body = _behind_size(_decompressed(stored, codec, header.nbytes))
            of_nulls, body = _behind_size(body)
        self._check(header, (of_lists.tobytes(), of_nulls.tobytes()), len(body), done)
        return body

    def _in_file(self, header: PageHeader, at: int, done: int) -> range:
        """Where the elements of a page are that is not compressed, after the same look."""
        end, levels = at + header.stored_nbytes, []
        for number in range(2):
            if header.level_nbytes is not None:
                nbytes = header.level_nbytes[number]
            else:
                nbytes = _size(self._read(at, min(SIZE_NBYTES, end - at)))
                at += SIZE_NBYTES
            if nbytes > end - at:
                raise NotPlain("levels larger than their page")
            levels.append(self._read(at, nbytes).tobytes())
            at += nbytes
        self._check(header, (levels[0], levels[1]), end - at, done)
        return range(at, end)

    def _check(
        self, header: PageHeader, levels: tuple[bytes, bytes], nbytes: int, done: int
    ) -> None:
        """Raises NotPlain unless so many bytes are whole rows without a null."""
        field, (of_lists, of_nulls) = self._field, levels
        if nbytes * field.size != header.values * field.row_nbytes:
            raise NotPlain("other bytes than its values take")
        if not (
            are_full_lists(of_lists, header.values, field.size, done % field.size)
            and are_all(of_nulls, header.values, field.deepest)
        ):
            raise NotPlain("nulls, or lists of other sizes")

    def _read(self, at: int, nbytes: int) -> Array:
        if len(self._stored) < nbytes:
            self._stored = np.empty(nbytes, np.uint8)
        found = self._stored[:nbytes]
        self._fill(found, at)
        return found

    def _fill(self, target: Array, at: int) -> None:
        done = 0
        while done < len(target):
            got = os.preadv(self._file, [target[done:].data], at + done)
            if not got:
                raise NotPlain("the file ends within a page")
            done += got


def _is_known(header: PageHeader) -> bool:
    known = header.kind in (DATA, DATA_V2) and header.level_encodings == (RLE, RLE)
    return known and header.encoding == PLAIN


def _decompressed(data: Array, codec: str, nbytes: int) -> Array:
    """So many bytes."""
    if nbytes < 0:
        raise NotPlain("levels larger than their page")
    return np.frombuffer(pa.Codec(codec).decompress(pa.py_buffer(data), nbytes), np.uint8)


def _cut(data: Array, first: int, second: int) -> tuple[Array, Array, Array]:
    return data[:first], data[first : first + second], data[first + second :]


def _size(data: Array) -> int:
    """Of the levels that follow."""
    return int.from_bytes(data[:SIZE_NBYTES].tobytes(), "little")


def _behind_size(data: Array) -> tuple[Array, Array]:
    """Levels behind their size, and what follows."""
    end = SIZE_NBYTES + _size(data)
    if end > len(data):
        raise NotPlain("levels larger than their page")
    return data[SIZE_NBYTES:end], data[end:]
