"""Which CPUs threads may run on. The kernel keeps this for each thread, not for the process.

The launcher imports this before every engine, so it stays free of anything slow to import.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from numa.errors import NumaError
from numa.notation import cpulist

MAX_PASSES = 100
"""A thread that starts others faster than they are pinned this many times is not a pool."""


def pin_thread(cpu: int) -> None:
    """Keep the calling thread on one CPU."""
    _pin(0, frozenset({cpu}))


def pin_all_threads(cpus: Iterable[int], pid: int | str = "self") -> int:
    """Keep every thread of a process on `cpus`; how many there were.

    Threads may appear meanwhile with the old mask of the thread that started them, so this goes
    round until nothing is left to do; from then on all new threads inherit `cpus`.
    """
    wanted, clean_passes = frozenset(cpus), 0
    for _ in range(MAX_PASSES):
        before = thread_cpus(pid)
        astray = [tid for tid, mask in before.items() if mask != wanted]
        clean_passes = 0 if astray else clean_passes + 1
        if clean_passes == 2:  # the kernel's list can skip a thread when the one before it ends
            return len(before)
        for tid in astray:
            _pin(tid, wanted)
    raise NumaError(
        f"process {pid}: expected all threads on CPUs {cpulist(wanted)} after {MAX_PASSES} "
        "passes, got new ones each time; pin before the threads start"
    )


@contextmanager
def staying_on(cpus: Iterable[int], threads: Iterable[int] = (0,)) -> Iterator[None]:
    """Some threads of this process (0 is the caller) on `cpus` meanwhile, and those they start."""
    wanted = frozenset(cpus)
    before: dict[int, frozenset[int]] = {}
    try:
        for tid in threads:
            try:
                before[tid] = frozenset(os.sched_getaffinity(tid))
            except ProcessLookupError:
                continue  # it ended
            _pin(tid, wanted)
        yield
    finally:
        for tid, mask in before.items():
            _pin(tid, mask)


def thread_cpus(pid: int | str = "self") -> dict[int, frozenset[int]]:
    """The CPUs that each live thread of a process may run on, by thread id."""
    try:
        names = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - pathlib is slow to import
    except OSError as error:
        raise NumaError(f"process {pid}: expected a live process, got {error.strerror}") from error
    found: dict[int, frozenset[int]] = {}
    for tid in map(int, names):
        try:
            found[tid] = frozenset(os.sched_getaffinity(tid))
        except ProcessLookupError:
            continue  # it ended since the folder was listed
    return found


def _pin(tid: int, cpus: frozenset[int]) -> None:
    """Set and check one thread's mask (0 is the caller); a thread that has ended is passed over."""
    try:
        os.sched_setaffinity(tid, cpus)
        # The kernel drops the CPUs that the cpuset forbids and reports success if any is left.
        held = frozenset(os.sched_getaffinity(tid))
    except ProcessLookupError:
        return
    except (OSError, ValueError, OverflowError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise NumaError(
            f"thread {tid or 'self'}: expected CPUs {cpulist(cpus)}, got {said}; "
            "pick CPUs that are online and allowed"
        ) from error
    if held != cpus:
        raise NumaError(
            f"thread {tid or 'self'}: expected CPUs {cpulist(cpus)}, got {cpulist(held)}; "
            "the others are offline or outside the cpuset"
        )
