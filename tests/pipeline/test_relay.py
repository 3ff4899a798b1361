"""Items of a queue through several threads."""

from __future__ import annotations

import threading
from queue import Queue

import pytest

from pipeline.relay import Relay


def queue_of(count: int) -> Queue[int | None]:
    inbox: Queue[int | None] = Queue()
    for item in range(count):
        inbox.put(item)
    inbox.put(None)
    return inbox


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order_whoever_is_done_first(threads: int) -> None:
    """With two threads an even item is done only when the odd one behind it is."""
    odd = {item: threading.Event() for item in range(40)}
    found: list[tuple[int, int]] = []

    def make(item: int) -> int:
        odd[item].set()
        if threads > 1 and item % 2 == 0:
            assert odd[item + 1].wait(60)
        return item * item

    def hand_on(item: int, made: int, began: float, ended: float) -> None:
        assert began <= ended
        found.append((item, made))

    Relay(queue_of(40), make, hand_on).run(threads, "relay")
    assert found == [(item, item * item) for item in range(40)]


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    Relay(queue_of(3), str, lambda *told: None).run(4, "relay")
    assert threading.active_count() == before


def test_items_are_handed_on_one_at_a_time() -> None:
    inside = threading.Lock()

    def hand_on(*told: object) -> None:
        assert inside.acquire(blocking=False)
        inside.release()

    Relay(queue_of(500), str, hand_on).run(3, "relay")
