"""A scorer: one process, one session, one NUMA node; leases in, parts out.

    submit -> [leases] -> read thread -> [1] -> run threads -> [1] -> write thread -> emit

Two threads run where the session takes two batches at once (engine.Session.at_once), and hand on
in order (relay.py): the engine's threads begin a batch when they are done with the one before.

A model in stages has a process for each later stage, and a thread here that hands batches to it:

                                 ... -> run thread -> [1] -> stage 1 thread -> [1] -> ...

Reading, running and writing overlap, also across shards: while the last batch of one shard is
encoded, the next shard is decoded and run. The queues hold QUEUED batches each and no more: that
is what the plan prices.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Queue, SimpleQueue
from typing import Any

import pyarrow as pa

from engine.errors import EngineError
from pipeline.batches import by_tokens
from pipeline.blocks import Blocks
from pipeline.conforming import from_text
from pipeline.course import Course, Link
from pipeline.errors import RowError, StageLost
from pipeline.events import Event, PartWritten, RowsScored, ScorerDied
from pipeline.failpoints import reach
from pipeline.failures import shard_failed
from pipeline.links import Link as LocalLink
from pipeline.parts import PartWriter, Reject, Seconds
from pipeline.passage import Intake, Outlet
from pipeline.reader import ShardReader
from pipeline.relay import Relay
from pipeline.scorer_spec import ScorerSpec
from pipeline.scoring import Prepared, Scored, encode, prepare, score
from pipeline.sequences import Feed
from pipeline.shards import Lease
from pipeline.stage_spec import NotAsPlanned
from pipeline.startup import open_course
from pipeline.where import parse

__all__ = ["Scorer", "ScorerSpec"]

QUEUED = 1
"""Batches waiting before the run threads, and as many after them."""

QUEUED_BETWEEN = 1
"""Batches waiting before a later stage: the stages work on different ones, and none runs dry."""

PROGRESS_SECONDS = 0.2
"""RowsScored is emitted no more often."""


class _Work:
    """One lease on its way through the threads."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.problem: BaseException | None = None
        """The first; once set, every thread passes over what is left of the shard."""
        self.schema: pa.Schema | None = None
        """Of kept fields and outputs, once the shard is open."""
        self.writer: PartWriter | None = None
        self.rows = 0
        self.filtered = 0
        """Rows of the shard that --where leaves out, once it is read."""
        self.seconds = dict.fromkeys(Seconds.__slots__, 0.0)
        """Each is counted up by one thread."""

    def timed(self, stage: str, began: float) -> None:
        self.spent(stage, time.perf_counter() - began)

    def spent(self, stage: str, seconds: float) -> None:
        self.seconds[stage] += max(0.0, seconds)


@dataclass(frozen=True, slots=True)
class _Carried:
    """A batch between two stages."""

    prepared: Prepared
    known: Mapping[str, Feed]


@dataclass(frozen=True, slots=True)
class _Item:
    """A batch of a lease, or (None) the end of the lease."""

    work: _Work
    batch: Prepared | _Carried | Scored | None
    rows: Sequence[int] = ()
    """Numbers in the file of the batch's rows."""


_Made = _Carried | Scored | BaseException | None
"""What becomes of an item in a stage."""


