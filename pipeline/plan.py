"""The plan: what will run where, and its price in memory, before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from numa.notation import size
from numa.placement import Place
from numa.topology import Topology
from pipeline.binding import Binding
from pipeline.dataset import Dataset
from pipeline.errors import MemoryPlanError
from pipeline.parts import GROUP_NBYTES, check_writable
from pipeline.reader import BUFFER_NBYTES, EVEN_ROWS
from pipeline.scorer import QUEUED
from pipeline.shards import Shard, plan_shards

MAX_BATCH_ROWS = 4096
BATCH_NBYTES = 16 << 20
"""Feeds and outputs of one run. Threads meet at the end of a batch only: larger batches waste
less there, smaller ones hold less memory and overlap better with reading."""

INTERPRETER_NBYTES = 400 << 20
"""Resident size of a scorer before its session: python, numpy, pyarrow, onnx, numba, kernels.
Measured 270 MiB on x86-64; compiling kernels for the first time, and Ray, come on top."""

DRIVER_NBYTES = 320 << 20
"""Resident size of the driver without model and shards: python, pyarrow, onnx, rich."""

IN_HAND = 2
"""Batches of a kind that are in no queue: one being made, one being used."""

DECODING = 3
"""Batches' worth of memory that decoding one takes beside the batch: pages and growing buffers
(measured 2.4 for fixed_size_list<float>[1024], pyarrow 26)."""

ENCODING = 3
"""Times the rows gathered for a row group: the rows, Parquet's levels (4 bytes a list element, as
much as a float32), and what is encoded so far."""

SHARD_NBYTES = 2048
"""A shard on the driver: its plan, its lease, its entry in journal and manifest."""


class PricedProgram(Protocol):
    """What the price needs of engine.Program."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def weights_nbytes(self) -> int: ...
    def session_nbytes(self, threads: int, rows: int) -> int: ...


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

    @property
    def engine(self) -> int:
        held = self.reading + self.outputs + self.writing
        return self.interpreter + self.weights + self.session + held

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

    def __str__(self) -> str:
        return (
            f"{self.engines} x {size(self.engine)} (interpreter {size(self.interpreter)}, model "
            f"{size(self.weights)}, session {size(self.session)}, reading {size(self.reading)}, "
            f"outputs {size(self.outputs)}, writing {size(self.writing)})"
            + (f" + driver {size(self.driver)}" if self.driver else "")
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided before the start; `str(plan)` is what --dry-run prints."""

    model: str
    program: str
    """Fingerprint."""
    dataset: Dataset
    shards: tuple[Shard, ...]
    binding: Binding
    places: tuple[Place, ...]
    batch_rows: int
    memory: MemoryPrice
    memory_limit_nbytes: int
    output: str
    format: str
    on_error: str

    def __str__(self) -> str:
        largest = max((s.rows for s in self.shards), default=0)
        groups = sum(len(f.row_groups) for f in self.dataset.files)
        binding = str(self.binding).removeprefix("binding:\n")
        return "\n".join(
            [
                "plan",
                f"  model   {self.model}, program {self.program:.12}",
                f"  input   {_count(len(self.dataset.files), 'file')}, "
                f"{_count(groups, 'row group')}, {_count(self.dataset.rows, 'row')}, "
                f"{size(self.dataset.nbytes)}",
                *(f"  {line}" for line in binding.splitlines()),
                f"  shards  {len(self.shards)}, of at most {_count(largest, 'row')}, "
                f"in batches of at most {self.batch_rows}",
                *(f"  {place}" for place in self.places),
                f"  output  {self.output}, {self.format}, on error {self.on_error}",
                f"  memory  at most {size(self.memory.total)} of "
                f"{size(self.memory_limit_nbytes)}: {self.memory}",
            ]
        )


def memory_limit(topology: Topology) -> int:
    """The smaller of the machine's or cgroup's limit and what is available now, in bytes."""
    return min(topology.memory_limit_nbytes, int(psutil.virtual_memory().available))


def default_batch_rows(binding: Binding) -> int:
    """Rows a run: from the binding alone, so that all machines and executors agree."""
    row = sum(f.row_nbytes for f in binding.fields) + sum(o.row_nbytes for o in binding.outputs)
    fitting = BATCH_NBYTES // max(1, row) // EVEN_ROWS * EVEN_ROWS
    return max(EVEN_ROWS, min(MAX_BATCH_ROWS, fitting))


def price(
    dataset: Dataset,
    program: PricedProgram,
    binding: Binding,
    *,
    engines: int,
    threads: int,
    batch_rows: int,
    driver: bool = True,
) -> MemoryPrice:
    """Bounds for `engines` engines of `threads` threads on one machine."""
    shards = plan_shards(dataset)
    feeds = sum(f.row_nbytes for f in binding.fields)
    outputs = sum(o.row_nbytes for o in binding.outputs)
    read = _row_nbytes(dataset, binding.columns)
    kept = _row_nbytes(dataset, binding.keep)
    written = max((s.rows for s in shards), default=0) * (kept + outputs)
    rows = min(batch_rows, max((s.rows for s in shards), default=0))
    batches = QUEUED + IN_HAND
    # What is read is held by the feeds that look into it, or beside those that were converted.
    decoding = rows * read * DECODING + len(binding.columns) * 2 * BUFFER_NBYTES
    reading = rows * (read + feeds) * batches + decoding + _mapped_nbytes(dataset, binding)
    return MemoryPrice(
        engines=engines,
        interpreter=INTERPRETER_NBYTES,
        weights=2 * program.weights_nbytes,
        session=program.session_nbytes(threads, rows),
        reading=reading,
        outputs=rows * (outputs + kept) * batches,
        writing=ENCODING * min(written, GROUP_NBYTES + rows * (kept + outputs)),
        driver=(DRIVER_NBYTES + 3 * program.weights_nbytes + SHARD_NBYTES * len(shards))
        * int(driver),
    )


def make_plan(
    dataset: Dataset,
    program: PricedProgram,
    binding: Binding,
    places: tuple[Place, ...],
    *,
    model: str,
    output: str,
    format: str,
    on_error: str,
    memory_limit_nbytes: int,
    batch_rows: int | None = None,
) -> Plan:
    """Shards, batches and price of a job whose places all lie on one machine.

    Does not check the price, so that a plan that does not fit can be shown:
    `plan.memory.check(limit)` does. Raises BindingError for kept fields that cannot be written.
    """
    check_writable(binding.output_schema(dataset.schema), format)
    rows = batch_rows or default_batch_rows(binding)
    threads = max(len(place.cpus) for place in places)
    return Plan(
        model=model,
        program=program.fingerprint,
        dataset=dataset,
        shards=plan_shards(dataset),
        binding=binding,
        places=places,
        batch_rows=rows,
        memory=price(
            dataset, program, binding, engines=len(places), threads=threads, batch_rows=rows
        ),
        memory_limit_nbytes=memory_limit_nbytes,
        output=str(Path(output)),
        format=format,
        on_error=on_error,
    )


def _row_nbytes(dataset: Dataset, names: tuple[str, ...]) -> int:
    """Decoded bytes of a row of these fields, in the row group where that is most."""
    indices = [dataset.schema.get_field_index(name) for name in names]
    groups = (g for f in dataset.files for g in f.row_groups if g.rows)
    return max((-(-sum(g.field_nbytes[i] for i in indices) // g.rows) for g in groups), default=0)


def _mapped_nbytes(dataset: Dataset, binding: Binding) -> int:
    """Arrow record batches are mapped or decompressed whole: the largest, and one in hand."""
    indices = [dataset.schema.get_field_index(name) for name in binding.columns]
    groups = (g for f in dataset.files if f.format == "arrow" for g in f.row_groups)
    return IN_HAND * max((sum(g.field_nbytes[i] for i in indices) for g in groups), default=0)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
