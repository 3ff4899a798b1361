"""What a power cut would leave: bytes survive it once their file was synced, names once their
folder was. No failpoint shows that: what a killed process wrote is still in the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from part_jobs import Job

from pipeline.durable import replace_text
from pipeline.journal import replay

JOURNAL = "_colonnade/journal.jsonl"


class Disk:
    """Follows every sync and rename below a folder, and checks the promises after each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.syncs: list[str] = []
        """Files that were synced, by the name they had."""
        self._written: set[str] = set()
        """Names behind which all bytes would survive."""
        self._settled: set[str] = set()
        """Names that would survive."""

    @property
    def safe(self) -> set[str]:
        return self._written & self._settled

    @contextmanager
    def watched(self) -> Iterator[None]:
        sync, replace = os.fsync, os.replace

        def fsync(handle: int) -> None:
            sync(handle)
            self._sync(Path(f"/proc/self/fd/{handle}").readlink())

        def rename(source: str | Path, target: str | Path) -> None:
            replace(source, target)
            self._rename(self._name(Path(source)), self._name(Path(target)))

        with mock.patch("os.fsync", fsync), mock.patch("os.replace", rename):
            yield

    def check(self) -> None:
        """Whatever the journal names would be there, and so would what _SUCCESS vouches for."""
        path = self.folder / JOURNAL
        for entry in replay(path.read_bytes().splitlines() if path.exists() else []).values():
            assert {entry.path, entry.rejects_path or entry.path} <= self.safe, entry
        if (self.folder / "_SUCCESS").exists():
            assert "_manifest.json" in self.safe

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def _sync(self, path: Path) -> None:
        if not path.is_relative_to(self.folder):
            return
        if path.is_dir():
            self._settled |= {self._name(file) for file in path.iterdir()}
        else:
            self._written.add(self._name(path))
            self.syncs.append(self._name(path))
        self.check()

    def _rename(self, source: str, target: str) -> None:
        self._settled.discard(target)
        self._written.discard(target)
        if source in self._written:
            self._written.add(target)
        self.check()


def test_what_is_named_survives_a_power_cut(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.output.mkdir()
    disk = Disk(job.output)
    with disk.watched():
        assert job.write() == [0, 1, 2, 3, 4, 5]
    assert disk.syncs.count(JOURNAL) == 6, "a commit is synced before the next one begins"
    parts = {path.name for path in job.output.glob("part-*")}
    rejects = {f"_colonnade/rejects/part-{number:06d}.parquet" for number in (1, 5)}
    assert len(parts) == 6
    ours = parts | rejects | {JOURNAL, "_colonnade/run.json", "_manifest.json", "_SUCCESS"}
    assert ours <= disk.safe, "all of it, at the end"


def test_a_text_is_there_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "_manifest.json"
    path.write_text("before")

    def pieces() -> Iterator[str]:
        yield "x" * (1 << 20)
        assert path.read_text() == "before"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace_text(path, pieces())
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
