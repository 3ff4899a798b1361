"""The plan: what will run where, and its price in memory, before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numa.placement import Place
from numa.topology import Topology
from pipeline.binding import Binding
from pipeline.dataset import Dataset
from pipeline.shards import Shard


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
    """Python, pyarrow, numba and the compiled kernels, an engine."""
    weights: int
    """An engine: its own copy on its own NUMA node."""
    session: int
    """An engine: arenas of all threads."""
    reading: int
    """An engine: row groups decoded and queued."""
    outputs: int
    """An engine: outputs computed and queued."""
    writing: int
    """An engine: rows gathered for an output row group, and their encoding."""
    driver: int
    """Once; 0 on machines without the driver."""

    @property
    def engine(self) -> int:
        return (
            self.interpreter + self.weights + self.session
            + self.reading + self.outputs + self.writing
        )  # fmt: skip

    @property
    def total(self) -> int:
        return self.engines * self.engine + self.driver

    def check(self, limit_nbytes: int, where: str = "this machine") -> None:
        """Raises MemoryPlanError, with the numbers and what to change, if it does not fit."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided before the start; `str(plan)` is what --dry-run prints."""

    model: str
    program: str
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


def memory_limit(topology: Topology) -> int:
    """The smaller of the machine's or cgroup's limit and what is available now, in bytes."""
    raise NotImplementedError


def default_batch_rows(binding: Binding) -> int:
    """Rows a run: from the binding alone, so that all machines and executors agree."""
    raise NotImplementedError


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
    raise NotImplementedError


def make_plan(
    dataset: Dataset,
    program: PricedProgram,
    binding: Binding,
    places: tuple[Place, ...],
    **options: Any,
) -> Plan:
    """Shards, batch and price; does not check the price (`plan.memory.check(limit)` does)."""
    raise NotImplementedError
