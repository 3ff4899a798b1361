"""A segment over images with kernels made ready: the tape as words, an arena for each thread.

A batch is one call into machine code for each thread, which takes one group of images after the
other from a counter, as columns of rows are taken. Threads of one NUMA node read the same tape.
"""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Any

import numpy as np

from engine.batch import Batch
from engine.calls import Borders, Calls
from engine.images.segment import (
    GRID_WORDS,
    OPERANDS_WORD,
    ROWS_WORD,
    STEP_WORDS,
    Images,
)
from engine.kernels.building import address
from engine.weights import LINE, Weights, aligned, room
from engine.workers import Workers

Array = np.ndarray[Any, Any]
STEP_NBYTES = 8 * STEP_WORDS
EMPTY_CALLS = 33
"""Calls of no visit, to know what a call costs when visits are timed."""


class ReadyImages:
    """An image segment with its tape, weights and arenas in memory."""

    def __init__(self, segment: Images, workers: Workers, large_pages: bool) -> None:
        self.segment = segment
        self._workers = workers
        self._arenas: list[Array] = [aligned(0)] * len(workers)

        self._weights: dict[int, Weights] = {}
        self._tapes: dict[int, Array] = {}

        def copy(head: int) -> None:
            # whoever writes a page first decides on which NUMA node it lies
            self._weights[head] = Weights(segment.weights, large_pages)
            self._tapes[head] = words_of(segment, self._weights[head])

        def make_room(index: int) -> None:
            self._arenas[index] = room(max(LINE, segment.arena.nbytes), large_pages)
            self._arenas[index][:] = 0

        workers.run_heads(copy)
        workers.run(make_room)
        self._words = self._tapes[0]
        self._whole_tape = self._stretch(self._words)
        tapes = [self._tapes[head] for head in workers.heads]
        held = [self._holding(self._whole_tape, tape, index) for index, tape in enumerate(tapes)]
        self._held = np.array(held, np.int64)

    def memory(self) -> dict[str, list[Array]]:
        weights = [copy for found in self._weights.values() for copy in found.copies()]
        return {"weights": weights, "panels": self._arenas}

    def __call__(self, known: dict[str, Array], batch: Batch) -> None:
        """Adds the segment's exports to `known`."""
        columns = _columns(batch.rows, self.segment.lanes)
        borders = self._borders(known, batch.rows)
        Calls(self, columns, self._held, borders).made_by(self._workers)
        self._export(known, borders)

    def _borders(self, known: dict[str, Array], rows: int) -> Borders:
        """The batch's arrays, imports before exports."""
        arrays = [np.ascontiguousarray(known[b.value], b.dtype) for b in self.segment.imports]
        arrays += [np.empty((rows, b.features), np.float32) for b in self.segment.exports]
        return Borders.of(arrays)

    def _export(self, known: dict[str, Array], borders: Borders) -> None:
        results = borders.arrays[len(self.segment.imports) :]
        for border, result in zip(self.segment.exports, results, strict=True):
            known[border.value] = result

    def _holding(self, stretch: Array, words: Array, index: int) -> list[int]:
        """What machine code is told besides columns; the borders are open."""
        arena = self._arenas[index].ctypes.data
        return [stretch.ctypes.data, 1, 0, 0, words.ctypes.data, STEP_NBYTES, arena, 0, 1, 0]

    def _stretch(self, words: Array) -> Array:
        """For the loop a tape is one stretch of steps that each take a whole column."""
        return np.array([1, 0, len(words), self.segment.lanes], np.int64)

    # ---- timed ----------------------------------------------------------------------------

    def timed(self, known: dict[str, Array], batch: Batch) -> Array:
        """As a call, on the first thread alone: seconds[columns, steps], visit by visit; what an
        empty call takes is subtracted."""
        columns = _columns(batch.rows, self.segment.lanes)
        borders = self._borders(known, batch.rows)
        seconds = np.zeros((len(columns), len(self.segment.steps)))
        stop, steps = threading.Event(), self.segment.tape[:, 0]

        def once(column: Array, words: Array) -> float:
            stretch = self._stretch(words)
            held = np.array([self._holding(stretch, words, 0)], np.int64)
            call = Calls((self, stretch), column[None], held, borders)
            began = perf_counter()
            call(0)
            return perf_counter() - began

        def task(index: int) -> None:
            if index or not len(columns):
                return
            empty = np.median([once(columns[0], self._words[:0]) for _ in range(EMPTY_CALLS)])
            for number, column in enumerate(columns):
                for visit, step in enumerate(steps):
                    if stop.is_set():
                        return
                    took = once(column, self._words[visit : visit + 1])
                    seconds[number, step] += max(0.0, took - float(empty))

        self._workers.run(task, stop.set)
        self._export(known, borders)
        return seconds


def _columns(rows: int, lanes: int) -> Array:
    """int64[groups, 4]: first image and how many, twice over, as the loop's table has it."""
    first = np.arange(0, rows, lanes, dtype=np.int64)
    count = np.minimum(lanes, rows - first)
    return np.stack([first, count, first, count], axis=1)


def words_of(segment: Images, weights: Weights) -> Array:
    """int64[visits, STEP_WORDS], on cache lines: the tape with addresses of kernels and weights."""
    fixed = np.zeros((max(1, len(segment.steps)), STEP_WORDS), np.int64)
    for row, step in zip(fixed, segment.steps, strict=False):
        row[0] = address(step.kernel)
        for place, operand in enumerate(step.operands, OPERANDS_WORD):
            if isinstance(operand, np.ndarray):
                row[place] = weights.address(operand)
            else:
                row[place] = operand
    tape = segment.tape
    words = aligned(len(tape) * STEP_NBYTES).view(np.int64).reshape(-1, STEP_WORDS)
    words[...] = fixed[tape[:, 0]]
    words[:, 1 : 1 + GRID_WORDS] = tape[:, 3:]
    for number, step in enumerate(segment.steps):
        mine = tape[:, 0] == number
        for place, unit in step.row_words:
            words[mine, place] += unit * tape[mine, 1]
        each, first = step.every
        words[mine, ROWS_WORD] = -((first - tape[mine, 2]) // each)
        if step.rows is not None:
            words[mine, ROWS_WORD] = step.rows
    return words
