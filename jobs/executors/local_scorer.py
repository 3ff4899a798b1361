"""The process of one local scorer: JSON lines in on stdin, events out on what was stdout.

    python -m numa.launch CPUS NODE -- python -m jobs.executors.local_scorer DRIVER_PID

It ends when its stdin does, and the kernel ends it when the driver dies, however the driver
dies: nothing it has not handed over is worth keeping.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from queue import SimpleQueue
from threading import Lock, Thread
from typing import IO

from jobs.executors.serving import decode, serve, warm_up

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Runs until killed or until stdin ends."""
    _die_with(int(sys.argv[1]))
    # Ctrl-C is for the driver, which then closes the pipes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.dup(1)
    # A library that reads stdin or prints must not eat or corrupt lines.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    inbox: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_receive, args=(requests, inbox), name="receive", daemon=True).start()
    lock = Lock()

    warm_up()
    # Heavy: not before stdin is watched.
    from pipeline.events import Event, to_json
    from pipeline.scorer_spec import ScorerSpec
    from pipeline.shards import Lease

    def emit(event: Event) -> None:
        line = memoryview(to_json(event).encode() + b"\n")
        with lock:
            while line:
                line = line[os.write(replies, line) :]

    spec = decode(ScorerSpec, inbox.get())
    serve(spec, lambda: decode(Lease, inbox.get()), emit)


def _receive(requests: IO[bytes], inbox: SimpleQueue[bytes]) -> None:
    """Move requests to the inbox, so that the driver's writes never wait for a busy scorer."""
    for line in requests:
        inbox.put(line)
    os._exit(0)


def _die_with(driver: int) -> None:
    """Ask the kernel for SIGKILL when the driver goes; best effort beside the end of stdin."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != driver:  # it went before the kernel was asked
        os._exit(0)


if __name__ == "__main__":
    main()
