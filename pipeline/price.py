"""What an engine holds at most: the bound that the plan prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.graph import Value
from numa.notation import size
from pipeline.bound import Binding
from pipeline.dataset import Dataset
from pipeline.dictionaries import PIECE_NBYTES
from pipeline.errors import MemoryPlanError
from pipeline.parts import GROUP_NBYTES
from pipeline.pictures import decoding_nbytes
from pipeline.scorer import QUEUED, QUEUED_BETWEEN
from pipeline.shards import plan_shards
from pipeline.sizes import dictionary_nbytes, mapped_nbytes, row_nbytes, token_counts
from pipeline.sources import buffer_nbytes
from pipeline.stores import is_url
from pipeline.text import TokenizerFile

INTERPRETER_NBYTES = 400 << 20
"""Resident size of a scorer before its session: python, numpy, pyarrow, onnx, numba, kernels.
Measured 270 MiB on x86-64; compiling kernels for the first time, and Ray, come on top."""

DRIVER_NBYTES = 320 << 20
"""The driver without model and shards: python, pyarrow, onnx, rich."""

IN_HAND = 3
"""Batches of a kind that are in no queue: two being run, one being read or written."""

DECODING = 3
"""Batches' worth of memory that decoding one takes beside the batch: pages and growing buffers
(measured 2.4 for fixed_size_list<float>[1024], pyarrow 26)."""

ENCODING = 3
"""Times the rows gathered for a row group: the rows, Parquet's levels (4 bytes a list element, as
much as a float32), and what is encoded so far."""

TOKEN_NBYTES = 8
"""A token as the tokenizer's columns hold it."""
LIST_NBYTES = 8
"""An offset."""

UPLOADING = 2
"""Times a whole part, where the output lies in an object store: what is gathered until it is sent
in one piece, and its copies on the way: 264 MiB were measured for a part of 128. Compression is
not counted on."""
UPLOAD_NBYTES = 16 << 20
"""What an upload takes besides."""

SHARD_NBYTES = 512
"""A shard on the driver: its footer, its plan, its entry in the ledger (measured: 300)."""


class PricedProgram(Protocol):
    """What the price needs of engine.Program."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def held_nbytes(self) -> int: ...
    @property
    def compiling_nbytes(self) -> int: ...
    def session_nbytes(
        self, threads: int, rows: int, tokens: int = 0, longest: int | None = None
    ) -> int: ...


class StageProgram(PricedProgram, Protocol):
    """What the price of a stage needs of engine.Program."""

    @property
    def inputs(self) -> tuple[Value, ...]: ...
    @property
    def outputs(self) -> tuple[Value, ...]: ...


@dataclass(frozen=True, slots=True)
class MemoryPrice:
    """Upper bounds in bytes, for the engines of one machine."""

    engines: int
    interpreter: int
    """An engine: python, pyarrow, numba and the compiled kernels."""
    weights: int
    """An engine: the model as it is read and compiled."""
    session: int
    """An engine: weights as kernels stream them, arenas of all threads."""
    reading: int
    """An engine: batches decoded, converted and queued."""
    outputs: int
    """An engine: outputs computed and queued."""
    writing: int
    """An engine: rows gathered for an output row group, and their encoding."""
    driver: int
    """Once; 0 on machines without the driver."""
    later: int = 0
    """An engine: processes of its model's later stages, on their own NUMA nodes."""

    @property
    def engine(self) -> int:
        held = self.reading + self.outputs + self.writing
        return self.interpreter + self.weights + self.session + held + self.later

    @property
    def total(self) -> int:
        return self.engines * self.engine + self.driver

    def check(self, limit_nbytes: int, where: str = "this machine") -> None:
        """Raises MemoryPlanError, with the numbers and what to change, if it does not fit."""
        if self.total <= limit_nbytes:
            return
        raise MemoryPlanError(
            f"{where}: expected a plan within {size(limit_nbytes)} of memory, got "
            f"{size(self.total)} ({self}); {self._advice(limit_nbytes)}"
        )

    def _advice(self, limit_nbytes: int) -> str:
        fixed = self.interpreter + self.weights + self.session
        fitting = (limit_nbytes - self.driver) // self.engine
        advice = [f"--engines {fitting}"] if fitting >= 1 else []
        if self.engine > fixed + fixed // 4:
            advice.append("a smaller --batch-rows")
        return f"do {' or '.join(advice)}" if advice else "this model needs a larger machine"

    @property
    def shares(self) -> tuple[str, str]:
        """What an engine's memory is for, in two lines: before the first batch, and with them."""
        return (
            f"interpreter {size(self.interpreter)}, model {size(self.weights)}, "
            f"session {size(self.session)}",
            f"reading {size(self.reading)}, outputs {size(self.outputs)}, "
            f"writing {size(self.writing)}"
            + (f", later stages {size(self.later)}" if self.later else ""),
        )

    def __str__(self) -> str:
        driver = f" + driver {size(self.driver)}" if self.driver else ""
        return f"{self.engines} x {size(self.engine)} ({', '.join(self.shares)}){driver}"


