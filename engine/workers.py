"""Pinned threads: one for each processor of a session."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from numa.affinity import pin_thread


class Workers:
    """Pinned threads that run one callable each, together."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._inbox: list[queue.SimpleQueue[Callable[[int], None] | None]] = []
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._threads = []
        for index, cpu in enumerate(cpus):
            self._inbox.append(queue.SimpleQueue())
            thread = threading.Thread(
                target=self._work, args=(index, cpu), name=f"column-{cpu}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def _work(self, index: int, cpu: int) -> None:
        problem: BaseException | None = None
        try:
            pin_thread(cpu)
        except Exception as error:  # told to whoever runs first: a thread cannot raise to anyone
            problem = error
        while True:
            task = self._inbox[index].get()
            if task is None:
                return
            try:
                if problem is not None:
                    raise problem
                task(index)
            except BaseException as error:
                self._done.put(error)
            else:
                self._done.put(None)

    def __len__(self) -> int:
        return len(self._threads)

    def run(self, task: Callable[[int], None]) -> None:
        """task(index) on every thread; returns when all are done, raises what one of them did."""
        for inbox in self._inbox:
            inbox.put(task)
        problems = [p for p in (self._done.get() for _ in self._inbox) if p is not None]
        if problems:
            raise problems[0]

    def close(self) -> None:
        for inbox in self._inbox:
            inbox.put(None)
        for thread in self._threads:
            thread.join()
