"""What several threads make of the items of a queue, handed on in the order of the queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Queue
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Relay(Generic[T, R]):
    """`make` turns items into results, on several threads; `hand_on` takes item, result and the
    times when `make` began and ended, one item at a time and in their order."""

    def __init__(
        self,
        inbox: Queue[T | None],
        make: Callable[[T], R],
        hand_on: Callable[[T, R, float, float], None],
    ) -> None:
        self._inbox, self._make, self._hand_on = inbox, make, hand_on
        self._taking = threading.Lock()
        self._order = threading.Condition()
        self._taken = self._handed_on = 0
        self._ended = False

    def run(self, threads: int, name: str) -> None:
        """Returns when all items before the None in the inbox are handed on. The caller is one of
        the threads, the others have a number behind their name."""
        others = [
            threading.Thread(target=self._loop, name=f"{name}-{number}", daemon=True)
            for number in range(2, threads + 1)
        ]
        for thread in others:
            thread.start()
        self._loop()
        for thread in others:
            thread.join()

    def _loop(self) -> None:
        while (taken := self._take()) is not None:
            number, item = taken
            began = time.perf_counter()
            result = self._make(item)
            ended = time.perf_counter()
            with self._order:
                self._order.wait_for(lambda turn=number: self._handed_on == turn)  # type: ignore[misc]
                try:
                    self._hand_on(item, result, began, ended)
                finally:
                    self._handed_on += 1
                    self._order.notify_all()

    def _take(self) -> tuple[int, T] | None:
        with self._taking:
            item = None if self._ended else self._inbox.get()
            if item is None:
                self._ended = True
                return None
            self._taken += 1
            return self._taken - 1, item
