"""The journal: one line for each committed part, the driver's memory between lives."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence

from pipeline.records import ManifestEntry
from pipeline.stores import Log
from pipeline.wire import from_plain, to_plain


def entries_of(lines: Iterable[bytes]) -> Iterator[ManifestEntry]:
    """The entries of a journal, in its order.

    A damaged line is passed over: the part's own footer can replace it. Of two lines for one
    shard the later counts: the first part had been lost and was made again.
    """
    for line in lines:
        with contextlib.suppress(ValueError):
            yield from_plain(ManifestEntry, json.loads(line))


def replay(lines: Iterable[bytes]) -> dict[int, ManifestEntry]:
    """The same by shard."""
    return {entry.shard: entry for entry in entries_of(lines)}


class Journal:
    """Appends entries to a log, which keeps each before `append` returns."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def append(self, entries: Sequence[ManifestEntry]) -> None:
        """Raises OSError."""
        self._log.append(b"".join(json.dumps(to_plain(e)).encode() + b"\n" for e in entries))

    def close(self) -> None:
        self._log.close()
