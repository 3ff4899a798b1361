"""Pinning real threads of real processes."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from numa.affinity import pin_all_threads, pin_thread, thread_cpus
from numa.errors import NumaError

ALLOWED = sorted(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _affinity_as_before() -> Iterator[None]:
    yield
    pin_all_threads(ALLOWED)


@pytest.fixture
def sleepers() -> Iterator[list[int]]:
    """Thread ids of three threads of this process that wait."""
    end, ids = threading.Event(), []
    ready = threading.Barrier(4)

    def sleep() -> None:
        ids.append(threading.get_native_id())
        ready.wait()
        end.wait()

    threads = [threading.Thread(target=sleep) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    yield ids
    end.set()
    for thread in threads:
        thread.join()


def test_pins_the_calling_thread_only(sleepers: list[int]) -> None:
    pin_thread(ALLOWED[-1])
    masks = thread_cpus()
    assert masks[threading.get_native_id()] == {ALLOWED[-1]}
    assert [masks[tid] for tid in sleepers] == [set(ALLOWED)] * 3


def test_pins_every_thread_and_those_that_come(sleepers: list[int]) -> None:
    assert pin_all_threads(ALLOWED[:1]) >= 4
    masks = thread_cpus()
    assert masks.keys() >= {threading.get_native_id(), *sleepers}
    assert set(masks.values()) == {frozenset(ALLOWED[:1])}
    seen: list[frozenset[int]] = []
    late = threading.Thread(target=lambda: seen.append(thread_cpus()[threading.get_native_id()]))
    late.start()
    late.join()
    assert seen == [set(ALLOWED[:1])]


CHURN = """
import threading, time
def chain(end):
    if time.monotonic() < end:
        threading.Thread(target=chain, args=(end,)).start()
for _ in range(4):
    threading.Thread(target=chain, args=(time.monotonic() + 300,)).start()
print("ready", flush=True)
"""


def test_threads_that_appear_and_vanish_meanwhile() -> None:
    """Four chains of threads, each of which starts the next and ends."""
    with subprocess.Popen([sys.executable, "-c", CHURN], stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline() == b"ready\n"
        try:
            pin_all_threads(ALLOWED[:1], child.pid)
            for _ in range(100):
                assert set(thread_cpus(child.pid).values()) <= {frozenset(ALLOWED[:1])}
        finally:
            child.kill()


def test_a_cpu_that_is_not_there() -> None:
    with pytest.raises(
        NumaError, match="thread self: expected CPUs 60000, got Invalid argument; pick CPUs"
    ):
        pin_thread(60000)
    for number in (-1, 10**30):
        with pytest.raises(NumaError, match=f"expected CPUs {number}, got"):
            pin_thread(number)


def test_part_of_the_cpus_not_there() -> None:
    # The kernel calls this a success and pins to the rest.
    missing = os.cpu_count() or 1
    with pytest.raises(NumaError, match="the others are offline or outside the cpuset"):
        pin_all_threads([ALLOWED[0], missing + 7])


def test_no_cpus_at_all() -> None:
    with pytest.raises(NumaError, match="expected CPUs"):
        pin_all_threads([])


def test_a_process_that_is_not_there() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with pytest.raises(NumaError, match=f"process {ended.pid}: expected a live process"):
        thread_cpus(ended.pid)
