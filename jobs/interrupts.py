"""SIGINT and SIGTERM: the first one stops a job in good order, the second one at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from jobs.errors import INTERRUPTED, Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which signals are taken: raised as Interrupted, or passed to `notice`.

    While `notice` is set (the driver's loop runs) the first signal only leaves a note, so that
    a commit is never cut in two. A second signal ends the process on the spot; scorers die with
    it, and the commit protocol takes any moment of death.
    """

    def __init__(self) -> None:
        self.notice: Callable[[int], None] | None = None
        self._noticed = False
        self._before: dict[int, Any] = {}

    def arm(self) -> None:
        """Take the signals over; again after Ray, which takes SIGTERM for itself."""
        for number in _SIGNALS:
            previous = signal.signal(number, self._receive)
            self._before.setdefault(number, previous)

    def __enter__(self) -> Interrupts:
        self.arm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, previous in self._before.items():
            signal.signal(number, previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._noticed:
            os._exit(INTERRUPTED + number)
        self._noticed = True
        if self.notice is None:
            raise Interrupted(number)
        self.notice(number)
