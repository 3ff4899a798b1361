"""What is in the input: files, their row groups and their one schema, from footers alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.errors import InputError, OutputError
from pipeline.footers import DataFile, read_footer
from pipeline.partitions import folder_of, partitions
from pipeline.row_groups import RowGroups
from pipeline.search import base_of, each_once, expand, reads
from pipeline.stores import is_url, joined
from pipeline.where import Where

PARTS = ("part-000000.parquet", "part-000000.arrow")
"""Names of parts, as `pipeline.parts` makes them: what a glob must not find in the output."""

FOOTER_THREADS = 16
"""Footers are waited for, not computed: more threads than CPUs is right on network storage."""


FILES_AT_ONCE = 4096
"""Whose row groups are looked at together: many files may have few each."""


@dataclass(frozen=True, slots=True)
class Dataset:
    files: tuple[DataFile, ...]
    """Sorted by path."""
    schema: pa.Schema
    roots: tuple[str, ...]
    """Folders and globs that were given as inputs; they may not find the output."""
    doubles: tuple[str, ...] = ()
    """Other names, by links, of files that are among `files` already: not read twice."""
    where: Where | None = None
    """Which rows are scored, where not all are."""

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.files)

    @property
    def nbytes(self) -> int:
        """On disk."""
        return sum(f.nbytes for f in self.files)

    def groups(self, format: str = "") -> Iterator[RowGroups]:
        """The row groups of all files, or of those of a format, those of many files at once; all
        have the dataset's fields."""
        files = [f for f in self.files if format in ("", f.format)]
        for first in range(0, len(files), FILES_AT_ONCE):
            some = files[first : first + FILES_AT_ONCE]
            if tables := [f.row_groups for f in some if len(f.row_groups)]:
                yield RowGroups.joined(tables)

    @classmethod
    def discover(cls, inputs: Sequence[str], where: Where | None = None) -> Dataset:
        """Files, folders (recursive) and globs, each real file once, sorted by path.

        Where they do not say otherwise, names that start with _ or . are passed over. What a file
        is, Parquet or Arrow, its first bytes say. Partition folders (`day=1/`) below a folder
        or glob add fields. Row groups of which `where` can score no row are marked. Raises
        InputError.
        """
        expanded = [expand(text) for text in inputs]
        folders = {path: "" for found, _ in expanded for path in found}
        for found, root in expanded:
            base = base_of(root) if root else ""
            folders |= {path: folder_of(path, base) for path in found if base}
        paths = sorted(folders)
        roots = tuple(root for _, root in expanded if root)
        if not paths:
            shown = ", ".join(inputs) or "no input"
            raise InputError(f"{shown}: expected Parquet or Arrow files, got none; check the path")
        with ThreadPoolExecutor(min(FOOTER_THREADS, len(paths))) as pool:
            kept, doubles = each_once(paths, list(pool.map(_stat, paths)))
            added = partitions({path: folders[path] for path in kept})
            footers = list(
                pool.map(lambda p: read_footer(p, where, folders[p], added[p]), sorted(kept))
            )
        first, schema = footers[0]
        for file, other in footers[1:]:
            _check_same_schema(first.path, schema, file.path, other)
        return cls(tuple(file for file, _ in footers), schema, roots, tuple(doubles), where)

    def refuse_output(self, output: str | Path) -> None:
        """Raises OutputError when an input, a folder or a glob, would find the parts in `output`.

        The next run would read this run's parts as its input.
        """
        folders = {f.folder for f in self.files}
        names = [f"{folder}/{name}".lstrip("/") for name in PARTS for folder in folders]
        for root in self.roots:
            if any(reads(root, joined(str(output), name)) for name in names):
                raise OutputError(
                    f"{output}: expected a folder outside the input {root}; choose another output"
                )

    def __str__(self) -> str:
        groups = sum(len(f.row_groups) for f in self.files)
        lines = [
            f"dataset: {len(self.files)} files, {groups} row groups, {self.rows} rows, "
            f"{self.nbytes} bytes"
        ]
        lines += [f"  {field.name}: {field.type}" for field in self.schema]
        return "\n".join(lines)


def _stat(path: str) -> os.stat_result | None:
    """None for what cannot be looked at, and for objects: a key is an object's one name."""
    if is_url(path):
        return None
    try:
        return Path(path).stat()
    except OSError:
        return None  # reading the footer says why


ALIKE = (
    "all files of a dataset have the same fields, in order, types and nullability: write it again "
    "like the others, or leave it out of --input"
)


def _check_same_schema(path: str, schema: pa.Schema, other_path: str, other: pa.Schema) -> None:
    """Names, order, types and nullability must agree; metadata may differ."""
    if schema.equals(other, check_metadata=False):
        return
    for field in schema:
        if field.name not in other.names:
            raise InputError(
                f"{other_path}: expected field {field.name!r} as in {path}, got none; {ALIKE}"
            )
    for field in other:
        if field.name not in schema.names:
            raise InputError(f"{other_path}: field {field.name!r} is not in {path}; {ALIKE}")
        expected = schema.field(field.name)
        if not field.equals(expected, check_metadata=False):
            raise InputError(
                f"{other_path}: field {field.name!r}: expected {_typed(expected)} as in {path}, "
                f"got {_typed(field)}; {ALIKE}"
            )
    raise InputError(
        f"{other_path}: expected fields in the order of {path}: {', '.join(schema.names)}, "
        f"got {', '.join(other.names)}; {ALIKE}"
    )


def _typed(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"
