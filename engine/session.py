"""Session: a program made ready on some processors, and run on batch after batch.

It owns one pinned thread for each processor, and the program's segments made ready for them.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from engine.batch import Batch, Feed, batch_of
from engine.errors import EngineError
from engine.fallback import ReadyFallback
from engine.graph import Value
from engine.images.ready import ReadyImages
from engine.images.segment import Images
from engine.mapped import release, stays_in_place
from engine.program import Program
from engine.ragged import Ragged
from engine.ready import ReadyColumns
from engine.segments import Fallback, Segment
from engine.workers import Workers
from numa.processor import cache_nbytes

Array = np.ndarray[Any, Any]
T = TypeVar("T")
DEFAULT_L2 = 512 * 1024
"""Bytes, where the system does not say."""


def _nothing(value: Value, batch: Batch) -> Array | Ragged:
    """No rows of an output; the reference cannot run every operator on none."""
    assert value.shape is not None
    array = np.empty((0, *(int(d) for d in value.shape[value.lead :])), value.dtype)
    return batch.output(array, value) if value.has_tokens else array


class Session:
    """`Session(program, cpus=[0, 1]).run({"x": x}) -> {"y": y}`; a context manager.

    `cpus` are logical processors, one pinned thread each; by default those this process may use.
    Any number of rows from 0 up. Outputs are new arrays. Calls from several threads take turns, and
    `at_once` of them overlap. A fork of the process needs a session of its own.
    """

    def __init__(self, program: Program, cpus: Sequence[int] | None = None) -> None:
        self.program = program
        self.cpus = tuple(sorted(os.sched_getaffinity(0)) if cpus is None else cpus)
        if not self.cpus:
            raise EngineError("Session: expected at least one processor, got none in cpus")
        self._inside: set[int] = set()
        """Threads with a batch under way."""
        self._calls = itertools.count()
        # A thread may take them twice, so that a signal handler meets an error, not a deadlock.
        self._turns: tuple[threading.RLock, ...] = (threading.RLock(),)
        self._pid = os.getpid()
        self._workers = Workers(self.cpus)
        self._closed = False
        self._in_place = [a for a in program.constants.values() if stays_in_place(a)]
        try:
            self._segments = tuple(self._ready(s) for s in program.segments)
        except BaseException:
            self.close()
            raise
        if self._may_overlap():
            self._turns = (*self._turns, threading.RLock())

    @property
    def at_once(self) -> int:
        """Batches that may be under way together, called for by as many threads. With two, a thread
        that is done with one begins the next, and waits neither for the others nor for its caller:
        a job on two cores of a Zen 4 left 2 ms of a core idle after each batch of 3,392 rows, of
        112, and 0.5 ms so (2026-11-30)."""
        return len(self._turns)

    def _may_overlap(self) -> bool:
        """Whether all that batches share belongs to one of the threads, who take one after the
        other. The reference is shared, and so are the rows that are fetched from a file's tables,
        and the room of all columns where layers run one by one."""
        own = all(isinstance(s, ReadyColumns | ReadyImages) for s in self._segments)
        return own and self.program.columns and not self._in_place

    def _ready(self, segment: Segment) -> ReadyColumns | ReadyImages | ReadyFallback:
        if isinstance(segment, Fallback):
            return ReadyFallback(segment, self.program)
        if isinstance(segment, Images):
            return ReadyImages(segment, self._workers, self.program.large_pages)
        l2_nbytes = min(cache_nbytes(cpu, 2) or DEFAULT_L2 for cpu in self.cpus)
        how = (self.program.columns, l2_nbytes, self.program.large_pages)
        return ReadyColumns(segment, self._workers, *how)

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, Any]:
        """One batch: an array for each input, rows first; an array for each output.

        A model of sequences takes `Ragged` feeds, too, of any lengths; its masks, token types and
        positions need not be given then, and its outputs of tokens are `Ragged`.
        """
        self._check_open("run")
        batch, known = batch_of(feeds, self.program.inputs)
        if batch.rows == 0 and all(v.features is not None for v in self.program.outputs):
            return {v.name: _nothing(v, batch) for v in self.program.outputs}

        def work() -> None:
            self._check_open("run")
            for segment in self._segments:
                segment(known, batch)
            self._looked_up()

        # In a plain `with`, here and below, so that a signal handler that raises finds no gap
        # between a lock and its release.
        with self._turns[next(self._calls) % len(self._turns)]:
            self._noted("run", work)
        return self._outputs(known, batch)

    def _looked_up(self) -> None:
        """Gives pages of mapped tables back that the reference has looked at."""
        for table in self._in_place:
            release(table)

    def timed(self, feeds: Mapping[str, Feed]) -> tuple[Array, ...]:
        """One batch on the first thread alone, and the seconds it took, for each segment:
        [columns, steps], or [1, nodes] of a fallback. engine/profiling.py makes sense of them."""
        if not self.program.columns:
            raise EngineError("Session.timed: expected a program with columns on; compile it so")
        self._check_open("timed")
        batch, known = batch_of(feeds, self.program.inputs)

        def work() -> tuple[Array, ...]:
            self._check_open("timed")
            return tuple(segment.timed(known, batch) for segment in self._segments)

        return self._alone("timed", work)

    def segment_seconds(self, feeds: Mapping[str, Feed]) -> tuple[float, ...]:
        """One batch as `run` takes it, and the seconds that each segment took."""
        self._check_open("segment_seconds")
        batch, known = batch_of(feeds, self.program.inputs)

        def work() -> tuple[float, ...]:
            self._check_open("segment_seconds")
            clock = [perf_counter()]
            for segment in self._segments:
                segment(known, batch)
                clock.append(perf_counter())
            return tuple(end - begin for begin, end in itertools.pairwise(clock))

        return self._alone("segment_seconds", work)

    def memory(self) -> dict[str, list[Array]]:
        """What the session holds, by use: "weights", a copy for each NUMA node of its processors,
        and "panels", from the first batch on. numa/memory.py tells where they lie."""
        found = [segment.memory() for segment in self._segments]
        return {use: [array for f in found for array in f[use]] for use in ("weights", "panels")}

    def rows(self, feeds: Mapping[str, Feed]) -> int:
        """Rows of a batch; FeedError where it does not fit the program's inputs."""
        return batch_of(feeds, self.program.inputs)[0].rows

    def _check_open(self, caller: str) -> None:
        if self._pid != os.getpid():
            raise EngineError(
                f"Session.{caller}: expected the process that made the session ({self._pid}), got "
                f"a fork of it ({os.getpid()}), which has no threads; make a new Session in it"
            )
        if self._closed:
            raise EngineError(f"Session.{caller}: expected an open session, got a closed one")

    def _alone(self, caller: str, work: Callable[[], T]) -> T:
        """work() while no other thread is in here."""
        with self._turns[0], self._turns[-1]:
            return self._noted(caller, work)

    def _noted(self, caller: str, work: Callable[[], T]) -> T:
        """work(), unless this thread has some already, and a signal handler wants more."""
        me = threading.get_ident()
        if me in self._inside:
            raise EngineError(
                f"Session.{caller}: expected no batch under way on this thread, got one; "
                "let its signal handlers raise or set a flag"
            )
        try:
            self._inside.add(me)
            return work()
        finally:
            self._inside.discard(me)

    def _outputs(self, known: Mapping[str, Array], batch: Batch) -> dict[str, Any]:
        """The outputs as arrays that share memory with nothing: operators that only look at their
        input in another way give a part of a feed, of a constant, or of each other's."""
        taken = [known[v.name] for v in self.program.inputs]
        taken += self.program.constants.values()
        outputs: dict[str, Any] = {}
        for value in self.program.outputs:
            array = known.get(value.name)
            if array is None:
                array = self.program.constants[value.name]
            if not array.flags.writeable or any(np.may_share_memory(array, t) for t in taken):
                array = array.copy()
            outputs[value.name] = batch.output(array, value)
            taken.append(array)
        return outputs

    def close(self) -> None:
        """Ends the threads, after the batch under way if there is one; running again is an
        error. A session that nobody holds any more ends its threads, too."""
        if self._closed or self._pid != os.getpid():
            return  # a fork has no threads to end, and perhaps a lock that nobody gives back
        self._alone("close", self._end)

    def _end(self) -> None:
        if not self._closed:  # two threads may have come to close
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
