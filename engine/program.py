"""The program: what a graph becomes. Frozen, printable, picklable, with a fingerprint.

A program is a list of segments. A `Column` segment is a list of steps that one thread carries a
column of rows through, depth first; a `Fallback` segment is nodes that run on the whole batch
through the reference. Values between segments are arrays of rows.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.arena import Arena
from engine.graph import Node, Value
from engine.kernels.table import POINTS
from numa.notation import size

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Panel:
    """A value in the arena, feature-major x[K, T]; `shift` features into it."""

    value: str
    shift: int = 0

    def __str__(self) -> str:
        return f"{self.value}[{self.shift}:]" if self.shift else self.value


@dataclass(frozen=True, slots=True)
class Border:
    """A value that crosses between arrays of rows and panels."""

    value: str
    index: int
    """Its place in the table of addresses that kernels get."""
    features: int
    dtype: np.dtype[Any]


Operand = Panel | Array | int
"""A word of a step: a panel becomes its offset, an array its address, a number itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of one kernel, on one column."""

    node: str
    kernel: str
    operands: tuple[Operand, ...]
    """The words after the kernel's address, in the order its docstring gives."""
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    detail: str = ""
    multiply_adds: int = 0
    """Dense ones a row, of a linear kernel."""
    nonzeros: int = 0
    """Those of them whose weight is not zero."""

    def __str__(self) -> str:
        arrow = f"{', '.join(self.reads) or '-'} -> {', '.join(self.writes) or '-'}"
        return f"{self.kernel:<26} {arrow}" + (f"   # {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Column:
    """Nodes that run depth first over a column of `POINTS` rows."""

    nodes: tuple[str, ...]
    steps: tuple[Step, ...]
    imports: tuple[Border, ...]
    exports: tuple[Border, ...]
    arena: Arena

    @property
    def weights(self) -> tuple[Array, ...]:
        """Every array a step reads, once."""
        found = {id(o): o for s in self.steps for o in s.operands if isinstance(o, np.ndarray)}
        return tuple(found.values())

    @property
    def weights_nbytes(self) -> int:
        return sum(a.nbytes for a in self.weights)

    def __str__(self) -> str:
        arena, weights = size(self.arena.nbytes), size(self.weights_nbytes)
        head = f"columns of {POINTS} rows, arena {arena}, {weights} of weights"
        return "\n".join([head, *(f"  {s}" for s in self.steps), *_offsets(self.arena)])


@dataclass(frozen=True, slots=True)
class Fallback:
    """Nodes that run on the whole batch through onnx's reference evaluator."""

    nodes: tuple[Node, ...]
    reasons: tuple[str, ...]
    """For each node, why it has no kernel."""
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def __str__(self) -> str:
        lines = ["reference, on the whole batch"]
        for node, reason in zip(self.nodes, self.reasons, strict=True):
            lines.append(f"  {node}   # {reason}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Program:
    """A compiled graph. The same program gives the same bytes for the same rows, always."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    segments: tuple[Column | Fallback, ...]
    constants: Mapping[str, Array]
    """What fallback nodes read, and outputs that are constants."""
    values: Mapping[str, Value]
    """Types of what flows between segments."""
    opsets: Mapping[str, int]
    choices: Mapping[str, str]
    """Kernel of each node that had more than one: give it to `compile` for the same bytes."""
    switches: Mapping[str, Any]
    """What was turned on or off, as `compile` got it."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the output's bytes: text, weights and constants."""
        digest = hashlib.blake2b(str(self).encode(), digest_size=16)
        arrays = [a for s in self.segments if isinstance(s, Column) for a in s.weights]
        arrays += [self.constants[name] for name in sorted(self.constants)]
        for array in arrays:
            digest.update(str((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()

    @property
    def weights_nbytes(self) -> int:
        """Bytes of weights and constants, as a session holds them."""
        columns = sum(s.weights_nbytes for s in self.segments if isinstance(s, Column))
        return columns + sum(a.nbytes for a in self.constants.values())

    @property
    def columns(self) -> bool:
        return bool(self.switches.get("columns", True))

    def session_nbytes(self, threads: int, rows: int) -> int:
        """Bound of what a session holds for batches of `rows`, besides feeds and outputs.

        Weights twice (the program's and the session's aligned copy), an arena for each thread
        (for each column with columns off), what flows between segments, and for the reference
        three arrays of each node's output while it runs.
        """
        total = 2 * self.weights_nbytes
        tiles = -(-rows // POINTS)
        for segment in self.segments:
            if isinstance(segment, Column):
                total += segment.arena.nbytes * (threads if self.columns else max(threads, tiles))
                total += rows * sum(4 * b.features for b in segment.exports)
            else:
                names = [n for node in segment.nodes for n in (*node.reads, *node.writes)]
                total += 3 * rows * sum(_row_nbytes(self.values.get(n)) for n in set(names))
        return total

    def __str__(self) -> str:
        lines = [f"program {self.name}"]
        lines += [f"  input  {v}" for v in self.inputs]
        for number, segment in enumerate(self.segments):
            first, *rest = str(segment).split("\n")
            lines += [f"  segment {number}: {first}", *(f"  {line}" for line in rest)]
        lines += [f"  output {v}" for v in self.outputs]
        off = {k: v for k, v in self.switches.items() if k in ("columns", "sparse") and not v}
        lines += [f"  {name} off" for name in sorted(off)]
        return "\n".join(lines)


def _row_nbytes(value: Value | None) -> int:
    if value is None:
        return 0
    return (value.features or 1) * value.dtype.itemsize


def _offsets(arena: Arena) -> list[str]:
    spans = ", ".join(f"{s.name}@{s.offset}" for s in arena.spans)
    return [f"  arena {spans}"] if spans else []
