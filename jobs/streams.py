"""Streams: a job goes on when nobody listens to it any more (`| head -1`, a closed terminal)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

P = ParamSpec("P")


def open_missing() -> None:
    """Python has no stream for a descriptor that was closed before its start (`>&-`)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - while we live


def heedless(speak: Callable[P, None]) -> Callable[P, None]:
    """`speak`, with stdout or stderr sent to nowhere once it cannot be written."""

    def spoken(*args: P.args, **named: P.kwargs) -> None:
        try:
            speak(*args, **named)
            for stream in (sys.stdout, sys.stderr):  # here, rather than at the interpreter's end
                stream.flush()
        except OSError:
            _silence()

    return spoken


def _silence() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # what could not be written is still in the buffer
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
