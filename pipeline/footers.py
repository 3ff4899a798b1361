"""One file's footer: its row groups, with rows and an estimate of their decoded bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError

MAGIC = {b"PAR1": "parquet", b"ARRO": "arrow"}


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A Parquet row group, or a record batch of an Arrow file."""

    rows: int
    field_nbytes: tuple[int, ...]
    """Decoded bytes by field, in the schema's order. Exact for fixed-width types and lists of
    them and for Arrow files; for dictionary-encoded strings a lower estimate."""

    @property
    def nbytes(self) -> int:
        """Decoded bytes of all fields."""
        return sum(self.field_nbytes)


@dataclass(frozen=True, slots=True)
class DataFile:
    path: str
    """Absolute."""
    format: str
    """"parquet" or "arrow"."""
    nbytes: int
    """Size on disk."""
    mtime_ns: int
    row_groups: tuple[RowGroup, ...]

    @property
    def rows(self) -> int:
        return sum(g.rows for g in self.row_groups)


def read_footer(path: str) -> tuple[DataFile, pa.Schema]:
    """What the file holds. Raises InputError for what is neither Parquet nor Arrow, or damaged."""
    try:
        stat = Path(path).stat()
        with Path(path).open("rb") as stream:
            magic = stream.read(4)
        if not magic:
            raise InputError(f"{path}: expected a Parquet or Arrow file, got an empty one")
        if magic not in MAGIC:
            raise InputError(
                f"{path}: expected a Parquet or Arrow IPC file, got one that starts with {magic!r}"
            )
        kind = MAGIC[magic]
        groups, schema = _parquet_groups(path) if kind == "parquet" else _arrow_groups(path)
    except (pa.ArrowInvalid, OSError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise InputError(f"{path}: cannot be read, truncated or damaged: {reason}") from e
    _check_names(path, schema)
    return DataFile(path, kind, stat.st_size, stat.st_mtime_ns, groups), schema


def _check_names(path: str, schema: pa.Schema) -> None:
    twice = sorted({n for n in schema.names if schema.names.count(n) > 1})
    if twice:
        raise InputError(f"{path}: expected each field once, got {', '.join(twice)} twice")


def _parquet_groups(path: str) -> tuple[tuple[RowGroup, ...], pa.Schema]:
    with pq.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
    groups = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        sizes, leaf = [], 0
        for field in schema:
            leaves = _leaves(field.type)
            sizes.append(_decoded(group, field.type, range(leaf, leaf + leaves)))
            leaf += leaves
        groups.append(RowGroup(group.num_rows, tuple(sizes)))
    return tuple(groups), schema


def _arrow_groups(path: str) -> tuple[tuple[RowGroup, ...], pa.Schema]:
    """Record batches are loaded to be counted: free when memory-mapped, unless compressed."""
    with pa.memory_map(path) as source, pa.ipc.open_file(source) as reader:
        groups = []
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            groups.append(RowGroup(batch.num_rows, tuple(c.nbytes for c in batch.columns)))
        return tuple(groups), reader.schema


def _leaves(kind: pa.DataType) -> int:
    """Parquet columns that a field of this type becomes."""
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type)
    if pa.types.is_dictionary(kind) or kind.num_fields == 0:
        return 1
    if pa.types.is_map(kind):
        return _leaves(kind.key_type) + _leaves(kind.item_type)
    return sum(_leaves(kind.field(i).type) for i in range(kind.num_fields))


def _decoded(group: Any, kind: pa.DataType, leaves: range) -> int:
    """Decoded bytes of a field in a row group: what its Arrow buffers will take, at most ~5 % off.

    `total_uncompressed_size` alone is the encoded size: it would miss repeated values that a
    dictionary page stores once.
    """
    width = _leaf_nbytes(kind)
    total = 0
    for leaf in leaves:
        column = group.column(leaf)
        # num_values counts list elements; each may cost a validity bit and, in a list, an offset.
        exact = column.num_values * width + column.num_values // 8 if width else 0
        total += max(exact, column.total_uncompressed_size)
    offsets = 4 * int(group.num_rows) if kind.num_fields > 0 or width is None else 0
    return total + offsets


def _leaf_nbytes(kind: pa.DataType) -> int | None:
    """Bytes of one element of a primitive type or of nested lists of it; None for the rest."""
    if isinstance(kind, pa.BaseExtensionType):
        return _leaf_nbytes(kind.storage_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _leaf_nbytes(kind.value_type)
    if pa.types.is_primitive(kind):
        return (int(kind.bit_width) + 7) // 8
    return None
