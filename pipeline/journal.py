"""The journal: one synced line for each committed part, the driver's memory between lives."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.records import ManifestEntry
from pipeline.wire import from_plain, to_plain


def replay(data: bytes) -> tuple[dict[int, ManifestEntry], int]:
    """The entries of a journal by shard, and how many of its bytes are whole lines.

    A torn last line (a crash in mid-write) is no entry, and must be cut off before anything is
    appended. A damaged line elsewhere is passed over: the part's own footer can replace it. Of
    two lines for one shard the later counts: the first part had been lost and was made again.
    """
    entries: dict[int, ManifestEntry] = {}
    whole = data.rfind(b"\n") + 1
    for line in data[:whole].splitlines():
        try:
            entry = from_plain(ManifestEntry, json.loads(line))
        except ValueError:
            continue
        entries[entry.shard] = entry
    return entries, whole


class Journal:
    """Appends entries, each synced before `append` returns."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the journal, cutting a torn last line off. Raises OSError."""
        self.path = path
        data = path.read_bytes() if path.exists() else b""
        self.entries, self._nbytes = replay(data)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if self._nbytes != len(data):
            os.ftruncate(self._file, self._nbytes)
            os.fsync(self._file)

    def append(self, entries: Sequence[ManifestEntry]) -> None:
        """Raises OSError; then the journal is as it was before, as far as the disk allows."""
        lines = b"".join(json.dumps(to_plain(e)).encode() + b"\n" for e in entries)
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            # Half a line would swallow the next one.
            os.ftruncate(self._file, self._nbytes)
            raise
        self._nbytes += len(lines)

    def close(self) -> None:
        os.close(self._file)
