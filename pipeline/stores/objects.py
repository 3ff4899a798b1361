"""A folder in an object store: no rename, no append, no lock, but an object appears whole.

So an attempt is gathered in memory, and one PUT under its final name is its commit. Attempts of
one shard have the same bytes: a late one changes nothing. A log is an object for each append.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pyarrow.fs as pf

from pipeline.checksums import Checksum
from pipeline.errors import OutputError
from pipeline.stores import is_hidden, lease, whole_lines
from pipeline.stores.remote import (
    bucket_of,
    may_pass,
    put,
    refuse_missing_bucket,
    split,
    write_error,
)

READ_THREADS = 16
"""Small objects are waited for, not computed."""


class ObjectStore:
    """A Store where a file appears by the end of its upload."""

    def __init__(self, url: str) -> None:
        self.where = url.rstrip("/")

    def read(self, name: str) -> bytes:
        with self.open(name) as stream:
            return bytes(stream.read())

    def write(self, name: str, text: str | Iterable[str]) -> None:
        files, path = self._at(name)
        put(files, path, "".join(text).encode())

    def delete(self, *names: str) -> None:
        for name in names:
            files, path = self._at(name)
            with suppress(FileNotFoundError):
                files.delete_file(path)

    def nbytes(self, name: str) -> int:
        files, path = self._at(name)
        found = files.get_file_info(path)
        return int(found.size) if found.type == pf.FileType.File else -1

    def names(self, folder: str = "") -> list[str]:
        return sorted(found.base_name for found in self._listed(folder, recursive=False))

    def files(self) -> list[str]:
        _, root = self._at("")
        inside = (
            found.path[len(root) + 1 :]
            for found in self._listed("", recursive=True)
            if found.type == pf.FileType.File
        )
        return sorted(name for name in inside if not any(map(is_hidden, name.split("/"))))

    def open(self, name: str) -> Any:
        files, path = self._at(name)
        return files.open_input_file(path)

    def open_log(self, name: str) -> ObjectLog:
        return ObjectLog(self, name)

    def read_log(self, name: str) -> Iterator[bytes]:
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for piece in pool.map(self.read, self._pieces(name)):
                yield from whole_lines(io.BytesIO(piece))

    def delete_log(self, name: str) -> None:
        self.delete(*self._pieces(name))

    def lock(self, name: str) -> lease.Lease:
        files, path = self._at(name)
        return lease.Lease(files, path, self.where)

    def holder(self, name: str) -> str:
        files, path = self._at(name)
        return lease.holder(files, path)

    def refuse_unfit(self) -> None:
        refuse_missing_bucket(self.where)
        if self.where != bucket_of(self.where) and self.nbytes("") >= 0:
            raise OutputError(f"{self.where}: expected a folder, got an object; choose another")

    def refuse_unwritable(self) -> None:
        """Only a PUT could tell: a run makes its first one, of the lock, before anything else."""

    def make(self, *folders: str) -> None:
        """A folder is what keys have in common."""

    def settle(self, folder: str = "") -> None:
        """What a request has answered is so."""

    def staged(self, final: str, attempt: str) -> str:
        return final

    def sink(self, name: str) -> Upload:
        files, path = self._at(name)
        return Upload(files, path)

    def publish(self, staged: str, final: str) -> None:
        """It appeared by its upload."""

    def unpublish(self, final: str) -> None:
        """Attempts have the same bytes, so another one has published nothing more."""

    def may_pass(self, error: Exception) -> bool:
        return may_pass(error)

    def trouble(self, error: OSError) -> OutputError:
        return write_error(self.where, error)

    def _pieces(self, log: str) -> list[str]:
        return [f"{log}/{piece}" for piece in self.names(log)]

    def _at(self, name: str) -> tuple[Any, str]:
        files, root = split(self.where)
        return files, f"{root}/{name}".rstrip("/")

    def _listed(self, folder: str, *, recursive: bool) -> list[Any]:
        files, path = self._at(folder)
        selector = pf.FileSelector(path, recursive=recursive, allow_not_found=True)
        return list(files.get_file_info(selector))


class Upload:
    """A Sink in memory; `sync` sends all of it in one PUT (in pieces where it is large, and the
    store shows it when the last one has come)."""

    def __init__(self, files: Any, path: str) -> None:
        self._files, self._path = files, path
        self._held = io.BytesIO()
        self._closed = False
        self._hash = Checksum()
        self.nbytes = 0

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def checksum(self) -> str:
        return str(self._hash)

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.nbytes += len(view)
        return self._held.write(view)

    def flush(self) -> None:
        """Nothing goes out before all is there; Arrow calls it."""

    def sync(self) -> None:
        put(self._files, self._path, self._held.getbuffer())

    def close(self) -> None:
        self._closed = True
        self._held = io.BytesIO()


class ObjectLog:
    """A Log of objects, `name/00000012-RANDOM.jsonl`, read in the order of their numbers.

    Their names are unique: where a lease failed to keep two drivers apart, neither hides what the
    other wrote.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store, self._name = store, name
        self._number = len(store.names(name))

    def append(self, lines: bytes) -> None:
        piece = f"{self._number:08d}-{uuid.uuid4().hex[:8]}.jsonl"
        self._store.write(f"{self._name}/{piece}", lines.decode())
        self._number += 1

    def close(self) -> None:
        """Each append is done when it returns."""
