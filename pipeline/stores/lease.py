"""A lock in an object store, which has none: a lease that its holder renews.

What it promises: a driver that started a while after another finds it and stops; so does one
that was frozen until another took over. What it cannot promise: of two drivers that start within
the same second, or of one that the store cuts off from its lease, both may go on for up to
STALE_SECONDS. No part is lost by it: parts of one run have one name and the same bytes whoever
makes them, and another run is refused by its fingerprint. But one driver's sweep may remove rejects
that the other's scorer has just sent, before their part; `verify` then misses them.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError
from pipeline.lock import taken, this_process
from pipeline.stores.remote import put

RENEW_SECONDS = 5.0
STALE_SECONDS = 20.0
"""A lease that stayed the same for so long, by the watcher's own clock, has lost its holder."""
_LOOK_SECONDS = 0.5


class Lease:
    """Holds the lock object; a thread of its own renews it."""

    def __init__(self, files: Any, path: str, where: str) -> None:
        self._files, self._path, self._where = files, path, where
        self._token = uuid.uuid4().hex
        self._count = 0
        self._lost = ""
        self._ended = threading.Event()
        self._watch_the_former()
        self._renew()
        found = read(files, path)
        if found.get("token") != self._token:  # another driver started at the same moment
            raise taken(where, _who(found))
        self._thread = threading.Thread(target=self._renewing, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        if self._lost:
            raise OutputError(
                f"{self._where}: expected to be its only driver, but {self._lost} took over; "
                "this one was silent for too long"
            )

    def release(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            if read(self._files, self._path).get("token") == self._token:
                self._files.delete_file(self._path)

    def _watch_the_former(self) -> None:
        """Returns once there is no holder, or none that shows life; raises for one that does."""
        first = read(self._files, self._path)
        until = time.monotonic() + STALE_SECONDS
        while first and not is_dead(first):
            if time.monotonic() > until:
                return
            time.sleep(_LOOK_SECONDS)
            now = read(self._files, self._path)
            if now and now != first:
                raise taken(self._where, _who(now))
            if not now:
                return

    def _renew(self) -> None:
        self._count += 1
        said = {"who": this_process(), "token": self._token, "count": self._count} | _home()
        put(self._files, self._path, json.dumps(said).encode())

    def _renewing(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(OSError):  # the store's bad minute: what is written will tell
                found = read(self._files, self._path)
                if found.get("token", self._token) != self._token:
                    self._lost = _who(found)
                    return
                self._renew()


def read(files: Any, path: str) -> dict[str, Any]:
    """What stands in the lock object, {} where there is none."""
    try:
        with files.open_input_file(path) as stream:
            found = json.loads(stream.read())
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"who": "another process"}
    return found if isinstance(found, dict) else {"who": "another process"}


def holder(files: Any, path: str) -> str:
    """Who holds the lease, "" where no one does or it was not renewed for a while."""
    found = read(files, path)
    if not found or is_dead(found):
        return ""
    changed = files.get_file_info(path).mtime_ns
    # Two clocks are compared here: this is told to people, and decides nothing.
    silent = time.time() - changed / 1e9 if changed else 0.0
    return "" if silent > 2 * STALE_SECONDS else _who(found)


def is_dead(found: dict[str, Any]) -> bool:
    """Whether the holder was a process of this very machine and is gone."""
    home = _home()
    if any(found.get(name) != home[name] for name in ("host", "boot", "space")):
        return False
    try:
        os.kill(int(found.get("pid", 0)), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, TypeError):
        return False
    return False


def _who(found: dict[str, Any]) -> str:
    return str(found.get("who") or "another process")


def _home() -> dict[str, Any]:
    """Where a number of a process means something: a host since its start, a name space."""
    boot = space = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = str(Path("/proc/self/ns/pid").readlink())
    return {"host": platform.node(), "boot": boot, "space": space, "pid": os.getpid()}
