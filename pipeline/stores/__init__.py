"""Where an output lies: a folder of this machine or of a network file system, or an object store.

    store = store_at("s3://bucket/scores")
    sink = store.sink(staged := store.staged("part-000000.parquet", "attempt 0"))
    ...
    store.publish(staged, "part-000000.parquet")

The rest of the pipeline knows a Store and not its kind. Names are relative to the store's root,
with "/" between folders. Whatever a Store writes under a final name is whole or absent, whoever is
killed and whenever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from pipeline.checksums import WRITTEN, Checksum
from pipeline.errors import OutputError

__all__ = [
    "OWN",
    "TEMP",
    "Lock",
    "Log",
    "Sink",
    "Store",
    "as_path",
    "checksum",
    "is_hidden",
    "is_url",
    "joined",
    "scheme",
    "store_at",
    "whole_lines",
]


class Lock(Protocol):
    """Keeps other drivers out until it is given up or its process is gone."""

    def check(self) -> None:
        """Raises OutputError when it was lost to another driver."""
        ...

    def release(self) -> None: ...


class Log(Protocol):
    """Lines that are only added to; each `append` survives the process once it has returned."""

    def append(self, lines: bytes) -> None: ...

    def close(self) -> None: ...


class Sink(Protocol):
    """One attempt at a file. Arrow writes into it; it is hashed on the way."""

    nbytes: int

    @property
    def closed(self) -> bool: ...

    @property
    def checksum(self) -> str:
        """Of all that was written, as pipeline/checksums.py has it."""
        ...

    def write(self, data: bytes) -> int: ...

    def flush(self) -> None: ...

    def sync(self) -> None:
        """Everything written is where it was to go, and survives a power cut."""
        ...

    def close(self) -> None:
        """Gives up what it holds; what was not synced may be lost."""
        ...


class Store(Protocol):
    """A folder of files. OSError comes out of every method; `trouble` says what it means."""

    where: str
    """For people, and for `store_at` on another machine."""

    def read(self, name: str) -> bytes:
        """All of a small file. Raises FileNotFoundError or NotADirectoryError where none is."""
        ...

    def write(self, name: str, text: str | Iterable[str]) -> None:
        """The whole text, or its pieces; what is there is replaced, whole or not at all."""
        ...

    def delete(self, *names: str) -> None:
        """Names that are not there are passed over."""
        ...

    def nbytes(self, name: str) -> int:
        """Of a file; -1 where there is none."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """Files and folders directly in it, sorted; none where there is no such folder."""
        ...

    def files(self) -> list[str]:
        """All files below, sorted; what is hidden, or in a hidden folder, is passed over."""
        ...

    def open(self, name: str) -> Any:
        """The file as a pyarrow.NativeFile, to be read at random."""
        ...

    def open_log(self, name: str) -> Log: ...

    def read_log(self, name: str) -> Iterator[bytes]:
        """The log's whole lines in order; none where there is no log. Changes nothing."""
        ...

    def delete_log(self, name: str) -> None: ...

    def lock(self, name: str) -> Lock:
        """Raises OutputError while another driver holds it."""
        ...

    def holder(self, name: str) -> str:
        """Who holds the lock, "" when no one does. Changes nothing."""
        ...

    def refuse_unfit(self) -> None:
        """Raises OutputError where no folder can be. Makes nothing."""
        ...

    def refuse_unwritable(self) -> None:
        """Raises OSError where nothing can be written, if that shows without writing."""
        ...

    def make(self, *folders: str) -> None:
        """Makes the root, and folders in it, where folders are things that must be made."""
        ...

    def settle(self, folder: str = "") -> None:
        """What was deleted in the folder stays deleted after a power cut."""
        ...

    def staged(self, final: str, attempt: str) -> str:
        """The name under which an attempt writes what `publish` then gives its final name; where
        files cannot be renamed, the final name itself."""
        ...

    def sink(self, name: str) -> Sink: ...

    def publish(self, staged: str, final: str) -> None: ...

    def unpublish(self, final: str) -> None:
        """Removes what another attempt may have published that this one has not."""
        ...

    def may_pass(self, error: Exception) -> bool:
        """Whether it tells nothing of the file: it was not asked for, or no answer came."""
        ...

    def trouble(self, error: OSError) -> OutputError:
        """What to raise for an OSError of this store: where, what happened, what to do."""
        ...


OWN = "_colonnade"
"""Our folder inside an output; readers of datasets pass over names with a leading _."""
TEMP = f"{OWN}/tmp"
"""Attempts being written, in stores that can rename."""

READ_NBYTES = 1 << 20
"""Of a file that is hashed, at once."""

REMOTE = ("s3", "gs")
"""Schemes of object stores."""


def is_url(text: str) -> bool:
    """Whether it names a place in an object store."""
    return scheme(text) in REMOTE


def scheme(text: str) -> str:
    """What stands before ://, "" in a path."""
    before, found, _ = text.partition("://")
    return before if found and before.isalnum() else ""


def as_path(text: str) -> str:
    """A file:// URL as the path that it names; anything else as it is."""
    return text.removeprefix("file://") if scheme(text) == "file" else text


def joined(where: str, name: str) -> str:
    """A name in a store, for people."""
    return f"{where.rstrip('/')}/{name}"


def is_hidden(name: str) -> bool:
    """Whether readers of datasets pass over it."""
    return name.startswith(("_", "."))


def checksum(store: Store, name: str, algorithm: str = WRITTEN) -> str:
    """Of a file's bytes, as a Sink makes it while writing."""
    with store.open(name) as file:
        found = Checksum(algorithm)
        while piece := file.read(READ_NBYTES):
            found.update(piece)
    return str(found)


def whole_lines(data: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without a torn last one, which a crash in mid-write leaves."""
    return (line for line in data if line.endswith(b"\n"))


def store_at(where: str | Path) -> Store:
    """The store at a path or a URL. Nothing is looked at yet."""
    if isinstance(where, str) and is_url(where):
        from pipeline.stores.objects import ObjectStore

        return ObjectStore(where)
    from pipeline.stores.local import LocalStore

    return LocalStore(Path(as_path(str(where))))
