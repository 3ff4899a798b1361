"""Hive partitions: folders named FIELD=VALUE above a file, as Spark, pyarrow and others write them.

    partition_of("/in/year=2024/month=1/x.parquet", "/in")

What they name are fields like any other where a file has none of that name, to be bound, kept or
looked at by --where; parts lie in folders of the same names, so that the output is partitioned as
the input is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from urllib.parse import unquote

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.where import Range

NULL = "__HIVE_DEFAULT_PARTITION__"
"""The value of rows without one."""

_MARK = {b"colonnade.partition": b"yes"}

KINDS = {"int32": pa.int32(), "string": pa.string()}
"""The types that others infer, too: a part may then hold the field beside its folder's name."""

Folders = tuple[tuple[str, str | None], ...]
"""Name and value of each partition folder, from the top."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A field that has one value in all rows of a file."""

    name: str
    kind: str
    """Of KINDS."""
    text: str | None
    """As the folder has it; None for null."""

    @property
    def field(self) -> pa.Field:
        return pa.field(self.name, KINDS[self.kind], metadata=_MARK)

    @property
    def row_nbytes(self) -> int:
        return 4 + (len((self.text or "").encode()) if self.kind == "string" else 0)

    @property
    def value(self) -> int | str | None:
        return int(self.text) if self.kind == "int32" and self.text is not None else self.text

    def column(self, rows: int) -> pa.Array:
        return pa.repeat(pa.scalar(self.value, KINDS[self.kind]), rows)

    def range(self, rows: int) -> Range:
        nulls = rows if self.text is None else 0
        return Range(self.value, self.value, nulls, rows)


def is_partition(field: pa.Field) -> bool:
    """Whether it comes from folders' names. Such a field is kept by its folder already."""
    return (field.metadata or {}).get(b"colonnade.partition") == b"yes"


def plain_field(field: pa.Field) -> pa.Field:
    """The same, of a dataset of which only some files have it from folders."""
    if not is_partition(field):
        return field
    left = {k: v for k, v in field.metadata.items() if k not in _MARK}
    return field.with_metadata(left or None)


def folder_of(path: str, root: str) -> str:
    """The partition folders right above a file and below the root, "" for none: as they are."""
    if not path.startswith(f"{root.rstrip('/')}/"):
        return ""
    inside = path[len(root.rstrip("/")) + 1 :].split("/")[:-1]
    run = [*takewhile(_is_named, reversed(inside))]
    return "/".join(reversed(run))


def partitions(folders: Mapping[str, str]) -> dict[str, tuple[Partition, ...]]:
    """By path, from the partition folders by path. A field is of int32 where all its values are.

    Raises InputError unless all files lie in folders of the same fields.
    """
    read = {path: _read(folder) for path, folder in folders.items()}
    if not read:
        return {}
    first = min(read)
    names = [name for name, _ in read[first]]
    for path in sorted(read):
        if (found := [name for name, _ in read[path]]) != names:
            raise InputError(
                f"{path}: expected partition folders {_listed(names)} as above {first}, got "
                f"{_listed(found)}; all files of a dataset are partitioned alike"
            )
    kinds = {name: _kind(dict(pairs)[name] for pairs in read.values()) for name in names}
    return {
        path: tuple(Partition(name, kinds[name], text) for name, text in pairs)
        for path, pairs in read.items()
    }


def _is_named(folder: str) -> bool:
    name, equals, value = folder.partition("=")
    return bool(name and equals and value)


def _read(folder: str) -> Folders:
    pairs = (part.partition("=") for part in folder.split("/") if part)
    return tuple((unquote(n), None if v == NULL else unquote(v)) for n, _, v in pairs)


def _kind(texts: Iterable[str | None]) -> str:
    return "int32" if all(text is None or _is_int32(text) for text in texts) else "string"


def _is_int32(text: str) -> bool:
    """Whether nothing is lost by reading it as a number: 007 is a text, and so is 1_000."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        return False
    return str(int(text)) == text and -(2**31) <= int(text) < 2**31


def _listed(names: Sequence[str]) -> str:
    return "/".join(f"{name}=" for name in names) or "none"
