"""How a batch is cut into columns: neither results nor their bytes depend on it.

A column of rows is some tiles of rows, a column of sequences some whole sequences. Within a stretch
a column's tiles go through the steps in groups: a step reads its weights once from where they come
from, and again from a cache that is nearer for the rest of the group.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np

from engine.kernels.table import NARROW
from engine.segments import Sequences, Stretch, arrays_of

Array = np.ndarray[Any, Any]

COLUMN_TOKENS = 256
"""Tokens of a column at most, unless one sequence is longer: half a tile is lost at its end, so
3 % of so many."""
COLUMNS_A_THREAD = 4
"""Columns of sequences that a thread has to take, at least, where there are enough: so that none
waits long for the last."""
PARTS = {2: (0.0, 0.6, 1.0), 4: (0.0, 0.37, 0.57, 0.83, 1.0)}
"""What eight rows of a tile take, and 16 and so on, against a full one of 16 or 32: sell4 at 90 %
zeros on Zen 4 (2026-11-29), of 16 points with AVX2's code."""
GROUP_TILES = 4
"""Tiles of a group at most: the fourth saves 1/12 of what the weights' stream costs."""
LAST_COLUMNS = 2
"""Columns that a thread would have of the rest, if all were as large as the next one. With columns
alike, 3,392 rows were 26 and a half for two threads, and a job of one engine on both cores of a Zen
4 was 0.83 of the engine alone, where it is 0.86 so (2026-11-30, three rounds)."""
TILES_MORE = 8
"""Arenas grow by so many tiles, so that slightly longer columns need no new ones."""
L2_SHARE = 0.75
"""Of L2, for the panels of a group where weights are in slabs; the rest is for a slab."""
L3_OVER_L2 = 4
"""What a core may count on of the L3 that it shares, in its own L2s: Zen 4 has 32 MB for eight
cores of 1 MB each, and nobody else gives more. BERT-base, 8 sequences of 128 tokens, Zen 4, whose
stretches have 8.5, 4.2 and 2.1 MB of weights with 80, 90 and 95 % zeros, milliseconds in groups of
one tile and of four, in turn (2026-11-30): on one core 515 and 513, 311 and 314, 205 and 211, on
two 285 and 266 (319 and 271 in another run), 174 and 167, 110 and 111."""


def group_tiles(segment: Sequences, l2_nbytes: int) -> int:
    """Tiles of a group. Where weights are in slabs, as many as L2 holds inputs of a step for; else
    as many as there may be if the weights of a stretch would come from memory for each tile, and
    one if they come from L3, so that panels stay in L2."""
    linear = [s for s in segment.steps if s.multiply_adds]
    if max(Counter(s.node for s in linear).values(), default=1) == 1:
        most = max((_weights_nbytes(stretch) for stretch in segment.stretches), default=0)
        return GROUP_TILES if most > L3_OVER_L2 * l2_nbytes else 1
    spans = {s.name: s.nbytes for s in (*segment.local.spans, *segment.spread.spans)}
    largest = max(sum(spans[name] for name in step.reads) for step in linear)
    return max(1, min(GROUP_TILES, int(L2_SHARE * l2_nbytes) // largest))


def _weights_nbytes(stretch: Stretch) -> int:
    return sum(a.nbytes for a in arrays_of(tuple(s for s in stretch.steps if s.multiply_adds)))


@lru_cache(maxsize=64)
def cut_rows(rows: int, threads: int, points: int, group: int) -> Array:
    """int64[columns, 4]: first row, rows, and the same again as tokens; each column at most a group
    of tiles. Few rows go to all threads alike, of many the last columns are small.
    Not to be written to: the next batch gets it, too."""
    tiles = -(-rows // points)
    if threads > 1 and tiles > threads * group:
        count = _dwindling(tiles, threads, group) * points
        first = np.cumsum(count) - count
    else:
        size = _alike(rows, tiles, threads, points, group)
        first = np.arange(0, rows, size, dtype=np.int64)
        count = np.full(len(first), size)
    count = np.minimum(count, rows - first)
    columns = np.stack([first, count, first, count], axis=1)
    columns.flags.writeable = False
    return columns


def _dwindling(tiles: int, threads: int, group: int) -> Array:
    """Tiles of each column: whole groups, and towards the end ever fewer, so that no thread waits
    long for the last, even if it was kept from its processor for a while."""
    sizes = []
    while tiles:
        sizes.append(min(group, -(-tiles // (LAST_COLUMNS * threads))))
        tiles -= sizes[-1]
    return np.array(sizes, np.int64)


def _alike(rows: int, tiles: int, threads: int, points: int, group: int) -> int:
    """Rows of a column where there is one for each thread, or a multiple: whole tiles, or where
    all are done sooner so, alike but for a width that kernels have."""
    columns = -(-max(1, -(-tiles // group)) // threads) * threads
    whole = max(1, -(-tiles // columns)) * points
    alike = max(1, -(-rows // (columns * NARROW))) * NARROW
    sizes = [whole, alike] if -(-rows // alike) <= max(threads, tiles) else [whole]
    return min(sizes, key=lambda size: _takes(rows, threads, points, size))


def _takes(rows: int, threads: int, points: int, size: int) -> float:
    """Full tiles' time until the last thread is done, with columns of so many rows."""
    whole, left = divmod(rows, size)
    rounds, last = divmod(whole, threads)
    ends = rounds * _column_takes(size, points)
    return ends + (_column_takes(size, points) if last else _column_takes(left, points))


def _column_takes(rows: int, points: int) -> float:
    full, rest = divmod(rows, points)
    return full + PARTS[points // NARROW][-(-rest // NARROW)]


def cut_sequences(offsets: Array, threads: int, points: int) -> Array:
    """int64[columns, 4]: first row, rows, first token, tokens; whole sequences, the longest
    column first, so that the last ones to be taken are short."""
    tokens = int(offsets[-1])
    most = min(COLUMN_TOKENS, max(points, tokens // (threads * COLUMNS_A_THREAD)))
    rows, columns = len(offsets) - 1, []
    row = 0
    while row < rows:
        # as many whole sequences as fit, and one at least
        end = int(np.searchsorted(offsets, offsets[row] + most, side="right")) - 1
        end = max(end, row + 1)
        columns.append((row, end - row, offsets[row], offsets[end] - offsets[row]))
        row = end
    table = np.array(columns, np.int64).reshape(-1, 4)
    return np.ascontiguousarray(table[np.argsort(-table[:, 3], kind="stable")])
