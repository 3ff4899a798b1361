"""How a batch is cut: every row once, and no thread without rows that it could have."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from engine.cutting import GROUP_TILES, L3_OVER_L2, cut_rows, group_tiles
from engine.reader import graph_of
from engine.segments import Column
from scripts.models.mlp import mlp


@pytest.mark.parametrize("points", [16, 32])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("group", [1, 4])
def test_every_row_is_in_one_column(points: int, threads: int, group: int) -> None:
    for rows in range(1, 300):
        columns = cut_rows(rows, threads, points, group)
        found = np.concatenate([np.arange(first, first + n) for first, n, _, _ in columns])
        np.testing.assert_array_equal(found, np.arange(rows))
        assert columns[:, 1].max() <= group * points
        assert len(columns) <= max(threads, -(-rows // points))  # arenas are priced for so many


@pytest.mark.parametrize(
    ("rows", "threads", "sizes"),
    [
        (8, 2, [8]),  # four rows cost what eight do
        (9, 2, [8, 1]),
        (16, 2, [8, 8]),
        (32, 2, [16, 16]),
        (33, 2, [24, 9]),  # a tile and a row would take what a tile does
        (64, 2, [32, 32]),
        (96, 2, [48, 48]),
        (40, 4, [16, 16, 8]),
        (65, 2, [40, 25]),
        (256, 2, [128, 128]),
    ],
)
def test_few_rows_go_to_all_threads(rows: int, threads: int, sizes: list[int]) -> None:
    assert list(cut_rows(rows, threads, 32, 4)[:, 1]) == sizes


def test_columns_that_the_next_batch_gets_too_cannot_be_changed() -> None:
    columns = cut_rows(100, 2, 32, 1)
    assert cut_rows(100, 2, 32, 1) is columns
    with pytest.raises(ValueError, match="read-only"):
        columns[0, 0] = 1


@pytest.mark.parametrize("rows", [257, 3216, 3392, 4096, 4097])
@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("group", [1, 4])
def test_no_thread_waits_long_for_the_last(rows: int, threads: int, group: int) -> None:
    """Threads take columns in order, as they become free: the last ends a tile after the first."""
    ends = [0] * threads
    for tiles in -(-cut_rows(rows, threads, 32, group)[:, 1] // 32):
        ends[ends.index(min(ends))] += int(tiles)
    assert max(ends) - min(ends) <= (1 if rows > 32 * threads * group else group)


def test_most_tiles_are_in_whole_groups() -> None:
    columns = cut_rows(3392, 2, 32, 4)
    assert (columns[:, 1] == 4 * 32).sum() == 24
    assert (cut_rows(3392, 1, 32, 4)[:-1, 1] == 4 * 32).all()  # one thread waits for nobody


def test_tiles_share_weights_that_would_come_from_memory() -> None:
    (column,) = engine.compile(graph_of(mlp((64, 64, 64), 0.5))).segments
    assert isinstance(column, Column)
    found = column.as_sequences()
    linear = {id(a): a.nbytes for s in column.steps if s.multiply_adds for a in s.operands
              if isinstance(a, np.ndarray)}  # fmt: skip
    held = sum(linear.values()) // L3_OVER_L2
    assert group_tiles(found, held - 1) == GROUP_TILES
    assert group_tiles(found, held + 1) == 1
