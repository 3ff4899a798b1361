"""The lock on a run folder: one driver at a time, and who it is."""

from __future__ import annotations

import fcntl
import os
import platform
from pathlib import Path

from pipeline.errors import OutputError
from pipeline.records import LOCK


def take_lock(output: Path) -> int:
    """The descriptor that holds the folder's lock; the kernel drops it when the process dies."""
    handle = os.open(output / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        name = _name(handle)
        os.close(handle)
        raise _taken(output, name) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
    return handle


def holder(output: Path) -> str:
    """Who holds the folder's lock now, "" when no one does. Creates nothing."""
    try:
        handle = os.open(output / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _name(handle)
    finally:
        os.close(handle)
    return ""


def refuse_held(output: Path) -> None:
    """Raises what `take_lock` would raise, without taking the lock."""
    if name := holder(output):
        raise _taken(output, name)


def _name(handle: int) -> str:
    return os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"


def _taken(output: Path, name: str) -> OutputError:
    return OutputError(
        f"{output}: expected to be its only driver, but {name} is running here; "
        "wait for it, or choose another output"
    )
