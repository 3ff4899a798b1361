"""A --before hook that does harm, if the environment says so: rows that kill, slow scorers."""

from __future__ import annotations

import os
from pathlib import Path

ROW = 130
"""The row that kills; it is in the third shard of the first file."""

SHARD = 2

MOST_NBYTES = 6 << 30
"""A hog gives up there: whatever should have stopped it did not."""

OPTIONS = ("--before", "misfortune:strike")

_SOURCE = f"""
import os, signal, threading, time

def crash():
    signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)  # this thread's, and at once

def hog():
    hoard = []
    while len(hoard) < {MOST_NBYTES >> 26}:
        hoard.append(b"x" * (1 << 26))
        time.sleep(0.02)
    raise MemoryError("nobody stopped me")

def strike(batch):
    act = os.environ.get("COLONNADE_TEST_ACT", "")
    if act == "dawdle":
        time.sleep(0.4)
    elif act and {ROW} in batch["id"].to_pylist():
        globals()[act]()
    return batch
"""


def hooked(folder: Path, act: str = "") -> dict[str, str]:
    """Environment of a job with OPTIONS whose hook, which is put into `folder`, does `act`."""
    (folder / "misfortune.py").write_text(_SOURCE)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "COLONNADE_TEST_ACT": act}
