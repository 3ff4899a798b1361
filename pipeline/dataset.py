"""What is in the input: files, their row groups and their one schema, from footers alone."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.errors import InputError, OutputError
from pipeline.footers import DataFile, read_footer

SUFFIXES = (".parquet", ".pq", ".parq", ".arrow", ".ipc", ".feather")
"""What is taken from a folder; its other files (readme, licence) are passed over."""

FOOTER_THREADS = 16
"""Footers are waited for, not computed: more threads than CPUs is right on network storage."""


@dataclass(frozen=True, slots=True)
class Dataset:
    files: tuple[DataFile, ...]
    """Sorted by path."""
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
        """Files, folders (recursive) and globs, each file once, sorted by path.

        Below a folder, names that start with _ or . are passed over. What a file is, Parquet or
        Arrow, its first bytes say. Partition folders (`day=1/`) add no field. Raises InputError.
        """
        roots: list[str] = []
        paths = sorted({path for text in inputs for path in _expand(text, roots)})
        if not paths:
            shown = ", ".join(inputs) or "no input"
            raise InputError(f"{shown}: expected Parquet or Arrow files, got none; check the path")
        with ThreadPoolExecutor(min(FOOTER_THREADS, len(paths))) as pool:
            footers = list(pool.map(read_footer, paths))
        first, schema = footers[0]
        for file, other in footers[1:]:
            _check_same_schema(first.path, schema, file.path, other)
        return cls(tuple(file for file, _ in footers), schema, tuple(roots))

    def refuse_output(self, output: Path) -> None:
        """Raises OutputError when `output` is, or lies inside, a folder given as input.

        The next run would read this run's parts as its input.
        """
        real = Path(os.path.realpath(output))
        for root in self.roots:
            if real.is_relative_to(os.path.realpath(root)):
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


def _expand(text: str, roots: list[str]) -> Iterator[str]:
    """Absolute paths of the files that one input names; folders are noted in `roots`."""
    # abspath, not resolve: a dataset made of symbolic links keeps the names it was given.
    path = os.path.abspath(Path(text).expanduser())  # noqa: PTH100
    if Path(path).is_dir():
        roots.append(path)
        yield from _walk(path)
    elif Path(path).exists():
        yield path
    elif glob.has_magic(text):
        found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207
        if not found:
            raise InputError(f"{text}: expected files, got no match; check the pattern")
        for match in found:
            if Path(match).is_dir():
                roots.append(match)
                yield from _walk(match)
            elif not Path(match).name.startswith(("_", ".")):
                yield match
    else:
        raise InputError(f"{text}: expected a file, folder or glob, got nothing; check the path")


def _walk(folder: str) -> Iterator[str]:
    if (Path(folder) / "_colonnade").is_dir() and not (Path(folder) / "_SUCCESS").exists():
        raise InputError(
            f"{folder}: expected a finished dataset, got the output of an unfinished run; "
            "finish that run first"
        )
    for base, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(("_", ".")))
        for name in names:
            if not name.startswith(("_", ".")) and name.lower().endswith(SUFFIXES):
                yield str(Path(base) / name)


def _check_same_schema(path: str, schema: pa.Schema, other_path: str, other: pa.Schema) -> None:
    """Names, order, types and nullability must agree; metadata may differ."""
    if schema.equals(other, check_metadata=False):
        return
    for field in schema:
        if field.name not in other.names:
            raise InputError(
                f"{other_path}: expected field {field.name!r} as in {path}, got none; "
                "all files of a dataset have the same schema"
            )
    for field in other:
        if field.name not in schema.names:
            raise InputError(
                f"{other_path}: field {field.name!r} is not in {path}; "
                "all files of a dataset have the same schema"
            )
        expected = schema.field(field.name)
        if not field.equals(expected, check_metadata=False):
            raise InputError(
                f"{other_path}: field {field.name!r}: expected {_typed(expected)} as in {path}, "
                f"got {_typed(field)}; all files of a dataset have the same schema"
            )
    raise InputError(
        f"{other_path}: expected fields in the order of {path}: {', '.join(schema.names)}, "
        f"got {', '.join(other.names)}"
    )


def _typed(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"
