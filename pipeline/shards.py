"""Shards: the unit of work, of retry and of commit. A shard is row groups of one file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.dataset import Dataset
from pipeline.footers import DataFile, RowGroup
from pipeline.partitions import Partition
from pipeline.remembered import remembered

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


@remembered
def plan_shards(dataset: Dataset) -> tuple[Shard, ...]:
    """All row groups of the dataset, each in exactly one shard, in the order of the files.

    Sizes depend on the dataset alone, never on engines or executor: a resume with another
    number of engines finds the same shards. A file without rows yields one empty shard, so
    that its schema survives.
    """
    total = sum(_read_nbytes(group) for file in dataset.files for group in file.row_groups)
    target = max(1, min(TARGET_NBYTES, total // MIN_SHARDS))
    shards: list[Shard] = []
    for file in dataset.files:
        shards += _shards_of(file, target, len(shards))
    return tuple(shards)


def _shards_of(file: DataFile, target: int, first: int) -> Iterator[Shard]:
    """The file's shards, numbered from `first`."""
    first_row = 0
    for index, groups in enumerate(_runs(file, target), first):
        chosen = [file.row_groups[g] for g in groups]
        rows = sum(g.rows for g in chosen)
        yield Shard(
            index=index,
            path=file.path,
            format=file.format,
            row_groups=groups,
            rows=rows,
            nbytes=sum(map(_read_nbytes, chosen)),
            first_row=first_row,
            file_nbytes=file.nbytes,
            file_mtime_ns=file.mtime_ns,
            folder=file.folder,
            partitions=file.partitions,
            skipped=tuple(g for g in groups if file.row_groups[g].skipped),
        )
        first_row += rows


def _read_nbytes(group: RowGroup) -> int:
    """What is skipped costs nothing, and goes with its neighbours."""
    return 0 if group.skipped else group.nbytes


def _runs(file: DataFile, target: int) -> Iterator[tuple[int, ...]]:
    """Runs of row groups that reach `target` bytes; the last may be short, one is always made.

    A run is closed before a group that would take it further from the target than it is now.
    """
    run: list[int] = []
    nbytes = 0
    for index, group in enumerate(file.row_groups):
        size = _read_nbytes(group)
        if run and not group.skipped and nbytes + size - target > target - nbytes:
            yield tuple(run)
            run, nbytes = [], 0
        run.append(index)
        nbytes += size
    if run or not file.row_groups:
        yield tuple(run)
