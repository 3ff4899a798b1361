"""A folder of this machine or of a network file system: write, sync, rename, sync the folder."""

# ruff: noqa: PTH105, PTH106, PTH108, PTH110, PTH116, PTH208 - see LocalStore._at

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.durable import (
    HashedFile,
    disk_error,
    refuse_unwritable,
    replace_text,
    sync_folder,
)
from pipeline.errors import OutputError
from pipeline.lock import FileLock, holder
from pipeline.stores import TEMP, is_hidden, whole_lines

TAIL_NBYTES = 1 << 16
"""Of a log, read at once for its last whole line."""


class LocalStore:
    """A Store where a file appears by a rename."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)

    def _at(self, name: str) -> str:
        """A file's path. Not by pathlib, which was two fifths of what a commit costs the driver."""
        return f"{self.where}/{name}"

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, text: str | Iterable[str]) -> None:
        replace_text(self.root / name, [text] if isinstance(text, str) else text)

    def delete(self, *names: str) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._at(name))
            folder = name
            while "=" in (folder := folder.rpartition("/")[0]).rpartition("/")[2]:
                with contextlib.suppress(OSError):  # partition folders go with their last part
                    os.rmdir(self._at(folder))

    def nbytes(self, name: str) -> int:
        try:
            return os.stat(self._at(name)).st_size
        except FileNotFoundError:
            return -1

    def names(self, folder: str = "") -> list[str]:
        try:
            return sorted(os.listdir(self._at(folder)))
        except FileNotFoundError:
            return []

    def files(self) -> list[str]:
        found: list[str] = []
        for folder, folders, names in os.walk(self.where):
            folders[:] = [f for f in folders if not is_hidden(f)]
            inside = folder[len(self.where) :].strip("/")
            before = f"{inside}/" if inside else ""
            found += [before + name for name in names if not is_hidden(name)]
        found.sort()
        return found

    def open(self, name: str) -> Any:
        return pa.OSFile(str(self.root / name), "rb")

    def open_log(self, name: str) -> FileLog:
        return FileLog(self.root / name)

    def read_log(self, name: str) -> Iterator[bytes]:
        with contextlib.suppress(FileNotFoundError), (self.root / name).open("rb") as file:
            yield from whole_lines(file)

    def delete_log(self, name: str) -> None:
        self.delete(name)

    def lock(self, name: str) -> FileLock:
        return FileLock(self.root, name)

    def holder(self, name: str) -> str:
        return holder(self.root, name)

    def refuse_unfit(self) -> None:
        if self.root.is_symlink() and not self.root.exists():
            raise OutputError(
                f"{self.root}: expected a folder, got a link to {self.root.readlink()}, which does "
                "not exist; make that folder, or choose another output"
            )
        if self.root.exists() and not self.root.is_dir():
            raise OutputError(f"{self.root}: expected a folder, got a file; choose another output")

    def refuse_unwritable(self) -> None:
        refuse_unwritable(self.root)

    def make(self, *folders: str) -> None:
        for folder in folders:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        sync_folder(self.root.absolute().parent)
        for folder in folders:
            sync_folder((self.root / folder).parent)

    def settle(self, folder: str = "") -> None:
        sync_folder(self.root / folder)

    def staged(self, final: str, attempt: str) -> str:
        stem, _, suffix = final.rpartition("/")[2].partition(".")
        return f"{TEMP}/{stem}.{attempt}.{suffix}"

    def sink(self, name: str) -> HashedFile:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return HashedFile(path)

    def publish(self, staged: str, final: str) -> None:
        folder = final.rpartition("/")[0]
        if not os.path.exists(self._at(folder)):
            self.make(folder)
        os.replace(self._at(staged), self._at(final))
        sync_folder(self._at(folder))

    def unpublish(self, final: str) -> None:
        self.delete(final)

    def may_pass(self, error: Exception) -> bool:
        return False

    def trouble(self, error: OSError) -> OutputError:
        return disk_error(self.root, error)


class FileLog:
    """A Log in one file, each append synced."""

    def __init__(self, path: Path) -> None:
        """Opens or creates it, cutting a torn last line off. Raises OSError."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        nbytes = os.fstat(self._file).st_size
        self._nbytes = _whole_nbytes(self._file, nbytes)
        if self._nbytes != nbytes:
            os.ftruncate(self._file, self._nbytes)
            os.fsync(self._file)

    def append(self, lines: bytes) -> None:
        """Raises OSError; then the log is as it was before, as far as the disk allows."""
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


def _whole_nbytes(file: int, nbytes: int) -> int:
    """Bytes of a file up to the end of its last whole line, looked for from its end."""
    while nbytes:
        first = max(0, nbytes - TAIL_NBYTES)
        found = os.pread(file, nbytes - first, first).rfind(b"\n")
        if found >= 0:
            return first + found + 1
        nbytes = first
    return 0
