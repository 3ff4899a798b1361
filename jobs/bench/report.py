"""Report: everything a bench found out; to_json() says it for machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.explanation import Explanation
from engine.profiling import Profile
from jobs.bench.segments import SegmentFigure

OURS = "colonnade"
RIVAL = "onnxruntime"
COLUMNS_OFF = "columns off"
SPARSE_OFF = "sparse off"
PADDED = "padded"
"""Colonnade, all rows as long as the longest; takes part where lengths differ."""
SWITCHED: dict[str, dict[str, Any]] = {
    OURS: {},
    COLUMNS_OFF: {"columns": False},
    SPARSE_OFF: {"sparse": False},
}
"""Ours on the rows as they are, with the switches of engine.compile that make them."""
CONTENDERS = (OURS, RIVAL, PADDED, COLUMNS_OFF, SPARSE_OFF)
"""In the order of turns and of tables."""


@dataclass(frozen=True, slots=True)
class Machine:
    processor: str
    cpus: tuple[int, ...]
    """Logical processors measured on, one a core; the first is that of all one-core figures."""
    cores: int
    """Physical cores this process may use, on all NUMA nodes."""
    numa_node: int
    numa_nodes: int
    l2_nbytes: int
    """A core's."""
    l3_nbytes: int
    """A core's share."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One contender on one number of cores; rates are rows a second."""

    contender: str
    cores: int
    median: float
    lowest: float
    highest: float
    tokens: float
    """Tokens a second, padding not counted: the median; 0 where the model has no sequences."""
    ratio: float
    """Colonnade's median on as many cores over this one: how many times as fast it is."""
    scaling: float
    """This contender's median over its own on one core."""


@dataclass(frozen=True, slots=True)
class Report:
    model: str
    """Path of the file."""
    date: str
    """ISO 8601, with the offset from UTC."""
    versions: Mapping[str, str]
    """Of colonnade, python, numpy, numba, and of onnxruntime where it took part."""
    machine: Machine
    rows: int
    tokens: int
    """Of all rows of the batch; 0 where the model has no sequences."""
    shortest: int
    longest: int
    """Tokens of one row."""
    padding: float
    """Share of tokens that padding to the longest adds, of all then, 0..1."""
    rounds: int
    seconds: float
    """Of each turn."""
    feeds: str
    """Where the rows come from."""
    figures: tuple[Figure, ...]
    profile: Profile
    segments: tuple[SegmentFigure, ...]
    explanation: Explanation
    notes: tuple[str, ...]
    """What could not be measured, and why."""

    def figure(self, contender: str, cores: int) -> Figure | None:
        return next(
            (f for f in self.figures if f.contender == contender and f.cores == cores), None
        )

    @property
    def batch(self) -> str:
        """The batch in words."""
        rows = f"{self.rows:,} {'row' if self.rows == 1 else 'rows'}"
        if not self.tokens:
            return rows
        if self.shortest == self.longest:
            return f"{rows} of {self.longest:,} tokens"
        return f"{rows} of {self.shortest:,} to {self.longest:,} tokens, {self.tokens:,} in all"

    @property
    def core_counts(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(f.cores for f in self.figures))

    @property
    def zeros(self) -> float:
        """Share of zero weights in all linear layers, 0..1."""
        found = [n.sparsity for n in self.explanation.nodes if n.sparsity]
        size = sum(s.outputs * s.inputs for s in found)
        return 1 - sum(s.nonzeros for s in found) / size if size else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values under these keys.

        model, date, versions, machine, rows, tokens, shortest, longest, padding, rounds, seconds,
        feeds, notes: as the fields here;
        figures: a list of Figure; ratio_to_onnxruntime: by number of cores, absent without it;
        profile: rows, tokens, rounds, cpu, seconds_a_row, whole_seconds_a_row, and steps
        (StepTime with useful_gflops and dense_gflops); segments: a list of SegmentFigure with its
        gain by columns; explanation: what `colonnade explain
        --json` prints.
        """
        profile = self.profile
        plain: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        rivals = {str(f.cores): f.ratio for f in self.figures if f.contender == RIVAL}
        return plain | {
            "notes": list(self.notes),
            "versions": dict(self.versions),
            "machine": asdict(self.machine),
            "figures": [asdict(f) for f in self.figures],
            **({"ratio_to_onnxruntime": rivals} if rivals else {}),
            "profile": {
                "rows": profile.rows,
                "tokens": profile.tokens,
                "rounds": profile.rounds,
                "cpu": profile.cpu,
                "seconds_a_row": profile.seconds,
                "whole_seconds_a_row": profile.whole_seconds,
                "steps": [s.to_json() for s in profile.steps],
            },
            "segments": [s.to_json() for s in self.segments],
            "explanation": self.explanation.to_json(),
        }


_PLAIN = (
    "model", "date", "rows", "tokens", "shortest", "longest", "padding", "rounds", "seconds",
    "feeds",
)  # fmt: skip
"""Fields that to_json() takes as they are."""


def rate(value: float) -> str:
    """Of rows or tokens a second: three figures at the least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def micros(seconds: float) -> str:
    """Microseconds: of a millisecond and more without what nobody reads."""
    return f"{seconds * 1e6:,.{3 if seconds < 1e-3 else 0}f}"
