"""Pinned threads: one for each processor of a session."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Sequence

from numa.affinity import pin_thread
from numa.processor import numa_node

Task = Callable[[int], None]
Done = queue.SimpleQueue[BaseException | None]
Inbox = queue.SimpleQueue[tuple[Task, Done] | None]


class Workers:
    """Pinned threads that run one callable each, together. They end with `close`, or when nobody
    holds this object any more: the threads themselves hold their inbox and nothing else."""

    def __init__(self, cpus: Sequence[int]) -> None:
        nodes = [numa_node(cpu) for cpu in cpus]
        self.heads = tuple(nodes.index(node) for node in nodes)
        """For each thread the first one on its NUMA node: what a node reads, its head writes."""
        self._inboxes: list[Inbox] = []
        self._threads: list[threading.Thread] = []
        weakref.finalize(self, _end, self._inboxes).atexit = False
        for index, cpu in enumerate(cpus):
            inbox: Inbox = queue.SimpleQueue()
            thread = threading.Thread(
                target=_work, args=(index, cpu, inbox), name=f"column-{cpu}", daemon=True
            )
            self._inboxes.append(inbox)
            thread.start()
            self._threads.append(thread)

    def __len__(self) -> int:
        return len(self._threads)

    def run(
        self, task: Task, abandon: Callable[[], None] = lambda: None, threads: int | None = None
    ) -> None:
        """task(index) on every thread, or on the first `threads` of them: who has nothing to do is
        not woken. Returns when all are done, raises what one of them did.

        When the caller is interrupted meanwhile, `abandon` is called to make the tasks end early,
        and the interruption goes on after they did. A second interruption does not wait for them:
        so a task must hold what it reads and writes.
        """
        try:
            problems = self._all(task, threads)
        except BaseException:
            abandon()
            self._all(_nothing, threads)  # who has done this has done whatever came before
            raise
        if problems:
            raise problems[0]

    def run_heads(self, task: Task) -> None:
        """task(index) on the first thread of each NUMA node, one after the other."""
        for head in sorted(set(self.heads)):

            def alone(index: int, head: int = head) -> None:
                if index == head:
                    task(index)

            self.run(alone)

    def _all(self, task: Task, threads: int | None) -> list[BaseException]:
        done: Done = queue.SimpleQueue()  # of this call alone: an interrupted one leaves tokens
        woken = self._inboxes[:threads]
        for inbox in woken:
            inbox.put((task, done))
        return [p for p in (done.get() for _ in woken) if p is not None]

    def close(self) -> None:
        _end(self._inboxes)
        for thread in self._threads:
            thread.join()


def _work(index: int, cpu: int, inbox: Inbox) -> None:
    problem: BaseException | None = None
    try:
        pin_thread(cpu)
    except Exception as error:  # told to whoever runs first: a thread cannot raise to anyone
        problem = error
    while (found := inbox.get()) is not None:
        task, done = found
        outcome = problem
        try:
            if problem is None:
                task(index)
        except BaseException as error:
            outcome = error
        del found, task  # an idle thread keeps no batch and no session alive
        done.put(outcome)
        del outcome, done


def _end(inboxes: Sequence[Inbox]) -> None:
    for inbox in inboxes:
        inbox.put(None)


def _nothing(index: int) -> None:
    """A task that is done as soon as its turn comes."""