def price(
    dataset: Dataset,
    program: PricedProgram,
    binding: Binding,
    *,
    engines: int,
    threads: int,
    batch_rows: int,
    batch_tokens: int = 0,
    tokenizer: TokenizerFile | None = None,
    fields: tuple[str, ...] = (),
    output: str = "",
    driver: bool = True,
    stages: Sequence[StageProgram] = (),
    copies: int = 1,
) -> MemoryPrice:
    """Bounds for `engines` engines of `threads` threads on one machine, each of which holds so
    many copies of the weights that kernels stream: one for each NUMA node of its place.

    `fields` are read beside those of the binding. What hooks take is not in it.
    """
    shards = plan_shards(dataset)
    shard_rows = shards.most_rows
    rows = min(batch_rows, shard_rows)
    most = _tokens_at_most(dataset, binding, rows, batch_tokens)
    looked_at = dataset.where.fields if dataset.where else ()
    columns = tuple(dict.fromkeys([*binding.columns, *fields, *looked_at]))
    outputs = sum(rows * o.row_nbytes + most.run * o.token_nbytes for o in binding.outputs)
    kept = rows * row_nbytes(dataset, binding.keep)
    dictionaries = dictionary_nbytes(dataset, binding.keep)
    part = _shard_nbytes(dataset, binding, shard_rows, most)
    written = GROUP_NBYTES + kept + outputs
    if dictionaries:  # decoded only when they are written: few rows may fill a row group
        written += PIECE_NBYTES + dictionaries
    else:
        written = min(written, part)
    made = tokenizer.resident_nbytes if tokenizer else 0
    if any(f.picture for f in binding.fields):
        made += decoding_nbytes(threads)
    held = program.held_nbytes
    session, later = program.session_nbytes(threads, rows, most.run, most.longest), 0
    session += (copies - 1) * program.held_nbytes
    if stages:
        session, *others = stage_prices(
            dataset, stages, binding, threads=threads, batch_rows=batch_rows,
            batch_tokens=batch_tokens, compiling_nbytes=program.compiling_nbytes,
        )  # fmt: skip
        held, later = stages[0].held_nbytes, sum(others)
    return MemoryPrice(
        engines=engines,
        interpreter=INTERPRETER_NBYTES,
        weights=_weights_nbytes(held, program.compiling_nbytes, session),
        session=session,
        later=later,
        reading=_reading_nbytes(dataset, binding, columns, rows, most) + made,
        outputs=(outputs + kept + dictionaries) * (QUEUED + IN_HAND),
        writing=ENCODING * written + (UPLOADING * part + UPLOAD_NBYTES) * int(is_url(output)),
        driver=(DRIVER_NBYTES + program.compiling_nbytes + SHARD_NBYTES * len(shards))
        * int(driver),
    )


