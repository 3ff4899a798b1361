"""Input files, wherever they lie: on a file system by path, or in an object store by URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pyarrow as pa
import pyarrow.fs as pf

from pipeline.errors import InputError
from pipeline.stores import is_url
from pipeline.stores.remote import read_error, split

BUFFER_NBYTES = 1 << 20
"""Read-ahead for each Parquet column; without it a whole compressed column chunk is held."""
REMOTE_BUFFER_NBYTES = 8 << 20
"""The same where each read is a request, which takes tens of milliseconds before its first byte."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file is known by; compared again when it is read."""

    nbytes: int
    mtime_ns: int


def facts(path: str) -> Facts:
    """Raises OSError; InputError for what is no file."""
    if not is_url(path):
        stat = Path(path).stat()
        if not S_ISREG(stat.st_mode):  # a pipe would be waited for, for ever
            raise InputError(f"{path}: expected a file, got a pipe, socket or device; {AGAIN}")
        return Facts(stat.st_size, stat.st_mtime_ns)
    files, key = split(path)
    found = files.get_file_info(key)
    if found.type != pf.FileType.File:
        raise FileNotFoundError(2, "no such object")
    return Facts(int(found.size), int(found.mtime_ns or 0))


def opened(path: str) -> Any:
    """A pyarrow.NativeFile to read at random. Raises OSError."""
    if not is_url(path):
        return pa.OSFile(path, "rb")
    files, key = split(path)
    return files.open_input_file(key)


def mapped(path: str) -> Any:
    """The same, but memory-mapped where that can be: what is read of it is not copied."""
    return opened(path) if is_url(path) else pa.memory_map(path)


def buffer_nbytes(path: str) -> int:
    return REMOTE_BUFFER_NBYTES if is_url(path) else BUFFER_NBYTES


AGAIN = "copy or write it again, or leave it out of --input"


@contextmanager
def naming(where: str, path: str, what: str, advice: str) -> Iterator[None]:
    """What goes wrong inside comes out as InputError, `WHERE: WHAT: reason; ADVICE`; as
    StorageError where an object store may well answer the next time."""
    try:
        yield
    except OSError as e:
        if is_url(path) and not isinstance(e, pa.ArrowException):
            raise read_error(where, e) from e
        raise InputError(f"{where}: {what}: {_said(e)}; {advice}") from e
    except (pa.ArrowException, KeyError) as e:
        raise InputError(f"{where}: {what}: {_said(e)}; {advice}") from e


def _said(error: Exception) -> str:
    """Its first line: Arrow ends some of its messages with an empty one."""
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
