"""Session: a program made ready on some processors, and run on batch after batch.

It owns one pinned thread for each processor, an arena for each thread, and aligned copies of the
weights, written by its own first thread. A batch is one call into machine code for
each thread and segment.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from engine.errors import EngineError, FeedError
from engine.graph import Value
from engine.kernels.building import address
from engine.kernels.running import run_columns
from engine.kernels.table import POINTS
from engine.program import Border, Column, Fallback, Panel, Program
from engine.reference import NodeRunner
from engine.workers import Workers

Array = np.ndarray[Any, Any]
LINE = 64
STEP_WORDS = 16
"""int64 of a step: the kernel's address and its operands."""


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
        arrays = [_ready(known[b.value], b) for b in segment.imports]
        results = [np.empty((rows, b.features), np.float32) for b in segment.exports]
        borders = np.array([a.ctypes.data for a in (*arrays, *results)] or [0], np.int64)
        if self.depth_first:
            self._together(0, len(segment.steps), rows, borders, None)
        else:
            columns = -(-rows // POINTS)
            whole = aligned(max(LINE, segment.arena.nbytes * columns))
            for step in range(len(segment.steps)):
                self._together(step, 1, rows, borders, whole)
        for border, result in zip(segment.exports, results, strict=True):
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


class _ReadyFallback:
    """A fallback segment with an evaluator for each node."""

    def __init__(self, segment: Fallback, program: Program) -> None:
        self.segment = segment
        self.constants = program.constants
        dtypes = {n: v.dtype for n, v in program.values.items()}
        dtypes |= {n: a.dtype for n, a in program.constants.items()}
        self._runners = [NodeRunner(n, program.opsets, dtypes) for n in segment.nodes]
        self._shapes = program.values

    def __call__(self, known: dict[str, Array], rows: int) -> None:
        inside: dict[str, Array] = {**self.constants}
        for name in self.segment.reads:
            inside[name] = _shaped(known[name], self._shapes.get(name), rows)
        for runner in self._runners:
            inside |= runner({n: inside[n] for n in runner.node.reads})
        known |= {n: inside[n] for n in self.segment.writes}


def _nothing(value: Value) -> Array:
    """No rows of an output; the reference cannot run every operator on none."""
    assert value.shape is not None
    return np.empty((0, *(int(d) for d in value.shape[1:])), value.dtype)


def _shaped(array: Array, value: Value | None, rows: int) -> Array:
    """Rows of features in the shape that the graph gives them."""
    if value is None or value.shape is None or not value.has_rows or value.features is None:
        return array
    return array.reshape(rows, *(int(d) for d in value.shape[1:]))


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

    def _ready(self, segment: Column | Fallback) -> _ReadyColumn | _ReadyFallback:
        if isinstance(segment, Fallback):
            return _ReadyFallback(segment, self.program)
        return _ReadyColumn(segment, self._workers, self.program.columns)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One batch: an array for each input, rows first; an array for each output."""
        rows = _rows_of(feeds, self.program.inputs)
        if rows == 0 and all(v.features is not None for v in self.program.outputs):
            return {v.name: _nothing(v) for v in self.program.outputs}
        known: dict[str, Array] = {v.name: np.asarray(feeds[v.name]) for v in self.program.inputs}
        with self._turn:
            if self._closed:
                raise EngineError("Session.run: expected an open session, got a closed one")
            for segment in self._segments:
                segment(known, rows)
        return {v.name: self._output(v, known, rows) for v in self.program.outputs}

    def _output(self, value: Value, known: Mapping[str, Array], rows: int) -> Array:
        array = known[value.name] if value.name in known else self.program.constants[value.name]
        if value.name in {v.name for v in self.program.inputs} or value.name not in known:
            array = array.copy()
        return _shaped(array, value, rows)

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
