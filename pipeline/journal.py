"""The journal: one line for each committed part, the driver's memory between lives."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.records import ManifestEntry
from pipeline.stores import Log
from pipeline.wire import from_plain, to_plain


def replay(lines: bytes) -> dict[int, ManifestEntry]:
    """The entries of a journal by shard.

    A damaged line is passed over: the part's own footer can replace it. Of two lines for one
    shard the later counts: the first part had been lost and was made again.
    """
    entries: dict[int, ManifestEntry] = {}
    for line in lines.splitlines():
        try:
            entry = from_plain(ManifestEntry, json.loads(line))
        except ValueError:
            continue
        entries[entry.shard] = entry
    return entries


class Journal:
    """Appends entries to a log, which keeps each before `append` returns."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.entries = replay(log.data)

    def append(self, entries: Sequence[ManifestEntry]) -> None:
        """Raises OSError."""
        self._log.append(b"".join(json.dumps(to_plain(e)).encode() + b"\n" for e in entries))

    def close(self) -> None:
        self._log.close()
