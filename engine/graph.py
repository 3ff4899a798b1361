"""The graph: frozen nouns that the reader makes, rewrites replace, and the compiler lowers.

A `Graph` is a list of nodes in an order that can be run. Values are known by name. The free
rows dimension of a batch is the string `ROWS` at the front of a shape; other symbols stand for
dimensions that the model leaves open. Constants are plain numpy arrays, read only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

ROWS = "N"
"""The free dimension: how many rows a batch has. It stands first in a shape, or nowhere."""

TOKENS = "S"
"""The other free dimension: the length of a row's own sequence. It stands second, behind `ROWS`,
or somewhere an operator moved it to; only a value with both in front is a value of tokens."""

NATIVE = "colonnade"
"""Domain of the operators that rewrites introduce, for which engine/ops gives the meaning."""

Dim = int | str
Shape = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that flows: its name, element type and shape (None where nothing is known)."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape | None

    @property
    def has_rows(self) -> bool:
        """Whether the first dimension counts the rows of the batch."""
        return bool(self.shape) and self.shape[0] == ROWS  # type: ignore[index]

    @property
    def has_tokens(self) -> bool:
        """Whether it holds something for each token: `[N, S, ...]`."""
        return self.shape is not None and self.shape[:2] == (ROWS, TOKENS)

    @property
    def lead(self) -> int:
        """How many dimensions stand before its features: the rows, or the rows and the tokens."""
        return 2 if self.has_tokens else 1

    @property
    def features(self) -> int | None:
        """Elements a row, or a token where it has tokens; None where the value has no rows or
        an unknown dimension."""
        if not self.has_rows or self.shape is None:
            return None
        count = 1
        for dim in self.shape[self.lead :]:
            if not isinstance(dim, int):
                return None
            count *= dim
        return count

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ", ".join(str(d) for d in self.shape)
        return f"{self.name}: {self.dtype.name}[{dims}]"


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. An absent optional input or output is the empty string, as in ONNX."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Plain python: int, float, str, lists of them, numpy arrays; a subgraph stays opaque."""
    captures: tuple[str, ...] = ()
    """Names that the node's subgraphs take from the enclosing graph."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Every value the node needs, captured ones included, absent ones left out."""
        return tuple(n for n in (*self.inputs, *self.captures) if n)

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(n for n in self.outputs if n)

    @property
    def label(self) -> str:
        """Operator with its domain, as `Gemm` or `colonnade.Linear`."""
        return f"{self.domain}.{self.op}" if self.domain else self.op

    def __str__(self) -> str:
        outs = ", ".join(n or "_" for n in self.outputs)
        ins = ", ".join(n or "_" for n in self.inputs)
        attrs = ", ".join(
            f"{k}={_short(v)}" for k, v in sorted(self.attributes.items()) if v is not None
        )
        return f"{outs} = {self.label}({ins})" + (f" {{{attrs}}}" if attrs else "")


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in running order, with the values and constants they name."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    """Every value with a known type: inputs, outputs and what lies between."""
    initializers: Mapping[str, np.ndarray[Any, Any]]
    """Constants by name; read only, some of them mapped from a file."""
    opsets: Mapping[str, int]
    """Operator set version by domain ("" is ONNX's own)."""
    notes: tuple[str, ...] = ()
    """What the reader changed or found worth telling, a sentence each."""

    def producer(self, name: str) -> Node | None:
        """The node that writes `name`, or None for an input or a constant."""
        return next((n for n in self.nodes if name in n.outputs), None)

    def consumers(self, name: str) -> tuple[Node, ...]:
        return tuple(n for n in self.nodes if name in n.reads)

    def value(self, name: str) -> Value | None:
        """The type of a value or of a constant, or None where nothing is known."""
        if name in self.initializers:
            array = self.initializers[name]
            return Value(name, array.dtype, array.shape)
        return self.values.get(name)

    def is_output(self, name: str) -> bool:
        return any(v.name == name for v in self.outputs)

    def with_nodes(
        self,
        nodes: Iterable[Node],
        *,
        values: Mapping[str, Value] | None = None,
        initializers: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> Graph:
        """The same graph with other nodes; given values and constants are added to the maps."""
        return replace(
            self,
            nodes=tuple(nodes),
            values={**self.values, **(values or {})},
            initializers={**self.initializers, **(initializers or {})},
        )

    def __str__(self) -> str:
        lines = [f"graph {self.name}", *(f"  note   {n}" for n in self.notes)]
        lines += [f"  input  {v}" for v in self.inputs]
        used = [n for node in self.nodes for n in node.reads if n in self.initializers]
        for name in dict.fromkeys(used):
            array = self.initializers[name]
            lines.append(f"  const  {name}: {array.dtype.name}{list(array.shape)}{_zeros(array)}")
        for node in self.nodes:
            types = ", ".join(
                str(self.values[o]).split(": ", 1)[1] for o in node.writes if o in self.values
            )
            lines.append(f"  {node}" + (f" -> {types}" if types else ""))
        lines += [f"  output {v}" for v in self.outputs]
        return "\n".join(lines)


def _zeros(array: np.ndarray[Any, Any]) -> str:
    """Share of zeros, for constants large enough that it matters."""
    if array.ndim < 2 or array.size < 64 or not np.issubdtype(array.dtype, np.number):
        return ""
    return f" {1 - np.count_nonzero(array) / array.size:.1%} zero"


def _short(value: Any) -> str:
    """An attribute in a few characters: arrays and subgraphs by kind only."""
    if isinstance(value, np.ndarray):
        if value.size <= 4:
            return str(value.tolist())
        return f"{value.dtype.name}{list(value.shape)}"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= 40 and "\n" not in text else f"<{type(value).__name__}>"
