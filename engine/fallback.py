"""A fallback segment made ready: an evaluator for each node, on the whole batch."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

from engine.graph import Value
from engine.program import Fallback, Program
from engine.reference import NodeRunner

Array = np.ndarray[Any, Any]


class ReadyFallback:
    """A fallback segment with an evaluator for each node."""

    def __init__(self, segment: Fallback, program: Program) -> None:
        self.segment = segment
        self.constants = program.constants
        dtypes = {n: v.dtype for n, v in program.values.items()}
        dtypes |= {n: a.dtype for n, a in program.constants.items()}
        self._runners = [NodeRunner(n, program.opsets, dtypes) for n in segment.nodes]
        self._shapes = program.values

    def __call__(self, known: dict[str, Array], rows: int) -> None:
        self.timed(known, rows)

    def timed(self, known: dict[str, Array], rows: int) -> Array:
        """Adds the segment's writes to `known`; seconds[1, nodes] for the batch."""
        inside: dict[str, Array] = {**self.constants}
        ends = [perf_counter()]
        for name in self.segment.reads:
            inside[name] = shaped(known[name], self._shapes.get(name), rows)
        for runner in self._runners:
            inside |= runner({n: inside[n] for n in runner.node.reads})
            ends.append(perf_counter())
        known |= {n: inside[n] for n in self.segment.writes}
        return np.diff(ends)[None, :]


def shaped(array: Array, value: Value | None, rows: int) -> Array:
    """Rows of features in the shape that the graph gives them."""
    if value is None or value.shape is None or not value.has_rows or value.features is None:
        return array
    return array.reshape(rows, *(int(d) for d in value.shape[1:]))
