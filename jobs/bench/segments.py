"""What columns gain, segment by segment: whole batches on one core, with columns on and off."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import engine
from engine.batch import Feed
from engine.program import Program
from engine.segments import Fallback


@dataclass(frozen=True, slots=True)
class SegmentFigure:
    """One segment with kernels; medians over the rounds."""

    segment: int
    nodes: int
    columns: float
    """Seconds of a batch."""
    layers: float
    """The same with columns off."""

    @property
    def gain(self) -> float:
        """How many times as fast it is with columns."""
        return self.layers / self.columns if self.columns else 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"gain": self.gain}

    def __str__(self) -> str:
        return (
            f"segment {self.segment}, {self.nodes} nodes: {self.columns * 1e3:.3f} ms a batch "
            f"with columns, {self.layers * 1e3:.3f} without: {self.gain:.2f}x"
        )


def segment_figures(
    columns: Program, layers: Program, feeds: Mapping[str, Feed], cpu: int, rounds: int
) -> tuple[SegmentFigure, ...]:
    """In turns on one core, after a run of each."""
    taken: list[list[tuple[float, ...]]] = [[], []]
    with engine.Session(columns, [cpu]) as on, engine.Session(layers, [cpu]) as off:
        for session in (on, off):
            session.run(feeds)
        for _ in range(rounds):
            for times, session in zip(taken, (on, off), strict=True):
                times.append(session.segment_seconds(feeds))
    medians = [[statistics.median(t) for t in zip(*times, strict=True)] for times in taken]
    return tuple(
        SegmentFigure(number, len(segment.nodes), with_columns, without)
        for number, (segment, with_columns, without) in enumerate(
            zip(columns.segments, *medians, strict=True)
        )
        if not isinstance(segment, Fallback)
    )