def stage_prices(
    dataset: Dataset,
    programs: Sequence[StageProgram],
    binding: Binding,
    *,
    threads: int,
    batch_rows: int,
    batch_tokens: int = 0,
    compiling_nbytes: int,
) -> tuple[int, ...]:
    """Bytes that each stage of a scorer's model takes at most: of the first its session and what
    is carried, of the others their whole process. Each rewrites the whole model before it takes
    its piece, for `compiling_nbytes`."""
    rows = min(batch_rows, plan_shards(dataset).most_rows)
    most = _tokens_at_most(dataset, binding, rows, batch_tokens)
    found = []
    for number, program in enumerate(programs):
        session = program.session_nbytes(threads, rows, most.run, most.longest)
        taken = _flowing_nbytes(program.inputs, rows, most) if number else 0
        given = _flowing_nbytes(program.outputs, rows, most)
        # The room that batches come through; outputs, and in the first stage's process the room
        # that later stages give theirs through and what is queued before them.
        copies = 2 if number else 0
        own = session + taken + copies * given
        weights = _weights_nbytes(program.held_nbytes, compiling_nbytes, session)
        found.append(own + (INTERPRETER_NBYTES + weights if number else 0))
        found[0] += given * (QUEUED_BETWEEN + IN_HAND)
    return tuple(found)


def _weights_nbytes(held: int, compiling: int, session: int) -> int:
    """The program and what it is made of; while it is made there is no session yet."""
    return max(2 * held, held + compiling - session)


def _flowing_nbytes(values: Sequence[Value], rows: int, most: _Tokens) -> int:
    return sum(
        v.dtype.itemsize * (v.features or 0) * (most.run if v.has_tokens else rows) for v in values
    )


@dataclass(frozen=True, slots=True)
class _Tokens:
    """At most."""

    read: int = 0
    """Of the rows that are read together."""
    run: int = 0
    """Of those that run together."""
    longest: int = 0
    """Of a row."""
    shard: int = 0


def _tokens_at_most(dataset: Dataset, binding: Binding, rows: int, batch_tokens: int) -> _Tokens:
    counts = token_counts(dataset, binding)
    if counts is None:
        return _Tokens()
    read = counts.of(rows)
    run = min(rows * counts.longest, max(batch_tokens, counts.longest), read)
    return _Tokens(read, run, counts.longest, counts.shard)


def _reading_nbytes(
    dataset: Dataset, binding: Binding, columns: tuple[str, ...], rows: int, most: _Tokens
) -> int:
    """What is read is held by the feeds that look into it, or beside those that were converted."""
    feeds = sum(rows * f.row_nbytes + most.read * f.token_nbytes for f in binding.fields)
    feeds_of_good_rows = sum(rows * f.row_nbytes for f in binding.fields if f.picture)
    read = rows * row_nbytes(dataset, columns) + dictionary_nbytes(dataset, columns)
    read += _beyond_mean_nbytes(dataset, binding, rows, most)
    buffer = max((buffer_nbytes(f.path) for f in dataset.files), default=0)
    decoding = read * DECODING + len(columns) * 2 * buffer
    mapped = IN_HAND * mapped_nbytes(dataset, columns)
    return (read + feeds) * (QUEUED + IN_HAND) + feeds_of_good_rows + decoding + mapped


def _shard_nbytes(dataset: Dataset, binding: Binding, rows: int, most: _Tokens) -> int:
    """All that is written of the largest shard."""
    row = row_nbytes(dataset, binding.keep) + sum(o.row_nbytes for o in binding.outputs)
    return rows * row + most.shard * sum(o.token_nbytes for o in binding.outputs)


def _beyond_mean_nbytes(dataset: Dataset, binding: Binding, rows: int, most: _Tokens) -> int:
    """What lists of the longest rows take more than those of rows as they are on average, and
    what a tokenizer makes of text."""
    total = 0
    for field in binding.fields:
        if field.text:
            total += most.read * TOKEN_NBYTES
        elif field.tokens:
            mean = rows * row_nbytes(dataset, (field.field,))
            total += max(0, most.read * field.read_nbytes + rows * LIST_NBYTES - mean)
    return total