class Scorer:
    """Threads that read | run | write, joined by short queues; they overlap across shards.

    The constructor returns at once and never raises for what is wrong with the model or the
    machine: the session is opened on the run thread (the first lease is read meanwhile), then
    ScorerReady or ScorerDied is emitted. `emit` is called from all these threads, one at a time,
    and should not block for long. Every lease submitted ends in exactly one PartWritten or
    ShardFailed, unless the scorer dies (ScorerDied, after which nothing more is emitted).
    """

    def __init__(
        self, spec: ScorerSpec, emit: Callable[[Event], None], link: Link = LocalLink
    ) -> None:
        self.spec = spec
        self._link = link
        self._emit_event = emit
        self._emit_lock = threading.Lock()
        self._dead = False
        self._deaf: Exception | None = None
        self._leases: SimpleQueue[Lease | None] = SimpleQueue()
        later = range(1, max(1, len(spec.stages)))
        self._queues: list[Queue[_Item | None]] = [
            Queue(QUEUED), *(Queue(QUEUED_BETWEEN) for _ in later), Queue(QUEUED)
        ]  # fmt: skip
        """Before each stage, and before the write thread."""
        self._course: Course | None = None
        self._reported = 0.0
        self._blocks: defaultdict[str, Blocks] = defaultdict(Blocks)
        """Of the fields that are read, by name."""
        loops: dict[str, Callable[[], None]] = {"read": self._read_loop, "run": self._run_loop}
        loops |= {f"stage-{n}": partial(self._stage_loop, n) for n in later}
        loops["write"] = self._write_loop
        self._threads = [
            threading.Thread(target=loop, name=f"scorer-{name}", daemon=True)
            for name, loop in loops.items()
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, lease: Lease) -> None:
        """Queues the lease; never blocks. Two in flight are enough to keep all threads busy."""
        self._leases.put(lease)

    def close(self, *, abandon: bool = False) -> None:
        """Waits for submitted leases; `abandon` drops them (no event) and removes their temps.

        Raises what `emit` raised, if it did: the scorer stopped there.
        """
        if abandon:
            self._dead = True
        self._leases.put(None)
        for thread in self._threads:
            thread.join()
        if self._deaf is not None:
            raise self._deaf

    # The loops take every BaseException for a failure: a thread that sys.exit() in a hook, or a
    # panic of an extension written in Rust, ended without a word would leave the driver waiting.

    def _read_loop(self) -> None:
        try:
            self._intake = Intake(self.spec)
        except BaseException as e:
            self._die(e)
        while (lease := self._leases.get()) is not None:
            work = _Work(lease)
            try:
                if not self._dead:
                    self._read(work)
            except BaseException as e:
                work.problem = work.problem or e
            self._queues[0].put(_Item(work, None))
        self._queues[0].put(None)

    def _read(self, work: _Work) -> None:
        """Decodes the shard and makes feeds, batch by batch, as far as the queue lets it."""
        spec, shard = self.spec, work.lease.shard
        reach("before_read")
        began = time.perf_counter()
        columns = spec.fields or spec.binding.columns
        where, chosen = parse(spec.where) if spec.where else None, 0
        planned = from_text(spec.schema) if spec.schema else None
        blocks = self._blocks
        with ShardReader(shard, columns, spec.batch_rows, where, blocks, planned) as reader:
            work.schema = spec.binding.output_schema(self._intake.schema(reader.schema))
            for rows, batch in self._taken_in(reader):
                if self._over(work):
                    return
                chosen += batch.num_rows
                for piece_rows, piece in self._prepared(batch, rows):
                    work.timed("read", began)
                    self._queues[0].put(_Item(work, piece, piece_rows))
                    began = time.perf_counter()
        work.filtered = shard.rows - chosen
        work.timed("read", began)
        reach("after_read")

    def _taken_in(self, reader: ShardReader) -> Iterator[tuple[Sequence[int], pa.RecordBatch]]:
        """What becomes of each batch on its way in, behind the numbers of its rows."""
        for rows, read in reader.numbered():
            first = 0
            for batch in self._intake(read, reader.schema, reader.shard) if rows else ():
                yield rows[first : first + batch.num_rows], batch
                first += batch.num_rows

    def _prepared(
        self, batch: pa.RecordBatch, rows: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], Prepared]]:
        """What runs together, each behind the numbers of its rows in the file."""
        try:
            prepared = prepare(batch, self.spec.binding, self.spec.on_error)
        except RowError as e:
            raise RowError(rows[e.row], e.field, e.reason) from e
        for first, piece in by_tokens(prepared, self.spec.batch_tokens):
            yield rows[first : first + piece.kept.num_rows], piece

    def _run_loop(self) -> None:
        """Opens the course, then is its first stage."""
        try:
            self._course, ready = open_course(self.spec, self._link)
            self._emit(ready)
        except BaseException as e:
            self._die(e)
        self._stage_loop(0)

    def _stage_loop(self, stage: int) -> None:
        """Never ends before its inbox does: whoever feeds it must not be left waiting."""
        inbox, outbox = self._queues[stage : stage + 2]
        until = time.perf_counter()

        def hand_on(item: _Item, made: _Made, began: float, ended: float) -> None:
            nonlocal until
            if stage == 0:
                item.work.spent("wait", began - until)
                item.work.spent("run", ended - max(began, until))
            until = ended
            if (done := self._passed(item, made)) is not None:
                outbox.put(done)

        at_once = self._course.at_once if self._course and stage == 0 else 1
        Relay(inbox, partial(self._run, stage), hand_on).run(at_once, "scorer-run")
        outbox.put(None)
        if self._course is not None and outbox is self._queues[-1]:
            self._course.close()

    def _run(self, stage: int, item: _Item) -> _Made:
        """What a batch becomes in a stage, or why it does not; None when its lease is over."""
        if item.batch is None or self._over(item.work) or self._course is None:
            return None
        try:
            reach("before_run")
            batch = self._after(stage, self._course, item.batch)
            reach("after_run")
        except RowError as e:
            return RowError(item.rows[e.row], e.field, e.reason)
        except BaseException as e:
            return e
        return batch

    def _passed(self, item: _Item, made: _Made) -> _Item | None:
        """The item after a stage; ends of leases go on, too. In the order of the shard's rows: the
        first problem is the one that counts."""
        work = item.work
        if item.batch is None:
            return item
        if isinstance(made, StageLost):
            self._die(made)
        elif isinstance(made, BaseException):
            work.problem = work.problem or made
        if made is None or isinstance(made, BaseException) or self._over(work):
            return None
        if isinstance(made, Scored):
            self._count(work, made)
        return _Item(work, made, item.rows)

    def _after(self, stage: int, course: Course, batch: Any) -> _Carried | Scored:
        """A batch after a stage, or, where one refuses some row, after all that are left."""
        if len(course) == 1:
            return score(course.run, batch, self.spec.on_error)
        carried = batch if isinstance(batch, _Carried) else _Carried(batch, batch.feeds)
        prepared = carried.prepared
        try:
            known = course.step(stage, carried.known)
        except EngineError:  # halves of the batch go through all stages, to find the row
            return score(course.run, prepared, self.spec.on_error)
        if stage + 1 < len(course):
            return _Carried(prepared, known)
        return Scored(prepared.kept, known, prepared.bad)

    def _count(self, work: _Work, scored: Scored) -> None:
        """Progress, now and then."""
        work.rows += scored.kept.num_rows
        if time.monotonic() - self._reported >= PROGRESS_SECONDS:
            self._reported = time.monotonic()
            lease = work.lease
            self._emit(RowsScored(self.spec.scorer, lease.shard.index, lease.attempt, work.rows))

    def _write_loop(self) -> None:
        try:
            self._outlet = Outlet(self.spec)
        except BaseException as e:
            self._die(e)
        while (item := self._queues[-1].get()) is not None:
            work = item.work
            try:
                if isinstance(item.batch, Scored) and not self._over(work):
                    self._write(work, item.batch, item.rows)
                elif item.batch is None:
                    self._end(work)
            except BaseException as e:
                work.problem = work.problem or e
                if item.batch is None:
                    self._fail(work)

    def _write(self, work: _Work, scored: Scored, rows: Sequence[int]) -> None:
        began = time.perf_counter()
        writer = self._writer(work)
        batch = encode(scored, self.spec.binding, self.spec.on_error)
        for piece in self._outlet(batch, work.schema, work.lease.shard):
            writer.write(piece)
        writer.reject(Reject(rows[b.row], b.field, b.reason) for b in scored.bad)
        work.timed("write", began)

    def _writer(self, work: _Work) -> PartWriter:
        """The lease's writer, opened with its first batch, or at its end if it has no rows."""
        if work.writer is None:
            assert work.schema is not None, "a batch was read, so the shard was opened"
            work.writer = PartWriter(
                self.spec.output,
                work.lease,
                self._outlet.schema(work.schema),
                format=self.spec.format,
                fingerprint=self.spec.fingerprint,
                compression=self.spec.compression,
                splice=self.spec.splice,
            )
        return work.writer

    def _end(self, work: _Work) -> None:
        """The lease's last item: its one event."""
        if self._over(work):
            self._fail(work)
            return
        writer = self._writer(work)
        part = writer.close(seconds=Seconds(**work.seconds), filtered=work.filtered)
        work.writer = None
        self._emit(PartWritten(self.spec.scorer, part))

    def _fail(self, work: _Work) -> None:
        if work.writer is not None:
            work.writer.abort()
            work.writer = None
        if work.problem is None:
            return  # abandoned
        self._emit(shard_failed(self.spec.scorer, work.lease, work.problem))

    def _over(self, work: _Work) -> bool:
        return self._dead or work.problem is not None

    def _die(self, problem: BaseException) -> None:
        """Before the first batch: without what it needs a scorer is of no use."""
        refused = isinstance(problem, NotAsPlanned)
        reason = str(problem) if refused else f"{type(problem).__name__}: {problem}"
        self._emit(ScorerDied(self.spec.scorer, reason, refused))

    def _emit(self, event: Event) -> None:
        """One at a time, nothing after death; who cannot be told is as good as dead."""
        with self._emit_lock:
            if self._dead:
                return
            self._dead = isinstance(event, ScorerDied)
            try:
                self._emit_event(event)
            except Exception as e:
                self._dead = True
                self._deaf = e
