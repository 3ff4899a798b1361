"""Files that are whole or absent: write, sync, rename, sync the folder."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.checksums import Checksum
from pipeline.errors import OutputError, StorageError

DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE)


def disk_error(output: Path, error: OSError) -> OutputError:
    """The error to raise for an OSError met while writing below `output`."""
    message = f"{output}: cannot write: {error}; nothing half-written is published"
    if error.errno in DISK_TROUBLE:
        return StorageError(f"{message}; {disk_advice(error)}")
    return OutputError(f"{message}; check who may write there, or choose another output")


def disk_advice(error: OSError) -> str:
    """What to do about a disk that does not take what is written."""
    if error.errno == errno.EROFS:
        return "make the file system writable, or choose another output"
    return "make room, then run the same command to go on"


def refuse_unwritable(output: Path) -> None:
    """Raises the OSError that making the folder, or a file in it, would raise. Makes nothing."""
    there = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if os.access(there, os.W_OK | os.X_OK):
        return
    fixed = os.statvfs(there).f_flag & os.ST_RDONLY
    code = errno.EROFS if fixed else errno.EACCES
    raise OSError(code, os.strerror(code), str(there))


def sync_folder(folder: Path | str) -> None:
    """Makes renames inside the folder survive a power cut, where the file system knows how."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems say so
            raise
    finally:
        os.close(handle)


def replace_text(path: Path, text: Iterable[str]) -> None:
    """The file holds all pieces of `text`, or what it held before, whatever happens."""
    temp = path.with_name(f"{path.name}.tmp")
    try:
        with temp.open("w") as file:
            file.writelines(text)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise
    sync_folder(path.parent)


class HashedFile:
    """A file that is only appended to, and hashed on the way, so that it is not read again."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self._hash = Checksum()
        self.nbytes = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    @property
    def checksum(self) -> str:
        return str(self._hash)

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.nbytes += len(view)
        while view:
            # A raw file may take less than it was given (a nearly full disk does).
            view = view[self._file.write(view) :]
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered; Arrow calls it."""

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
