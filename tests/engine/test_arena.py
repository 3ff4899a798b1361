"""Panels that live together never overlap, and those that do not share memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.arena import LINE, Lifetime, plan

lifetimes = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 10)), max_size=25
)


@given(lifetimes)
def test_nothing_alive_overlaps(drawn: list[tuple[int, int, int]]) -> None:
    lives = [Lifetime(f"p{i}", n, a, a + d) for i, (n, a, d) in enumerate(drawn)]
    arena = plan(lives)
    for i, one in enumerate(lives):
        a = arena.offset(one.name)
        assert a % LINE == 0
        assert a + one.nbytes <= arena.nbytes
        for two in lives[:i]:
            b = arena.offset(two.name)
            if one.meets(two):
                assert a + one.nbytes <= b or b + two.nbytes <= a


def test_a_chain_needs_its_two_largest_neighbours() -> None:
    sizes = [640, 1280, 1280, 64]
    lives = [Lifetime(f"p{i}", n, i, i + 1) for i, n in enumerate(sizes)]
    assert plan(lives).nbytes == 2560


def test_an_empty_arena_is_empty() -> None:
    assert plan([]).nbytes == 0
