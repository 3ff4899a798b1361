"""Shards: the unit of work, of retry and of commit. A shard is row groups of one file."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from pipeline.dataset import Dataset
from pipeline.footers import DataFile
from pipeline.partitions import Partition
from pipeline.remembered import remembered

Array = np.ndarray[Any, Any]

TARGET_NBYTES = 64 << 20
"""Decoded bytes a shard aims at: a second or so of an engine, small enough to lose to a crash."""

MIN_SHARDS = 64
"""Small datasets are cut finer than TARGET_NBYTES, so that engines end together."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of row groups of one file; its index names the part that it becomes."""

    index: int
    path: str
    format: str
    """"parquet" or "arrow"."""
    row_groups: tuple[int, ...]
    """Contiguous; empty for a file that has no row group at all."""
    rows: int
    """Of all its row groups, those that are skipped included."""
    nbytes: int
    """Decoded bytes of all fields, an estimate from the footer."""
    first_row: int
    """Number in the file of the shard's first row, from 0."""
    file_nbytes: int
    """Size of the file when it was planned; checked again when the shard is opened."""
    file_mtime_ns: int
    """Time of change when it was planned; checked again when the shard is opened."""
    skipped: tuple[int, ...] = ()
    """Row groups of which no row is scored: they are not read."""
    folder: str = ""
    """Partition folders that its part lies in."""
    partitions: tuple[Partition, ...] = ()
    """Fields that the file does not have and its folders give."""

    def __str__(self) -> str:
        last = self.first_row + self.rows
        return f"shard {self.index}: {self.path} rows {self.first_row}:{last}"


@dataclass(frozen=True, slots=True)
class Lease:
    """A shard lent to a scorer; `attempt` counts from 0 over all scorers."""

    shard: Shard
    attempt: int


_FILE, FIRST_GROUP, _GROUPS, _SKIPPED, _ROWS, _NBYTES, _FIRST_ROW, _INDEX = range(8)
"""Columns of the plan's table."""


class Shards(Sequence[Shard]):
    """The plan, or some shards of it, in columns; a Shard is made when it is asked for.

    A Shard takes 350 bytes, its row here 64.
    """

    def __init__(self, files: Sequence[DataFile], table: Array) -> None:
        """int64[shards, 8]; use `plan_shards`."""
        self._files = files
        self._table = table
        self._made: dict[int, Shard] = {}
        """Some that were asked for lately: whoever asks for one asks again."""

    @property
    def most_rows(self) -> int:
        """Of a shard; 0 where there is none."""
        return int(self._table[:, _ROWS].max(initial=0))

    @property
    def rows(self) -> Array:
        """int64, of each."""
        return self._table[:, _ROWS]

    def without(self, indices: Collection[int]) -> Shards:
        """Those whose index is not among these."""
        left = [index not in indices for index in self._table[:, _INDEX].tolist()]
        return Shards(self._files, self._table[np.array(left, np.bool_)])

    def by_file(self) -> Iterator[tuple[DataFile, Array]]:
        """Each file that has shards, with their rows of the table."""
        firsts = np.flatnonzero(np.diff(self._table[:, _FILE], prepend=-1))
        for own in np.split(self._table, firsts[1:]):
            if len(own):
                yield self._files[own[0, _FILE]], own

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Shard, ...]: ...
    def __getitem__(self, index: int | slice) -> Shard | tuple[Shard, ...]:
        if isinstance(index, slice):
            return tuple(map(self._shard, self._table[index].tolist()))
        found = self._made.get(index)
        if found is None:
            if len(self._made) >= _RECENT:
                self._made.clear()
            found = self._made[index] = self._shard(self._table[index].tolist())
        return found

    def __iter__(self) -> Iterator[Shard]:
        for first in range(0, len(self), _AT_ONCE):
            yield from self[first : first + _AT_ONCE]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shards) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def _shard(self, row: list[int]) -> Shard:
        number, first, groups, skipped, rows, nbytes, first_row, index = row
        file = self._files[number]
        return Shard(
            index=index,
            path=file.path,
            format=file.format,
            row_groups=tuple(range(first, first + groups)),
            rows=rows,
            nbytes=nbytes,
            first_row=first_row,
            file_nbytes=file.nbytes,
            file_mtime_ns=file.mtime_ns,
            folder=file.folder,
            partitions=file.partitions,
            skipped=file.row_groups.skipped_in(first, groups) if skipped else (),
        )


_RECENT = 64
"""Shards that are kept as they were made."""

_AT_ONCE = 1024
"""Shards that are made together when all are looked at."""


@remembered
def plan_shards(dataset: Dataset) -> Shards:
    """All row groups of the dataset, each in exactly one shard, in the order of the files.

    Sizes depend on the dataset alone, never on engines or executor: a resume with another
    number of engines finds the same shards. A file without rows yields one empty shard, so
    that its schema survives.
    """
    total = sum(int(groups.read_nbytes.sum()) for groups in dataset.groups())
    target = max(1, min(TARGET_NBYTES, total // MIN_SHARDS))
    numbers = array("q")
    for number, file in enumerate(dataset.files):
        for row in _shards_of(file, target):
            numbers.extend((number, *row))
    table = np.empty((len(numbers) // _INDEX, _INDEX + 1), np.int64)
    table[:, :_INDEX] = np.frombuffer(numbers, np.int64).reshape(-1, _INDEX)
    table[:, _INDEX] = np.arange(len(table))
    return Shards(dataset.files, table)


def _shards_of(file: DataFile, target: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Of each of the file's shards the first row group, how many, how many of them are skipped,
    their rows, bytes to read, and the number of the first row.

    A shard is closed before a group that would take it further from `target` bytes than it is
    now. The last may be short, and one is always made.
    """
    groups = file.row_groups
    each = zip(
        groups.rows.tolist(), groups.read_nbytes.tolist(), groups.skipped.tolist(), strict=True
    )
    first = first_row = skips = rows = nbytes = 0
    for index, (more, size, skipped) in enumerate(each):
        if index > first and not skipped and nbytes + size - target > target - nbytes:
            yield first, index - first, skips, rows, nbytes, first_row
            first, first_row, skips, rows, nbytes = index, first_row + rows, 0, 0, 0
        skips += skipped
        rows += more
        nbytes += size
    if len(groups) > first or not len(groups):
        yield first, len(groups) - first, skips, rows, nbytes, first_row


def rows_of(shards: Sequence[Shard]) -> Array:
    """int64, of each."""
    if isinstance(shards, Shards):
        return shards.rows
    return np.array([shard.rows for shard in shards], np.int64)


def by_size(shards: Sequence[Shard]) -> array[int]:
    """Places of the shards, the largest last; of those of one size, that with the lowest index."""
    numbers = (number for s in shards for number in (s.nbytes, -s.index))
    nbytes, index = np.fromiter(numbers, np.int64, 2 * len(shards)).reshape(-1, 2).T
    return array("q", np.lexsort((index, nbytes)).astype(np.int64).tobytes())
