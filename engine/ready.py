"""A segment with kernels made ready: words, weights on cache lines, an arena for each thread.

A batch is one call into machine code for each thread and segment. Each thread has its own words,
because panels move from tile to tile by changing them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from engine.batch import Batch
from engine.calls import HELD_WORDS, Borders, Calls
from engine.cutting import TILES_MORE, cut_rows, cut_sequences, group_tiles
from engine.errors import FeedError
from engine.mapped import stays_in_place
from engine.segments import OFFSETS, POSITIONS, Column, Sequences
from engine.weights import LINE, Weights, aligned, room
from engine.words import STEP_NBYTES, Words
from engine.workers import Workers

Array = np.ndarray[Any, Any]
EMPTY_CALLS = 33
"""Calls of no step, to know what a call costs when steps are timed."""


@dataclass(frozen=True, slots=True)
class _Visit:
    """A step of a group of tiles, or of whole sequences: what is timed at once."""

    step: int
    first: int
    """Tile of the column."""
    tiles: int
    whole: bool


def _lookups(segment: Sequences) -> Iterator[tuple[int, Array]]:
    """(border of the ids, table) of each step that looks up in a table that stays in its file."""
    for step in segment.steps:
        for place, operand in enumerate(step.operands):
            if isinstance(operand, np.ndarray) and stays_in_place(operand):
                border = step.operands[1]
                assert step.kernel.startswith("embed_") and place == 3 and isinstance(border, int)
                yield border, operand


class ReadyColumns:
    """A column segment, or one of sequences, with its words and arenas in memory."""

    def __init__(
        self,
        segment: Column | Sequences,
        workers: Workers,
        depth_first: bool,
        l2_nbytes: int,
        large_pages: bool,
    ) -> None:
        self.sequential = isinstance(segment, Sequences)
        found = segment if isinstance(segment, Sequences) else segment.as_sequences()
        self.segment = found if depth_first else found.layer_wise()
        self.depth_first = depth_first
        self._large_pages = large_pages
        self.group = group_tiles(found, l2_nbytes)
        self._workers = workers
        self._tiles = self._most = 0
        self._growing = threading.Lock()
        self._arenas: list[Array] = [aligned(0)] * len(workers)
        self._held = np.zeros((len(workers), HELD_WORDS), np.int64)
        self._whole = aligned(0)
        self._weights: dict[int, Weights] = {}
        self._layouts: dict[int, Words] = {}
        workers.run_heads(self._copy)
        self._layout = self._layouts[0]
        self._tables = self._layout.tables()
        self._words = [self._layout.sized(self.group, 0)] * len(workers)
        self._lookups = tuple(_lookups(self.segment))

    def _copy(self, head: int) -> None:
        """One copy of the weights for each NUMA node, written by a thread there: whoever writes a
        page first decides where it lies, and no weight is read from another node."""
        self._weights[head] = Weights(self.segment.weights, self._large_pages)
        self._layouts[head] = Words(self.segment, self._weights[head])

    def memory(self) -> dict[str, list[Array]]:
        weights = [copy for found in self._weights.values() for copy in found.copies()]
        return {"weights": weights, "panels": [*self._arenas, self._whole]}

    def _make_room(self, tiles: int) -> None:
        """Arenas and words for columns of `tiles`, written by the threads that use them, after what
        they had to do before with the old ones."""
        if tiles > self._tiles:
            with self._growing:
                if tiles > self._tiles:  # still, after a batch that overlaps with this one
                    self._grow(tiles)

    def _grow(self, tiles: int) -> None:
        # never smaller: a batch that overlaps with this one may count on what there was
        most = self._most = max(self._most, -(-tiles // TILES_MORE) * TILES_MORE)
        self._tiles = 0  # until every thread has them, however the caller is interrupted

        def task(index: int) -> None:
            layout = self._layouts[self._workers.heads[index]]
            self._words[index] = layout.sized(self.group, most)
            nbytes = self._arena_nbytes(most) if self.depth_first else LINE
            self._arenas[index] = room(nbytes, self._large_pages)
            self._arenas[index][:] = 0
            self._held[index] = self._holding(
                (0, len(self.segment.stretches)), self._words[index], self._place(index)
            )

        self._workers.run(task)
        self._tiles = most

    def _place(self, index: int) -> tuple[int, int, int]:
        """A thread's arena, which it uses for all the columns it takes."""
        return self._arenas[index].ctypes.data, 0, self.group

    def _arena_nbytes(self, tiles: int) -> int:
        return max(LINE, self.segment.arena_nbytes(tiles, self.group))

    # ---- a batch --------------------------------------------------------------------------

    def __call__(self, known: dict[str, Array], batch: Batch) -> None:
        """Adds the segment's exports to `known`."""
        columns, borders = self._cut(batch), self._borders(known, batch)
        if self.depth_first:
            Calls(self, columns, self._held, borders).made_by(self._workers)
        else:
            self._layer_wise(columns, borders)
        self._export(known, borders)

    def _layer_wise(self, columns: Array, borders: Borders) -> None:
        """All columns through one stretch, then all through the next."""
        whole = self._layer_wise_room(len(columns))
        place = (whole.ctypes.data, self._arena_nbytes(self._tiles), self.group)
        for stretch in range(len(self.segment.stretches)):
            held = [self._holding((stretch, 1), words, place) for words in self._words]
            Calls((self, whole), columns, np.array(held, np.int64), borders).made_by(self._workers)
        self._whole = whole

    def _layer_wise_room(self, columns: int) -> Array:
        """An arena for all columns; kept from batch to batch, but not beyond an interruption, after
        which a thread may still be writing to it."""
        found, self._whole = self._whole, aligned(0)
        nbytes = self._arena_nbytes(self._tiles) * columns
        return found if len(found) >= nbytes else room(nbytes, self._large_pages)

    def _cut(self, batch: Batch) -> Array:
        """The batch's columns, and arenas that are large enough."""
        threads, points = len(self._workers), self.segment.points
        if self.sequential:
            assert batch.offsets is not None
            columns = cut_sequences(batch.offsets, threads, points)
        else:
            columns = cut_rows(batch.rows, threads, points, self.group)
        self._make_room(-(-int(columns[:, 3].max(initial=1)) // points))
        return columns

    def _borders(self, known: dict[str, Array], batch: Batch) -> Borders:
        segment, sources = self.segment, known
        if batch.offsets is not None and self.sequential:
            sources = {**known, OFFSETS: batch.offsets, POSITIONS: batch.positions()}
            for c in segment.counts:
                sources[c.value] = batch.counted(known[c.ids], c.padding) + c.first
            for name, entries in segment.tables:
                most = segment.most_tokens(name, entries)
                _check_ids(name, entries, most, sources[name], batch)
        # contiguous rows of the border's element type, which is how kernels read
        arrays = [np.ascontiguousarray(sources[b.value], b.dtype) for b in segment.imports]
        for b in segment.exports:
            count = batch.tokens if b.tokens else batch.rows
            arrays.append(np.empty((count, b.features), b.dtype))
        for border, table in self._lookups:
            for weights in self._weights.values():
                weights.fetch(table, arrays[border])
        return Borders.of(arrays)

    def _export(self, known: dict[str, Array], borders: Borders) -> None:
        results = borders.arrays[len(self.segment.imports) :]
        for border, result in zip(self.segment.exports, results, strict=True):
            known[border.value] = result

    def _holding(
        self,
        stretches: tuple[int, int],
        words: Array,
        place: tuple[int, int, int],
        tables: tuple[Array, Array, Array] | None = None,
    ) -> list[int]:
        """What machine code is told besides columns, see kernels/running.py: the first stretch and
        how many; arena, bytes to the next column's and tiles of a group; the borders are open."""
        stretch_table, step_table, patches = tables or self._tables
        return [
            stretch_table[stretches[0] :].ctypes.data,
            stretches[1],
            step_table.ctypes.data,
            patches.ctypes.data,
            words.ctypes.data,
            STEP_NBYTES,
            *place,
            0,
        ]

    # ---- timed ----------------------------------------------------------------------------

    def timed(self, known: dict[str, Array], batch: Batch) -> Array:
        """As a call, on the first thread alone: seconds[columns, steps], depth first.

        Each step is a call of its own for each group of tiles; what an empty call takes is
        subtracted.
        """
        columns, stop = self._cut(batch), threading.Event()
        borders = self._borders(known, batch)
        seconds = np.zeros((len(columns), len(self.segment.steps)))

        def task(index: int) -> None:
            if index or not len(columns):
                return
            nothing = _Visit(0, 0, 0, True)
            times = [self._once(columns[0], nothing, borders) for _ in range(EMPTY_CALLS)]
            empty = float(np.median(times))
            for number, column in enumerate(columns):
                for visit in self._visits(int(column[3])):
                    if stop.is_set():
                        return
                    took = self._once(column, visit, borders)
                    seconds[number, visit.step] += max(0.0, took - empty)

        self._workers.run(task, stop.set)
        self._export(known, borders)
        return seconds

    def _visits(self, tokens: int) -> Iterator[_Visit]:
        """What a column does, in its order."""
        first, tiles = 0, -(-tokens // self.segment.points)
        for stretch in self.segment.stretches:
            for done in range(0, 1 if stretch.whole else tiles, self.group):
                for step in range(first, first + len(stretch.steps)):
                    yield _Visit(step, done, min(self.group, tiles - done), stretch.whole)
            first += len(stretch.steps)

    def _once(self, column: Array, visit: _Visit, borders: Borders) -> float:
        """Seconds of a visit, in the first thread's arena; of nothing without tiles."""
        words = self._layout.moved(self._words[0], visit.first)
        here = column[None].copy()
        points = self.segment.points
        if not visit.whole:
            here[0, 2] += visit.first * points
            here[0, 3] = min(visit.tiles * points, column[3] - visit.first * points)
        stretch = np.array([[visit.whole, visit.step, min(1, visit.tiles), points]], np.int64)
        held = self._holding((0, 1), words, self._place(0), (stretch, *self._tables[1:]))
        call = Calls((self, words, stretch), here, np.array([held], np.int64), borders)
        began = perf_counter()
        call(0)
        return perf_counter() - began


def _check_ids(name: str, entries: int, most: int | None, ids: Array, batch: Batch) -> None:
    """Raises FeedError for ids that the table does not have: a kernel reads unchecked. `most`
    tokens a sequence may have where they are places."""
    assert batch.offsets is not None
    if not ids.size or (int(ids.min()) >= -entries and int(ids.max()) < entries):
        return
    token = int(np.argmax((ids < -entries) | (ids >= entries)))
    row = int(np.searchsorted(batch.offsets, token, side="right")) - 1
    if most is not None:
        length = int(batch.offsets[row + 1] - batch.offsets[row])
        raise FeedError(
            f"row {row}: expected a sequence of at most {most} tokens, which is all that the "
            f"model has positions for, got {length}; truncate it"
        )
    raise FeedError(
        f"feed {name}: row {row}, token {token - int(batch.offsets[row])}: "
        f"expected an id below {entries}, got {int(ids[token])}; is it the model's tokenizer?"
    )
