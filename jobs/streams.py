"""Streams: a job goes on when nobody listens to it any more (`| head -1`, a closed terminal), and
what others print in its process does not get between its own words on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import ParamSpec, TextIO

P = ParamSpec("P")

_STDOUT = 1

_ours: list[TextIO] = []
"""Stdout, while what others print is turned aside; the latest last."""


def stdout() -> TextIO:
    """What a job says on stdout goes here."""
    return _ours[-1] if _ours else sys.stdout


@contextmanager
def others_aside() -> Iterator[None]:
    """A block in which only `stdout()` is stdout: what others print there goes to stderr. A thread
    of Ray's prints of workers and machines that died, and a user's hook may print, too."""
    with ExitStack() as undo:
        ours = sys.stdout
        aside = _handle(sys.stderr)
        if _handle(ours) == _STDOUT and aside is not None:  # no stand-in: C may print there, too
            ours.flush()
            ours = undo.enter_context(
                os.fdopen(os.dup(_STDOUT), "w", encoding=ours.encoding, errors=ours.errors)
            )
            os.dup2(aside, _STDOUT)
            undo.callback(os.dup2, ours.fileno(), _STDOUT)
        _ours.append(ours)
        undo.callback(_ours.pop)
        undo.enter_context(redirect_stdout(sys.stderr))
        yield


def _handle(stream: TextIO) -> int | None:
    """Its descriptor, where it has one."""
    try:
        return stream.fileno()
    except OSError:
        return None


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
            for stream in (stdout(), sys.stderr):  # here, rather than at the interpreter's end
                stream.flush()
        except OSError:
            _silence()

    return spoken


def _silence() -> None:
    for stream in (stdout(), sys.stderr):
        try:
            stream.flush()  # what could not be written is still in the buffer
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
