"""Where memory for weights and panels begins, and in what pages it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models as small

import engine
from engine.reader import graph_of
from engine.weights import LARGE_PAGE, LINE, SLACK, Weights, aligned, room

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without large pages"
)


def asks_for_large_pages(array: Array) -> bool:
    """Of the page on which it begins, as the kernel tells it: it may still have none to give."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(end, 16) for end in first.split("-"))
            inside = low <= array.ctypes.data < high
        elif inside and first == "VmFlags:":
            return "hg" in line.split()
    raise AssertionError("expected the array in one of the process's mappings")


@pytest.mark.parametrize("nbytes", [1, 100_000, LARGE_PAGE - 1])
def test_what_fills_no_large_page_begins_on_a_cache_line(nbytes: int) -> None:
    for made in (aligned, lambda n: room(n, large_pages=True)):
        held = [made(nbytes) for _ in range(5)]
        assert all(a.nbytes == nbytes and a.ctypes.data % LINE == 0 for a in held)
        assert not any(a.any() for a in held)


@pytest.mark.parametrize("nbytes", [LARGE_PAGE, 9 << 20, LARGE_PAGE + 1])
def test_what_is_large_lies_in_the_large_pages_that_it_fills(nbytes: int) -> None:
    found = room(nbytes, large_pages=True)
    assert (found.nbytes, found.ctypes.data % LARGE_PAGE) == (nbytes, 0)
    assert not found.any()
    assert asks_for_large_pages(found)
    rest = nbytes % LARGE_PAGE
    if rest:  # a page of 2 MB for the rest of it would be memory that no plan knows of
        assert not asks_for_large_pages(found[-rest:])


def test_large_pages_can_be_turned_off() -> None:
    """Numpy's own, which it asks for from 4 MB on, too."""
    found = room(9 << 20, large_pages=False)
    assert (found.nbytes, found.ctypes.data % LARGE_PAGE) == (9 << 20, 0)
    assert not asks_for_large_pages(found)


def test_expected_weights_lie_side_by_side_each_with_its_slack() -> None:
    arrays = [np.full(n, n, np.float32) for n in (1, 12, 13, 300_000, 400_000)]
    weights = Weights(arrays)
    at = [weights.address(a) for a in arrays]
    assert at == [weights.address(a) for a in arrays]  # once each
    copies = weights.copies()
    assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))
    assert all(address % LINE == 0 for address in at)
    for array, begins, then in zip(arrays, at, at[1:], strict=False):
        assert SLACK <= then - begins - array.nbytes < SLACK + LINE
    assert asks_for_large_pages(copies[0])
    late = np.arange(5, dtype=np.float32)
    assert weights.address(late) % LINE == 0
    assert np.array_equal(weights.copies()[-1], late)


@pytest.mark.parametrize("pages", [True, False])
def test_a_session_has_its_weights_and_panels_in_large_pages(pages: bool) -> None:
    weights = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    nodes = [small.node("MatMul", "x w", "y")]
    model = small.model(nodes, {"x": ("N", 1024)}, {"y": ("N", 1024)}, {"w": weights})
    program = engine.compile(graph_of(model), pages=pages)
    x = np.ones((3, 1024), np.float32)
    with engine.Session(program, cpus=[0]) as session:
        (y,) = session.run({"x": x}).values()
        assert np.allclose(y, x @ weights, rtol=1e-4, atol=1e-3)
        largest = max(session.memory()["weights"], key=lambda a: a.nbytes)
        assert asks_for_large_pages(largest) == pages
