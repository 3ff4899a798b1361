"""A session interrupted, closed in the middle of a batch, forked and forgotten."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import small_models as small

import engine
from engine import calls
from engine.batch import Batch
from engine.errors import EngineError
from engine.program import Program
from engine.reader import graph_of
from engine.ready import ReadyColumns
from engine.workers import Workers

Array = np.ndarray[Any, Any]
CPUS = tuple(sorted(os.sched_getaffinity(0)))[:2]
WIDTH = 512


class Interrupt(Exception):
    pass


@pytest.fixture(scope="module")
def program() -> Program:
    return _program()


def _program(**switches: Any) -> Program:
    rng = np.random.default_rng(0)
    nodes, x = [], "x"
    for i in range(4):
        nodes.append(small.node("Gemm", f"{x} w", f"g{i}", transB=1))
        nodes.append(small.node("Tanh", f"g{i}", f"h{i}"))
        x = f"h{i}"
    nodes.append(small.node("Identity", x, "y"))
    w = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 23
    shapes = {"x": ["N", WIDTH]}, {"y": ["N", WIDTH]}
    return engine.compile(graph_of(small.model(nodes, *shapes, {"w": w})), **switches)


@pytest.fixture(scope="module")
def batch() -> Array:
    """About a third of a second of work, so that a signal after 50 ms comes in the middle."""
    return np.random.default_rng(1).standard_normal((12_000, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(program: Program, batch: Array) -> bytes:
    with engine.Session(program, cpus=CPUS) as session:
        return session.run({"x": batch})["y"].tobytes()


@contextmanager
def interrupted(*seconds: float) -> Iterator[None]:
    """A signal handler that raises, once after each of `seconds`."""
    left = list(seconds[1:])

    def handler(number: int, frame: object) -> None:
        if left:
            signal.setitimer(signal.ITIMER_REAL, left.pop(0))
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds[0])
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_an_interrupted_batch_ends_early_and_the_next_is_right(
    batch: Array, expected: bytes, columns: bool, share: float
) -> None:
    with engine.Session(_program(columns=columns), cpus=CPUS) as session:
        (segment,) = session._segments
        assert isinstance(segment, ReadyColumns)
        session.run({"x": batch[:16]})  # makes the arenas: calls from now on are the batch's
        gate = _Gate(segment, share)
        try:
            with pytest.raises(Interrupt), _handled():
                session.run({"x": batch})
        finally:
            gate.open()
        unwritten = np.isnan(gate.result[:, 0]).mean()
        # of what was left at the interruption, each thread may have had one column in its hands
        assert unwritten > (1 - share) / 2
        assert session.run({"x": batch})["y"].tobytes() == expected


class _Gate:
    """Stops the threads of a segment's last stretch at a share of a batch's columns, interrupts the
    caller, and lets them go on when the rest has been called off; or after a while, if it is not.
    """

    def __init__(self, segment: ReadyColumns, share: float) -> None:
        self.segment, self.share = segment, share
        self.result = np.zeros((0, 0), np.float32)
        self._real = calls.run_columns, segment._borders
        self._run = calls.run_columns()
        self._last = len(segment.segment.stretches) - 1
        calls.run_columns = lambda: self._stopping
        segment._borders = self._spoilt  # type: ignore[method-assign]

    def open(self) -> None:
        calls.run_columns, self.segment._borders = self._real  # type: ignore[method-assign]

    def _spoilt(self, known: dict[str, Array], batch: Batch) -> Any:
        borders = self._real[1](known, batch)
        self.result = borders.arrays[-1]
        self.result.fill(np.nan)
        return borders

    def _stopping(self, counter: int, columns: int, table: int, held: int) -> None:
        run, taken = self._run, ctypes.c_int64.from_address(counter)
        stretches = (ctypes.c_int64 * 2).from_address(held)
        before_last = stretches[1] == 1 and self._last > 0 and not self._is_last(stretches[0])
        if before_last:
            run(counter, columns, table, held)
            return
        run(counter, int(columns * self.share), table, held)
        until = time.monotonic() + 20
        # more than once: Python misses a signal that comes just before it waits for a lock
        while taken.value < columns and time.monotonic() < until:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
            time.sleep(0.05)
        run(counter, columns, table, held)

    def _is_last(self, stretch: int) -> bool:
        table = self.segment._tables[0]
        return stretch == table[self._last :].ctypes.data


@contextmanager
def _handled() -> Iterator[None]:
    """The first SIGALRM raises, and others, of further threads, do nothing."""
    come: list[int] = []

    def handler(number: int, frame: object) -> None:
        come.append(number)
        if len(come) == 1:
            raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_profile_leaves_a_session_that_works(
    program: Program, batch: Array, expected: bytes
) -> None:
    with engine.Session(program, cpus=CPUS) as session:
        with pytest.raises(Interrupt), interrupted(0.05):
            session.timed({"x": batch})
        assert session.run({"x": batch})["y"].tobytes() == expected


def test_the_caller_leaves_only_when_no_thread_works_any_more() -> None:
    workers, stop = Workers(CPUS), threading.Event()
    ended: list[int] = []

    def task(index: int) -> None:
        stop.wait(10)
        time.sleep(0.1)
        ended.append(index)

    with pytest.raises(Interrupt), interrupted(0.1):
        workers.run(task, stop.set)
    assert sorted(ended) == list(range(len(CPUS)))
    workers.close()


def test_tokens_of_a_batch_left_twice_are_not_taken_for_the_next_ones() -> None:
    """The second interruption comes while the first one waits for the threads."""
    workers = Workers(CPUS)
    ended: list[int] = []

    def slow(index: int) -> None:
        time.sleep(0.6)

    with pytest.raises(Interrupt), interrupted(0.1, 0.1):
        workers.run(slow)
    workers.run(ended.append)
    assert sorted(ended) == list(range(len(CPUS)))
    workers.close()


@pytest.mark.parametrize(("rows", "woken"), [(0, 0), (8, 1), (500, 2)])
def test_a_thread_without_a_column_sleeps_on(program: Program, rows: int, woken: int) -> None:
    with engine.Session(program, cpus=CPUS) as session:
        (segment,) = session._segments
        counted: list[int | None] = []
        whole = session._workers.run

        def run(task: Any, abandon: Any, threads: int | None = None) -> None:
            counted.append(threads)
            whole(task, abandon, threads)

        x = np.zeros((500, WIDTH), np.float32)
        session.run({"x": x})  # makes the arenas
        session._workers.run = run  # type: ignore[method-assign]
        segment({"x": x[:rows]}, Batch(rows))
    assert counted == [min(woken, len(CPUS))]


def test_only_so_many_threads_run_a_task() -> None:
    workers = Workers(CPUS)
    ran: list[int] = []
    workers.run(ran.append, threads=1)
    assert ran == [0]
    workers.close()


def test_a_task_keeps_its_arrays_until_its_threads_are_done(program: Program) -> None:
    """Whatever happens to the caller: the arrays of a batch live as long as its tasks."""
    session = engine.Session(program, cpus=CPUS)
    kept: list[Any] = []
    segment = session._segments[0]
    known = {"x": np.zeros((40, WIDTH), np.float32)}
    session.run(known)  # makes the arenas
    segment._workers = _Recorder(kept)  # type: ignore[union-attr]
    with pytest.raises(Interrupt):
        segment(known, Batch(40))
    gc.collect()
    arrays = [o for o in gc.get_objects() if type(o).__name__ == "Borders"]
    assert any(a.arrays[0] is known["x"] and len(a.arrays) == 2 for a in arrays)
    session.close()


class _Recorder:
    """Workers that keep the task and lose the caller."""

    def __init__(self, kept: list[Any]) -> None:
        self.kept = kept

    def __len__(self) -> int:
        return len(CPUS)

    def run(self, task: Any, abandon: Any = None, threads: int | None = None) -> None:
        self.kept.append(task)
        raise Interrupt


def test_close_waits_for_the_batch_under_way(
    program: Program, batch: Array, expected: bytes
) -> None:
    session, found = engine.Session(program, cpus=CPUS), []
    thread = threading.Thread(target=lambda: found.append(session.run({"x": batch})["y"]))
    thread.start()
    while not session._inside:
        time.sleep(0.001)
    session.close()
    thread.join(30)
    assert not thread.is_alive() and found[0].tobytes() == expected
    with pytest.raises(EngineError, match="closed"):
        session.run({"x": batch})


def test_a_signal_handler_that_runs_or_closes_gets_an_error(program: Program, batch: Array) -> None:
    errors: list[BaseException] = []
    with engine.Session(program, cpus=CPUS) as session:

        def handler(number: int, frame: object) -> None:
            for call in (session.close, lambda: session.run({"x": batch[:1]})):
                try:
                    call()
                except EngineError as error:
                    errors.append(error)

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        session.run({"x": batch})
        signal.signal(signal.SIGALRM, before)
    assert [str(e).split(":")[0] for e in errors] == ["Session.close", "Session.run"]


def test_a_fork_is_told_to_make_its_own_session(program: Program, batch: Array) -> None:
    with engine.Session(program, cpus=CPUS) as session:
        session.run({"x": batch[:16]})
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:  # nothing of pytest may run on in here
            said = b"no error"
            try:
                signal.alarm(20)
                session.run({"x": batch[:16]})
            except EngineError as error:
                said = str(error).encode()
            finally:
                session.close()
                os.write(writes, said)
                os._exit(0)
        os.close(writes)
        _, status = os.waitpid(child, 0)
        answer = os.read(reads, 1000).decode()
        os.close(reads)
        assert status == 0
        assert "make a new Session" in answer and str(child) in answer
        session.run({"x": batch[:16]})


def test_a_session_that_nobody_holds_ends_its_threads(program: Program, batch: Array) -> None:
    before = set(threading.enumerate())
    session = engine.Session(program, cpus=CPUS)
    session.run({"x": batch[:16]})
    threads = set(threading.enumerate()) - before
    assert len(threads) == len(CPUS)
    gone = weakref.ref(session)
    del session
    assert gone() is None
    for thread in threads:
        thread.join(10)
    assert not any(t.is_alive() for t in threads)


def test_idle_threads_keep_no_batch_alive() -> None:
    workers = Workers(CPUS)
    array = np.zeros(3)
    gone = weakref.ref(array)
    workers.run(lambda index, kept=array: None)  # type: ignore[misc]
    del array
    assert gone() is None
    workers.close()


def test_arenas_that_were_not_all_made_are_made_again() -> None:
    """Longer sequences need larger arenas; an interruption among them must not leave small ones."""
    rng = np.random.default_rng(3)
    nodes = [small.node("MatMul", "x w", "h"), small.node("Relu", "h", "y")]
    w = rng.standard_normal((16, 16)).astype(np.float32)
    shapes = {"x": ["N", "S", 16]}, {"y": ["N", "S", 16]}
    program = engine.compile(graph_of(small.model(nodes, *shapes, {"w": w})))
    x = rng.standard_normal((3, 500, 16)).astype(np.float32)
    with engine.Session(program, cpus=CPUS) as session:
        session.run({"x": x[:, :5]})
        (segment,) = session._segments
        assert isinstance(segment, ReadyColumns)
        workers, segment._workers = segment._workers, _Recorder([])  # type: ignore[assignment]
        with pytest.raises(Interrupt):
            session.run({"x": x})
        assert segment._tiles == 0
        segment._workers = workers
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x @ w, 0), atol=1e-4)
        assert segment._tiles * segment.segment.points >= 500


def test_layer_wise_memory_is_kept_but_not_beyond_an_interruption(batch: Array) -> None:
    """Or columns would be compared with the making of memory; a thread may still write to it."""
    with engine.Session(_program(columns=False), cpus=CPUS) as session:
        session.run({"x": batch})
        (segment,) = session._segments
        assert isinstance(segment, ReadyColumns)
        kept = segment._whole
        session.run({"x": batch})
        assert segment._whole is kept and len(kept) > 0
        workers, segment._workers = segment._workers, _Recorder([])  # type: ignore[assignment]
        with pytest.raises(Interrupt):
            session.run({"x": batch})
        assert segment._whole is not kept
        segment._workers = workers
