"""What is in the input: files, their row groups and their one schema, from footers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A Parquet row group, or a record batch of an Arrow file."""

    rows: int
    nbytes: int
    """Decoded bytes of all fields (estimate)."""
    field_nbytes: tuple[int, ...]
    """Decoded bytes by field, in the schema's order (estimate)."""


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
    rows: int


@dataclass(frozen=True, slots=True)
class Dataset:
    files: tuple[DataFile, ...]
    schema: pa.Schema
    roots: tuple[str, ...]
    """Folders that were given as inputs; the output may not lie inside one."""

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.files)

    @property
    def nbytes(self) -> int:
        """On disk."""
        return sum(f.nbytes for f in self.files)

    @classmethod
    def discover(cls, inputs: Sequence[str]) -> Dataset:
        """Files, folders (recursive) and globs. Raises InputError for anything unusable."""
        raise NotImplementedError

    def refuse_output(self, output: Path) -> None:
        """Raises OutputError when `output` lies inside an input folder or holds input files."""
        raise NotImplementedError
