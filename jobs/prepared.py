"""What a job is once it is planned: the noun that planning.py makes and memory.py weighs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import engine
from pipeline.manifest import RunRecord
from pipeline.scorer_spec import ScorerSpec

if TYPE_CHECKING:
    from jobs.executors import Seat
    from pipeline.plan import Plan


@dataclass(frozen=True, slots=True)
class Piece:
    """A stage of a model, as the driver knows it."""

    begin: str
    """Name of its first node."""
    program: engine.Program
    """Hollow."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that is decided before the first shard is lent."""

    plan: Plan
    run: RunRecord
    specs: tuple[ScorerSpec, ...]
    program: engine.Program
    """Hollow."""
    pieces: tuple[Piece, ...]
    """Of a model in stages; () for one in one piece."""

    seats: tuple[Seat, ...]
    process_limit_nbytes: int | None
    """That each process of a scorer may take."""

    @property
    def stages(self) -> tuple[engine.Program, ...]:
        return tuple(piece.program for piece in self.pieces)
