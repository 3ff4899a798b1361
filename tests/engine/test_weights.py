"""Where memory for weights and panels begins."""

from __future__ import annotations

import pytest

from engine.weights import LARGE_PAGE, LINE, aligned


@pytest.mark.parametrize(
    ("nbytes", "boundary"),
    [(1, LINE), (100_000, LINE), (2 * LARGE_PAGE, LARGE_PAGE), (9 << 20, LARGE_PAGE)],
)
def test_what_is_large_begins_on_a_large_page(nbytes: int, boundary: int) -> None:
    held = [aligned(nbytes) for _ in range(5)]
    assert all(a.nbytes == nbytes and a.ctypes.data % boundary == 0 for a in held)
    assert not any(a.any() for a in held)
