"""Session: a program made ready on some processors, and run on batch after batch.

It owns one pinned thread for each processor, an arena for each thread, and aligned copies of the
weights, written by its own first thread. A batch is one call into machine code for
each thread and segment.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np

from engine.errors import EngineError, FeedError
from engine.fallback import ReadyFallback, shaped
from engine.graph import Value
from engine.kernels.building import address
from engine.kernels.running import run_columns
from engine.kernels.table import POINTS
from engine.program import Border, Column, Fallback, Panel, Program
from engine.workers import Workers

Array = np.ndarray[Any, Any]
LINE = 64
STEP_WORDS = 16
"""int64 of a step: the kernel's address and its operands."""
EMPTY_CALLS = 33
"""Calls of no step, to know what a call costs when steps are timed."""


def aligned(nbytes: int) -> Array:
    """Zeroed uint8[nbytes] that starts on a cache line."""
    raw = np.zeros(nbytes + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + nbytes]


def _on_lines(array: Array) -> Array:
    """A copy that starts on a cache line, with 16 bytes of slack after it."""
    flat = np.ascontiguousarray(array).reshape(-1)
    memory = aligned(flat.nbytes + LINE)
    copy = memory[: flat.nbytes].view(flat.dtype)
    copy[...] = flat
    return copy


