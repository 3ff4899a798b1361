"""The run folder: lock, journal, commit, resume, finish. Only the driver opens it.

    OUT/part-000123.parquet          final parts, deterministic names
    OUT/_colonnade/run.json          the fingerprint, field by field, and the kernel choices
    OUT/_colonnade/journal.jsonl     a synced line for each commit
    OUT/_colonnade/lock              flock of the driver
    OUT/_colonnade/tmp/              attempts being written, by scorers
    OUT/_colonnade/rejects/          part-000123.parquet: file, row, field, reason
    OUT/_manifest.json, OUT/_SUCCESS last of all

A driver's way:
    stored = read_run(output)                       # kernel choices of an earlier run, or None
    program = engine.compile(model, choices=stored.choices if stored else None)
    ... plan, fingerprint ...
    with RunFolder.open(output, run, shards, restart=restart) as folder:
        if folder.complete: nothing to do
        for shard not in folder.committed: lend; on PartWritten: folder.commit(part)
        folder.finish()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pipeline.fingerprint import Fingerprint
from pipeline.parts import Part
from pipeline.shards import Shard


@dataclass(frozen=True, slots=True)
class RunRecord:
    """run.json. `choices` is read before compiling, so that a resume computes the same bytes."""

    fingerprint: Fingerprint
    choices: Mapping[str, str]
    model: str
    """Path, for people."""
    format: str


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A committed part: a line of the journal, an entry of the manifest."""

    shard: int
    path: str
    """Relative to the output folder."""
    source: str
    first_row: int
    rows_in: int
    rows_out: int
    rejects: int
    nbytes: int
    checksum: str
    rejects_path: str
    """Relative to the output folder, "" when there are none."""
    rejects_nbytes: int
    rejects_checksum: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """_manifest.json."""

    fingerprint: str
    shards: int
    rows_in: int
    rows_out: int
    rejects: int
    entries: tuple[ManifestEntry, ...]


def read_run(output: Path) -> RunRecord | None:
    """What an earlier run recorded in this folder, or None. Creates nothing, locks nothing."""
    raise NotImplementedError


class RunFolder:
    """The output folder, held by one driver. A context manager; close() gives up the lock."""

    output: Path
    run: RunRecord
    committed: dict[int, ManifestEntry]
    """By shard index; grows with each commit."""
    complete: bool
    """_SUCCESS stands for this very fingerprint: there is nothing to do."""
    resumed: bool
    """The folder held a run with this fingerprint."""

    @classmethod
    def open(
        cls, output: Path, run: RunRecord, shards: Sequence[Shard], *, restart: bool = False
    ) -> RunFolder:
        """Locks, then starts fresh, resumes, or (restart) wipes what is ours and starts fresh.

        Raises OutputError: another driver holds it, another run's parts (the differences are
        named), files that are not ours, a folder that cannot be written.
        """
        raise NotImplementedError

    def commit(self, part: Part) -> ManifestEntry | None:
        """Publishes the part; None when another attempt was first and this one was discarded."""
        raise NotImplementedError

    def discard(self, part: Part) -> None:
        """Removes the temporary files of a part that is not wanted."""
        raise NotImplementedError

    def finish(self) -> Manifest:
        """Counts everything, writes _manifest.json, then _SUCCESS. OutputError if incomplete."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
