"""A fallback segment made ready: an evaluator for each node, on the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import numpy as np

from engine.batch import Batch
from engine.errors import UnsupportedError
from engine.program import Program
from engine.reference import NodeRunner
from engine.segments import Fallback

Array = np.ndarray[Any, Any]
_LAYOUT: tuple[Literal["C"], Literal["ALIGNED"]] = ("C", "ALIGNED")
"""Of what enters a fallback: numpy and BLAS add in another order along other strides."""


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
    """A value row by row, where sequences of different lengths give different shapes or numbers."""

    rows: tuple[Array, ...]


class ReadyFallback:
    """A fallback segment with an evaluator for each node."""

    def __init__(self, segment: Fallback, program: Program) -> None:
        self.segment = segment
        self.constants = program.constants
        dtypes = {n: v.dtype for n, v in program.values.items()}
        dtypes |= {n: a.dtype for n, a in program.constants.items()}
        self._runners = [NodeRunner(n, program.opsets, dtypes) for n in segment.nodes]
        self._shapes = program.values
        self._results = {v.name for v in program.outputs}

    def memory(self) -> dict[str, list[Array]]:
        return {"weights": list(self.constants.values()), "panels": []}

    def __call__(self, known: dict[str, Any], batch: Batch) -> None:
        self.timed(known, batch)

    def timed(self, known: dict[str, Any], batch: Batch) -> Array:
        """Adds the segment's writes to `known`; seconds[1, nodes] for the batch."""
        inputs = {name: known[name] for name in self.segment.reads}
        results: dict[str, Any]
        if batch.length is not None:
            results, seconds = self._together(inputs, batch)
        else:  # each at its own length, because onnx has no ragged tensors
            rows = [self._together(*self._row(inputs, batch, r)) for r in range(batch.rows)]
            results = {n: self._joined(n, [found[n] for found, _ in rows]) for n in rows[0][0]}
            seconds = np.sum([s for _, s in rows], axis=0)
        known |= results
        return np.asarray(seconds)[None, :]

    def _together(
        self, inputs: Mapping[str, Array], batch: Batch
    ) -> tuple[dict[str, Array], Array]:
        """The segment's writes, and the seconds of each node, where all lengths are equal."""
        inside: dict[str, Array] = {**self.constants}
        ends = [perf_counter()]
        for name, array in inputs.items():
            whole = batch.shaped(array, self._shapes.get(name))
            inside[name] = np.require(whole, requirements=_LAYOUT)
        for runner in self._runners:
            inside |= runner({n: inside[n] for n in runner.node.reads})
            ends.append(perf_counter())
        # kernels read as many features as the graph says, so what onnx really gave is checked
        found = {n: batch.packed(inside[n], self._shapes.get(n)) for n in self.segment.writes}
        return found, np.diff(ends)

    def _row(
        self, inputs: Mapping[str, Array | Apart], batch: Batch, row: int
    ) -> tuple[dict[str, Array], Batch]:
        """One row as a batch of its own."""
        assert batch.offsets is not None
        first, last = int(batch.offsets[row]), int(batch.offsets[row + 1])
        found: dict[str, Array] = {}
        for name, array in inputs.items():
            value = self._shapes.get(name)
            if isinstance(array, Apart):
                found[name] = array.rows[row]
            elif value is not None and value.has_tokens:
                found[name] = array[first:last]
            else:
                rows = value is not None and value.has_rows
                found[name] = array[row : row + 1] if rows else array
        return found, Batch(1, np.array([0, last - first], np.int64))

    def _joined(self, name: str, parts: Sequence[Array]) -> Array | Apart:
        """What the rows gave, one after the other; or apart, which only fallbacks can read."""
        value = self._shapes.get(name)
        if value is not None and value.has_rows and value.features is not None:
            return np.concatenate(parts)
        if name not in self._results:
            return Apart(tuple(parts))
        if value is not None and value.has_rows and len({p.shape[1:] for p in parts}) == 1:
            return np.concatenate(parts)
        if all(np.array_equal(p, parts[0]) for p in parts):
            return parts[0]
        raise UnsupportedError(
            f"{name}: expected rows of one shape, got {value}, which differs from row to row "
            "of sequences of different lengths; give sequences of one length"
        )