class _ReadyColumn:
    """A column segment with its steps as words and its arenas in memory."""

    def __init__(self, segment: Column, workers: Workers, depth_first: bool) -> None:
        self.segment = segment
        self.depth_first = depth_first
        self._workers = workers
        self._copies: dict[int, Array] = {}
        self._words = np.zeros((len(segment.steps), STEP_WORDS), np.int64)
        self._arenas: list[Array] = [aligned(0)] * len(workers)
        self._run = run_columns()
        workers.run(self._prepare)

    def _word(self, operand: Panel | Array | int) -> int:
        if isinstance(operand, Panel):
            return self.segment.arena.offset(operand.value) + operand.shift * POINTS * 4
        if isinstance(operand, np.ndarray):
            if id(operand) not in self._copies:
                self._copies[id(operand)] = _on_lines(operand)
            return int(self._copies[id(operand)].ctypes.data)
        return operand

    def _prepare(self, index: int) -> None:
        """The first thread copies the weights, each makes its arena: whoever writes a page first
        decides on which NUMA node it lies."""
        if index == 0:
            for number, step in enumerate(self.segment.steps):
                words = [address(step.kernel), *(self._word(o) for o in step.operands)]
                self._words[number, : len(words)] = words
        if self.depth_first:
            self._arenas[index] = aligned(max(LINE, self.segment.arena.nbytes))
            self._arenas[index][:] = 0

    def __call__(self, known: dict[str, Array], rows: int) -> None:
        """Adds the segment's exports to `known`."""
        segment = self.segment
        arrays, borders = self._borders(known, rows)
        if self.depth_first:
            self._together(0, len(segment.steps), rows, borders, None)
        else:
            columns = -(-rows // POINTS)
            whole = aligned(max(LINE, segment.arena.nbytes * columns))
            for step in range(len(segment.steps)):
                self._together(step, 1, rows, borders, whole)
        self._export(known, arrays)

    def timed(self, known: dict[str, Array], rows: int) -> Array:
        """As a call, on the first thread alone: seconds[columns, steps], depth first.

        Each step is a call of its own; what an empty call takes is subtracted.
        """
        arrays, borders = self._borders(known, rows)
        columns = -(-rows // POINTS)
        seconds = np.zeros((columns, len(self.segment.steps)))

        def task(index: int) -> None:
            if index == 0:
                once = self._once(rows, borders)
                empty = np.median([once(0, 0, 0) for _ in range(EMPTY_CALLS)])
                for column in range(columns):
                    for step in range(seconds.shape[1]):
                        seconds[column, step] = max(0.0, once(column, step, 1) - empty)

        self._workers.run(task)
        self._export(known, arrays)
        return seconds

    def _once(self, rows: int, borders: Array) -> Callable[[int, int, int], float]:
        """(column, first step, steps) -> the seconds they took, in the first thread's arena."""
        counter = np.zeros(1, np.int64)
        place = np.array([self._arenas[0].ctypes.data, 0], np.int64)
        count_at, place_at, borders_at = (a.ctypes.data for a in (counter, place, borders))
        words = self._words.ctypes.data

        def once(column: int, step: int, count: int, keep: Any = (place, borders)) -> float:
            counter[0] = column
            first, size = words + step * STEP_WORDS * 8, STEP_WORDS * 8
            began = perf_counter()
            self._run(count_at, column + 1, rows, POINTS, first, count, size, place_at, borders_at)
            return perf_counter() - began

        return once

    def _borders(self, known: Mapping[str, Array], rows: int) -> tuple[list[Array], Array]:
        """The arrays of imports, then of exports; and the table of their addresses."""
        segment = self.segment
        arrays = [_ready(known[b.value], b) for b in segment.imports]
        arrays += [np.empty((rows, b.features), np.float32) for b in segment.exports]
        return arrays, np.array([a.ctypes.data for a in arrays] or [0], np.int64)

    def _export(self, known: dict[str, Array], arrays: Sequence[Array]) -> None:
        results = arrays[len(self.segment.imports) :]
        for border, result in zip(self.segment.exports, results, strict=True):
            known[border.value] = result

    def _together(
        self, first: int, count: int, rows: int, borders: Array, whole: Array | None
    ) -> None:
        """All threads take columns through `count` steps from `first` on."""
        counter = np.zeros(1, np.int64)
        columns = -(-rows // POINTS)
        steps = self._words[first:].ctypes.data

        def task(index: int) -> None:
            if whole is None:
                place = np.array([self._arenas[index].ctypes.data, 0], np.int64)
            else:
                place = np.array([whole.ctypes.data, self.segment.arena.nbytes], np.int64)
            self._run(
                counter.ctypes.data,
                columns,
                rows,
                POINTS,
                steps,
                count,
                STEP_WORDS * 8,
                place.ctypes.data,
                borders.ctypes.data,
            )

        self._workers.run(task)


def _ready(array: Array, border: Border) -> Array:
    """The array as kernels read it: contiguous rows of the border's element type."""
    return np.ascontiguousarray(array, border.dtype)


def _nothing(value: Value) -> Array:
    """No rows of an output; the reference cannot run every operator on none."""
    assert value.shape is not None
    return np.empty((0, *(int(d) for d in value.shape[1:])), value.dtype)


class Session:
    """`Session(program, cpus=[0, 1]).run({"x": x}) -> {"y": y}`; a context manager.

    `cpus` are logical processors, one pinned thread each; by default those this process may use.
    Any number of rows from 0 up. Outputs are new arrays. One batch at a time: calls from several
    threads take turns.
    """

    def __init__(self, program: Program, cpus: Sequence[int] | None = None) -> None:
        self.program = program
        self.cpus = tuple(sorted(os.sched_getaffinity(0)) if cpus is None else cpus)
        if not self.cpus:
            raise EngineError("Session: expected at least one processor, got none in cpus")
        self._turn = threading.Lock()
        self._workers = Workers(self.cpus)
        self._closed = False
        try:
            self._segments = tuple(self._ready(s) for s in program.segments)
        except BaseException:
            self.close()
            raise

    def _ready(self, segment: Column | Fallback) -> _ReadyColumn | ReadyFallback:
        if isinstance(segment, Fallback):
            return ReadyFallback(segment, self.program)
        return _ReadyColumn(segment, self._workers, self.program.columns)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One batch: an array for each input, rows first; an array for each output."""
        rows = _rows_of(feeds, self.program.inputs)
        if rows == 0 and all(v.features is not None for v in self.program.outputs):
            return {v.name: _nothing(v) for v in self.program.outputs}
        known: dict[str, Array] = {v.name: np.asarray(feeds[v.name]) for v in self.program.inputs}
        with self._turn:
            self._check_open()
            for segment in self._segments:
                segment(known, rows)
        return {v.name: self._output(v, known, rows) for v in self.program.outputs}

    def timed(self, feeds: Mapping[str, Array]) -> tuple[Array, ...]:
        """One batch on the first thread alone, and the seconds it took, for each segment:
        [columns, steps], or [1, nodes] of a fallback. engine/profiling.py makes sense of them."""
        if not self.program.columns:
            raise EngineError("Session.timed: expected a program with columns on; compile it so")
        rows = _rows_of(feeds, self.program.inputs)
        known: dict[str, Array] = {v.name: np.asarray(feeds[v.name]) for v in self.program.inputs}
        with self._turn:
            self._check_open()
            return tuple(segment.timed(known, rows) for segment in self._segments)

    def rows(self, feeds: Mapping[str, Array]) -> int:
        """Rows of a batch; FeedError where it does not fit the program's inputs."""
        return _rows_of(feeds, self.program.inputs)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("Session.run: expected an open session, got a closed one")

    def _output(self, value: Value, known: Mapping[str, Array], rows: int) -> Array:
        array = known[value.name] if value.name in known else self.program.constants[value.name]
        if value.name in {v.name for v in self.program.inputs} or value.name not in known:
            array = array.copy()
        return shaped(array, value, rows)

    def close(self) -> None:
        """Ends the threads; running again is an error."""
        if not self._closed:
            self._closed = True
            self._workers.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _rows_of(feeds: Mapping[str, Array], inputs: Sequence[Value]) -> int:
    """Rows of the batch, after checking every array against its input."""
    names = [v.name for v in inputs]
    unknown = [n for n in feeds if n not in names]
    missing = [n for n in names if n not in feeds]
    if unknown or missing:
        raise FeedError(f"feeds: expected {names}, got {sorted(feeds)}; missing {missing}")
    rows: int | None = None
    for value in inputs:
        array = np.asarray(feeds[value.name])
        if array.dtype != value.dtype:
            raise FeedError(f"feed {value.name}: expected {value}, got {array.dtype.name}")
        if value.shape is not None:
            fits = array.ndim == len(value.shape) and all(
                not isinstance(d, int) or d == n
                for d, n in zip(value.shape, array.shape, strict=True)
            )
            if not fits:
                raise FeedError(f"feed {value.name}: expected {value}, got {list(array.shape)}")
        if value.has_rows:
            if rows is not None and rows != array.shape[0]:
                raise FeedError(
                    f"feed {value.name}: expected {rows} rows as in the other inputs, "
                    f"got {array.shape[0]}"
                )
            rows = array.shape[0]
    return rows or 0
