"""Claims: a place that no other process of this machine has, for as long as its holder lives.

One lock file a CPU, in a folder of this user's; the kernel drops a lock when its process dies,
however it dies. Locks are advisory: they tell claimants apart, and hold nobody else off a CPU.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from numa.errors import NumaError
from numa.notation import cpulist
from numa.placement import Place

FOLDER = "COLONNADE_CLAIMS"
"""Environment variable that names another folder for the locks: processes that do not share one
do not see each other's claims, as in containers with a /tmp of their own."""

_PAUSE_SECONDS = 0.1
"""Between two looks at places that are all held."""


@dataclass(slots=True)
class Claim:
    """A place and the locks on its CPUs. `close` gives it back; so does the process's end."""

    place: Place
    _handles: list[int]

    def close(self) -> None:
        while self._handles:
            os.close(self._handles.pop())

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def claim(places: Sequence[Place], folder: Path | None = None, patience: float = 0.0) -> Claim:
    """The first of the places of which every CPU is free.

    Asks again for `patience` seconds, for a holder that is about to end, and then raises NumaError.
    """
    folder = folder or _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    while True:
        for place in places:
            handles = _lock_all(folder, place.cpus)
            if handles is not None:
                return Claim(place, handles)
        if time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE_SECONDS)
    taken = " and ".join(cpulist(place.cpus) for place in places)
    raise NumaError(
        f"claim: expected a free place on this machine, got CPUs {taken}, each held "
        "by another process; start fewer engines here, or let it end"
    )


def _folder() -> Path:
    named = os.environ.get(FOLDER)
    return Path(named) if named else Path(tempfile.gettempdir(), f"colonnade-{os.getuid()}")


def _lock_all(folder: Path, cpus: Iterable[int]) -> list[int] | None:
    """Open files with a lock on each CPU; None, and no lock, where one of them is held.

    In ascending order, so that of two claimants of overlapping places one gets its own.
    """
    handles: list[int] = []
    for cpu in sorted(cpus):
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(folder / f"cpu-{cpu}", flags, 0o600)
        handles.append(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for held in handles:
                with suppress(OSError):
                    os.close(held)
            return None
    return handles
