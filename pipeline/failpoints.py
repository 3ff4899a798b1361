"""Named places where a test may kill the process: the commit protocol's crash matrix.

`COLONNADE_FAILPOINT="name[:nth][=kill|crash|raise|stop]"`: the nth time (default 1st, counted in
each process) that `reach(name)` is called, the process kills itself with SIGKILL (default) or
SIGSEGV, raises `FailpointError`, or stops itself with SIGSTOP. `COLONNADE_FAILPOINT_ONCE=FILE`
makes it happen in one process only, whichever creates FILE first: so a restarted scorer lives.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

VARIABLE = "COLONNADE_FAILPOINT"
ONCE = "COLONNADE_FAILPOINT_ONCE"

_STAGES = ("read", "run", "encode", "fsync", "rename", "journal", "manifest")
NAMES: tuple[str, ...] = tuple(f"{when}_{s}" for s in _STAGES for when in ("before", "after"))
"""Every name. read, run, encode, fsync are reached in scorers, the others in the driver."""

SCORER_NAMES: tuple[str, ...] = NAMES[:8]
DRIVER_NAMES: tuple[str, ...] = NAMES[8:]

_SIGNALS = {"kill": signal.SIGKILL, "crash": signal.SIGSEGV, "stop": signal.SIGSTOP}

_reached: Counter[str] = Counter()


class FailpointError(Exception):
    """Raised by a failpoint set to `raise`; on purpose no PipelineError: nothing may expect it."""


def reach(name: str) -> None:
    """Does nothing unless the environment names this failpoint."""
    setting = os.environ.get(VARIABLE)
    if not setting:
        return
    target, _, action = setting.partition("=")
    target, _, nth = target.partition(":")
    if target not in NAMES or name not in NAMES:
        raise FailpointError(f"{VARIABLE}={setting}: expected one of {', '.join(NAMES)}")
    if name != target:
        return
    _reached[name] += 1
    if _reached[name] == int(nth or 1) and _first(os.environ.get(ONCE)):
        _act(name, action or "kill")


def _first(marker: str | None) -> bool:
    """Whether this process is the one to die: it created the marker, or there is none to make."""
    if not marker:
        return True
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _act(name: str, action: str) -> None:
    if action == "raise":
        raise FailpointError(f"failpoint {name}")
    if action not in _SIGNALS:
        raise FailpointError(
            f"failpoint {name}: expected kill, crash, raise or stop, got {action!r}"
        )
    os.kill(os.getpid(), _SIGNALS[action])
