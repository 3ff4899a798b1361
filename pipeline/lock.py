"""The lock on a run folder: one driver at a time, and who it is."""

from __future__ import annotations

import fcntl
import os
import platform
from pathlib import Path

from pipeline.errors import OutputError


class FileLock:
    """Holds the lock of a folder; the kernel drops it when the process dies."""

    def __init__(self, output: Path, name: str) -> None:
        handle = os.open(output / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _name(handle)
            os.close(handle)
            raise taken(str(output), who) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{this_process()}\n".encode(), 0)
        self._handle = handle

    def check(self) -> None:
        """It cannot be lost."""

    def release(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def holder(output: Path, name: str) -> str:
    """Who holds the folder's lock now, "" when no one does. Creates nothing."""
    try:
        handle = os.open(output / name, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _name(handle)
    finally:
        os.close(handle)
    return ""


def this_process() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def taken(where: str, who: str) -> OutputError:
    """The error of whoever finds another driver at work."""
    return OutputError(
        f"{where}: expected to be its only driver, but {who} is running here; "
        "wait for it, or choose another output"
    )


def _name(handle: int) -> str:
    return os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
