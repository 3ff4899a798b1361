"""One file's footer: its row groups, with rows and an estimate of their decoded bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dictionaries import dictionary_nbytes, leaf_types, width
from pipeline.errors import InputError
from pipeline.partitions import Partition
from pipeline.row_groups import RowGroup, RowGroups
from pipeline.sources import AGAIN, facts, mapped, naming, opened
from pipeline.stores import is_url
from pipeline.where import Range

MAGIC = {b"PAR1": "parquet", b"ARRO": "arrow"}

REWRITE = (
    "write it as a file: pyarrow.feather.write_feather(pyarrow.ipc.open_stream(OLD).read_all(), "
    "NEW, compression='uncompressed')"
)
FOREIGN = {
    b"\xff\xff\xff\xff": ("an Arrow IPC stream, which has no footer", REWRITE),
    b"FEA1": ("Feather version 1", "write it as version 2, with pyarrow.feather.write_feather"),
    b"PARE": ("Parquet with an encrypted footer", "decrypt it first"),
    b"\x1f\x8b\x08": ("gzip", "unpack it first; columns may be compressed, files may not"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unpack it first; columns may be compressed, files may not"),
    b"ORC": ("ORC", "write it as Parquet, with pyarrow.orc and pyarrow.parquet"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
}
"""First bytes of what people take for the above: what it is, and what to do."""


@dataclass(frozen=True, slots=True)
class DataFile:
    path: str
    """Absolute."""
    format: str
    """"parquet" or "arrow"."""
    nbytes: int
    """Size on disk."""
    mtime_ns: int
    row_groups: RowGroups
    folder: str = ""
    """Partition folders above it, which are those of its parts, too: year=2024/month=1."""
    partitions: tuple[Partition, ...] = ()
    """Fields that these folders give, and the file does not."""

    @property
    def rows(self) -> int:
        return int(self.row_groups.rows.sum())


@dataclass(frozen=True, slots=True)
class Footer:
    """What one file tells of itself."""

    file: DataFile
    schema: pa.Schema
    """Its fields, and those that folders give."""
    ranges: tuple[tuple[Range | None, ...], ...]
    """By row group, of each field that was asked for; None where nothing is told."""

    @property
    def given(self) -> tuple[str, ...]:
        """Fields that folders give."""
        return tuple(partition.name for partition in self.file.partitions)


def read_footer(
    path: str,
    folder: str = "",
    partitions: Sequence[Partition] = (),
    asked: Sequence[str] = (),
) -> Footer:
    """What the file holds, and what the folders above it add to it. Raises InputError for what is
    neither Parquet nor Arrow, or damaged."""
    with naming(path, path, "cannot be read, truncated or damaged", AGAIN):
        _refuse_dead_link(path)
        found = facts(path)
        with opened(path) as source:
            kind = _kind(path, source.read(4))
            if kind == "parquet":
                groups, schema, ranges = _parquet_groups(source, asked)
        if kind == "arrow":
            groups, schema = _arrow_groups(path)
            ranges = [{} for _ in groups]  # it has no statistics
    _check_names(path, schema)
    added = tuple(p for p in partitions if p.name not in schema.names)
    for partition in added:
        schema = schema.append(partition.field)
    told = (
        r | {p.name: p.range(g.rows) for p in added} for g, r in zip(groups, ranges, strict=True)
    )
    known = tuple(tuple(map(each.get, asked)) for each in told) if asked else ()
    held = RowGroups.of(_partitioned(group, added) for group in groups)
    file = DataFile(path, kind, found.nbytes, found.mtime_ns, held, folder, added)
    return Footer(file, schema, known)


def _partitioned(group: RowGroup, added: Sequence[Partition]) -> RowGroup:
    """With the fields that folders add, which the reader makes."""
    if not added:
        return group
    return replace(
        group,
        field_nbytes=(*group.field_nbytes, *(p.row_nbytes * group.rows for p in added)),
        dictionary_nbytes=(*group.dictionary_nbytes, *(0 for _ in added)),
        field_elements=(*group.field_elements, *(group.rows for _ in added)),
    )


def _refuse_dead_link(path: str) -> None:
    if not is_url(path) and Path(path).is_symlink() and not Path(path).exists():
        raise InputError(
            f"{path}: expected a file, got a link to {Path(path).readlink()}, which does not "
            "exist; bring it back or remove the link"
        )


def _kind(path: str, magic: bytes) -> str:
    """What a file is by its first bytes."""
    if not magic:
        raise InputError(f"{path}: expected a Parquet or Arrow file, got an empty one; {AGAIN}")
    if magic not in MAGIC:
        raise InputError(f"{path}: expected a Parquet or Arrow IPC file, got {_what(magic)}")
    return MAGIC[magic]


def _what(magic: bytes) -> str:
    for start, (name, advice) in FOREIGN.items():
        if magic.startswith(start):
            return f"{name}; {advice}"
    return f"one that starts with {magic!r}; convert it to Parquet"


def _check_names(path: str, schema: pa.Schema) -> None:
    twice = sorted({n for n in schema.names if schema.names.count(n) > 1})
    if twice:
        raise InputError(
            f"{path}: expected each field once, got {', '.join(twice)} twice; write it again with "
            "a name for each"
        )


def _parquet_groups(
    source: Any, names: Sequence[str]
) -> tuple[tuple[RowGroup, ...], pa.Schema, list[dict[str, Range]]]:
    """Row groups, schema, and what statistics tell of the named fields in each row group."""
    with pq.ParquetFile(source) as file:
        metadata, schema = file.metadata, file.schema_arrow
    found = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    groups = tuple(_parquet_group(group, schema, source) for group in found)
    return groups, schema, [_ranges(group, schema, names) for group in found]


def _ranges(group: Any, schema: pa.Schema, names: Sequence[str]) -> dict[str, Range]:
    """What the statistics of flat fields tell."""
    found: dict[str, Range] = {}
    leaf = 0
    for field in schema if names else ():
        if field.name in names and field.type.num_fields == 0:
            found[field.name] = _range(group.column(leaf).statistics, int(group.num_rows))
        leaf += len(leaf_types(field.type))
    return found


def _range(statistics: Any, rows: int) -> Range:
    if statistics is None:
        return Range(None, None, None, rows)
    told = statistics.has_min_max
    nulls = int(statistics.null_count) if statistics.has_null_count else None
    low, high = (statistics.min, statistics.max) if told else (None, None)
    return Range(low, high, nulls, rows)


def _parquet_group(group: Any, schema: pa.Schema, stream: BinaryIO) -> RowGroup:
    sizes, dictionaries, elements, leaf = [], [], [], 0
    for field in schema:
        kinds = leaf_types(field.type)
        chunks = [group.column(leaf + i) for i in range(len(kinds))]
        offsets = 4 * int(group.num_rows) if field.type.num_fields > 0 else 0
        each = zip(kinds, chunks, strict=True)
        sizes.append(offsets + sum(_decoded(chunk, kind) for kind, chunk in each))
        strings = [c for kind, c in zip(kinds, chunks, strict=True) if width(kind) is None]
        dictionaries.append(sum(dictionary_nbytes(stream, chunk) for chunk in strings))
        elements.append(max((int(chunk.num_values) for chunk in chunks), default=0))
        leaf += len(kinds)
    return RowGroup(group.num_rows, tuple(sizes), tuple(dictionaries), tuple(elements))


def _arrow_groups(path: str) -> tuple[tuple[RowGroup, ...], pa.Schema]:
    """Record batches are loaded to be counted: free when memory-mapped, unless compressed."""
    with mapped(path) as source, pa.ipc.open_file(source) as reader:
        groups = []
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            sizes = tuple(int(column.nbytes) for column in batch.columns)
            held = (c.dictionary.nbytes if _is_coded(c) else 0 for c in batch.columns)
            elements = tuple(map(_elements, batch.columns))
            groups.append(RowGroup(batch.num_rows, sizes, tuple(map(int, held)), elements))
        return tuple(groups), reader.schema


def _elements(column: pa.Array) -> int:
    """Numbers in all rows of a column and their lists."""
    if isinstance(column, pa.ExtensionArray):
        return _elements(column.storage)
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        values = column.values
        return _elements(values.slice(column.offset * kind.list_size, len(column) * kind.list_size))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        first, last = (column.offsets[i].as_py() for i in (0, len(column)))
        return _elements(column.values.slice(first, last - first))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return _elements(column.flatten())
    return len(column)


def _is_coded(column: pa.Array) -> bool:
    return isinstance(column, pa.DictionaryArray)


def _decoded(chunk: Any, kind: pa.DataType) -> int:
    """Bytes of a column chunk as it is read: what its Arrow buffers will take, at most ~5 % off.

    `total_uncompressed_size` alone is the encoded size: it would miss repeated values that a
    dictionary page stores once.
    """
    each, encoded = width(kind), int(chunk.total_uncompressed_size)
    # num_values counts list elements; each may cost a validity bit or, in a string, an offset.
    if each is None:
        return encoded + 4 * int(chunk.num_values)
    return max(encoded, int(chunk.num_values) * each + int(chunk.num_values) // 8)
