"""A hook that looks at the scorer that it runs in: where its threads and its memory really are.

    colonnade run ... --after scripts.vm.witness:look

It changes no batch. With the first one, when the engine has run, it adds a line of JSON to
witness.jsonl below the folder that NUMA_VM_WITNESS names, and waits until there are as many as
NUMA_VM_WITNESSES says, or else a scorer that is ready first may do the whole job, where all of
them are slow; without a folder, it does nothing.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import Session
from numa import launch
from numa.affinity import thread_cpus
from numa.memory import pages_of
from numa.notation import cpulist

FOLDER, FILE, COUNT = "NUMA_VM_WITNESS", "witness.jsonl", "NUMA_VM_WITNESSES"
LONGEST_SECONDS = 240.0
"""To wait for others, many times what they take: the proof then lacks them, and says so."""
_seen: list[int] = []


def look(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch as it is."""
    folder = os.environ.get(FOLDER)
    if folder and batch.num_rows and not _seen:
        _seen.append(batch.num_rows)
        path = Path(folder) / FILE
        with path.open("a") as file:
            file.write(json.dumps(_facts(batch)) + "\n")
        _await(path, int(os.environ[COUNT]))
    return batch


def _await(path: Path, count: int) -> None:
    """Until the file has so many lines."""
    end = time.monotonic() + LONGEST_SECONDS
    while path.read_text().count("\n") < count and time.monotonic() < end:
        time.sleep(0.05)


def _facts(batch: pa.RecordBatch) -> dict[str, Any]:
    """What was asked for, and bytes by node of each kind of memory."""
    (session,) = (found for found in gc.get_objects() if isinstance(found, Session))
    held = session.memory()
    buffers = [b for column in batch.columns for b in column.buffers() if b is not None]
    return {
        "cpus": os.environ[launch.CPUS],
        "node": os.environ[launch.NODE],
        "bind": os.environ[launch.BIND],
        "threads": sorted(cpulist(mask) for mask in thread_cpus().values()),
        "weights": _pages((a.ctypes.data, a.nbytes) for a in held["weights"]),
        "panels": _pages((a.ctypes.data, a.nbytes) for a in held["panels"]),
        "arrow": _pages((b.address, b.size) for b in buffers),
    }


def _pages(blocks: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Bytes by node of some blocks, each an address and its bytes."""
    totals: dict[int, int] = {}
    for address, nbytes in blocks:
        for node, found in pages_of(address, nbytes).items():
            totals[node] = totals.get(node, 0) + found
    return totals
