"""SIGINT, SIGTERM and SIGHUP: the first one stops a job in good order, the second one at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from jobs.errors import INTERRUPTED, Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP comes when a terminal is closed; under nohup it is ignored, and stays so."""


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

    def __enter__(self) -> Interrupts:
        self._arm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, previous in self._before.items():
            signal.signal(number, previous)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that the first signal does not cut in two: it is raised at the end of it.

        For the start of Ray, which crashes at exit when an exception leaves it half connected,
        and which takes SIGTERM for itself: twice in Python, to exit with 15, and once in C++,
        to print a trace, set an alarm that aborts, and hand the signal on.
        """
        held: list[int] = []

        def note(number: int) -> None:
            signal.alarm(0)
            held.append(number)

        set_handler = signal.signal

        def keep_ours(number: int, handler: Any) -> Any:
            if number in _SIGNALS:
                return signal.getsignal(number)
            return set_handler(number, handler)

        self.notice = note
        signal.signal = keep_ours  # type: ignore[assignment]
        try:
            yield
        finally:
            signal.signal = set_handler
            self._arm()
            self.notice = None
        if held:
            raise Interrupted(held[0])

    def _arm(self) -> None:
        for number in _SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            previous = signal.signal(number, self._receive)
            self._before.setdefault(number, previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._noticed:
            os._exit(INTERRUPTED + number)
        self._noticed = True
        if self.notice is None:
            raise Interrupted(number)
        self.notice(number)
