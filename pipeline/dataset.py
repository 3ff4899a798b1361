"""What is in the input: files, their row groups and the schema of all, from footers alone."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipeline.errors import InputError, OutputError
from pipeline.footers import DataFile, Footer, read_footer
from pipeline.partitions import folder_of, partitions
from pipeline.row_groups import Arrangement, RowGroups
from pipeline.schemas import United, Unlike, Variants, refuse_unlike, shown
from pipeline.search import SUFFIXES, base_of, each_once, expand, reads
from pipeline.stores import is_url, joined
from pipeline.where import Range, Where

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
    """Fields of all files, which each is read with (pipeline/schemas.py)."""
    roots: tuple[str, ...]
    """Folders and globs that were given as inputs; they may not find the output."""
    doubles: tuple[str, ...] = ()
    """Other names, by links, of files that are among `files` already: not read twice."""
    where: Where | None = None
    """Which rows are scored, where not all are."""
    unlike: tuple[Unlike, ...] = ()
    """Fields that some files lack, or have of another type."""
    differ: bool = False
    """Whether some file's own schema is another."""

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
        or glob add fields. Files may have different fields; those of `where` must be in all. Row
        groups of which it can score no row are marked. Raises InputError.
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
            endings = ", ".join(SUFFIXES)
            raise InputError(
                f"{shown}: expected Parquet or Arrow files, got none; check the path (of a folder "
                f"names that end with {endings} are taken, of a glob all that it matches)"
            )
        with ThreadPoolExecutor(min(FOOTER_THREADS, len(paths))) as pool:
            kept, doubles = each_once(paths, list(pool.map(_stat, paths)))
            added = partitions({path: folders[path] for path in kept})
            asked = where.fields if where else ()
            footers = pool.map(lambda p: read_footer(p, folders[p], added[p], asked), sorted(kept))
            files, told = _gathered(footers, where)
        return cls(
            files, told.schema, roots, tuple(doubles), where, told.unlike, differ=told.differ
        )

    def used(self, columns: Iterable[str], *, hooked: bool) -> tuple[str, ...]:
        """Fields that are read: these, or all where a hook may want any, and those of `where`."""
        looked_at = self.where.fields if self.where else ()
        return tuple(dict.fromkeys([*(self.schema.names if hooked else columns), *looked_at]))

    def planned(self, names: Iterable[str]) -> pa.Schema | None:
        """What these fields are read as, where files differ; otherwise as each has them."""
        wanted = set(names)
        return pa.schema([f for f in self.schema if f.name in wanted]) if self.differ else None

    def readable(self, wanted: Collection[str]) -> pa.Schema:
        """Fields that have a type in common, and those that are wanted."""
        apart = {each.name for each in self.unlike if not each.common} - set(wanted)
        return pa.schema([f for f in self.schema if f.name not in apart])

    def refuse_unlike(self, names: Iterable[str], who: str, *, nulls: bool) -> None:
        """Raises InputError for a field that cannot be read of all files; where some lack it,
        unless it may be null there."""
        refuse_unlike(self.unlike, names, who, nulls=nulls)

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
        lines += [f"  files differ: {told}"] if (told := shown(self.unlike)) else []
        return "\n".join(lines)


def _stat(path: str) -> os.stat_result | None:
    """None for what cannot be looked at, and for objects: a key is an object's one name."""
    if is_url(path):
        return None
    try:
        return Path(path).stat()
    except OSError:
        return None  # reading the footer says why


def _gathered(
    footers: Iterable[Footer], where: Where | None
) -> tuple[tuple[DataFile, ...], United]:
    """The files with row groups that tell of the fields of all, and what these are; row groups
    without a row for `where` are marked."""
    variants, read, ranges = Variants(), [], []
    for footer in footers:
        number = variants.add(footer.file.path, footer.schema, footer.given)
        read.append((footer.file, number))
        ranges += [footer.ranges] if where else []
    told = variants.united()
    files = [_arranged(file, told.arrangements[number]) for file, number in read]
    if where is not None:
        refuse_unlike(told.unlike, where.fields, f"--where {where}", nulls=False)
        fitted = where.fitted(told.schema)
        files = [_marked(file, fitted, r) for file, r in zip(files, ranges, strict=True)]
    return tuple(files), told


def _arranged(file: DataFile, how: Arrangement | None) -> DataFile:
    return file if how is None else replace(file, row_groups=file.row_groups.arranged(how))


def _marked(file: DataFile, where: Where, ranges: Sequence[Sequence[Range | None]]) -> DataFile:
    """With a mark on the row groups of which no row can be scored."""
    told = (
        {name: r for name, r in zip(where.fields, each, strict=True) if r is not None}
        for each in ranges
    )
    skipped = [not where.may_hold(known) for known in told]
    if not any(skipped):
        return file
    return replace(file, row_groups=file.row_groups.skipping(skipped))
