"""What a node asks of the kernels: the step between operators and steps of a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.graph import Graph, Node, Value
from engine.segments import Operand

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Linear:
    """y = activations(W @ x + bias + rest), `repeats` times over consecutive features of them."""

    x: str
    y: str
    weights: Array
    """W[M, K] float32."""
    bias: Array
    """float32[M]."""
    activations: tuple[tuple[str, float, float], ...]
    repeats: int = 1
    rest: str = ""
    """A value like y, or empty."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x, self.rest) if self.rest else (self.x,)


PER_POINT = -1
"""Features of a panel that has one for each point of a tile."""


@dataclass(frozen=True, slots=True)
class Map:
    """One call of a kernel that leaves no choice."""

    kernel: str
    """Its name without the width of the tile."""
    operands: tuple[Operand, ...]
    reads: tuple[str, ...]
    """Values it takes as panels."""
    write: str
    detail: str = ""
    scratch: tuple[tuple[str, int], ...] = ()
    """Panels of its own, with their features."""
    whole: bool = False
    """For all sequences of a column at once, not tile by tile."""
    direct: bool = False
    """It writes rows of its result into the batch's array, and no panel."""
    places: str = ""
    """What it writes besides, or instead: whole numbers that floats hold exactly, and that leave
    the segment as int64."""
    over: str = ""
    """A value whose panel the result may be written into, where it has as many features and nobody
    reads it later."""

    @property
    def panels(self) -> tuple[str, ...]:
        """Values that it writes as panels."""
        written = () if self.direct else (self.write,)
        return tuple(dict.fromkeys((*written, *([self.places] if self.places else []))))


@dataclass(frozen=True, slots=True)
class Alias:
    """y is x under another name: a reshape that keeps rows, a cast that is already done."""

    x: str
    y: str
    shift: int = 0
    """Features of x before the first of y."""


@dataclass(frozen=True, slots=True)
class Joined:
    """y is the features of some values one after the other."""

    reads: tuple[str, ...]
    write: str


Work = Linear | Map | Alias | Joined


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node has no kernel."""

    reason: str


def flowing(graph: Graph, node: Node, name: str) -> Value | Refusal:
    """The value `name`, if a panel can hold it: rows first, features known."""
    value = graph.values.get(name)
    if value is None or value.shape is None:
        return Refusal(f"the shape of {name} is not known before the model runs")
    if not value.has_rows:
        return Refusal(f"{name} has no rows dimension: {value}")
    if value.features is None:
        return Refusal(f"{name} has free dimensions besides the rows: {value}")
    return value


def float_panel(graph: Graph, node: Node, name: str) -> Value | Refusal:
    """The value `name`, if a panel can hold it as float32."""
    value = flowing(graph, node, name)
    if isinstance(value, Value) and value.dtype != np.float32:
        return Refusal(f"{name} is {value.dtype.name}; kernels compute in float32")
    return value


def misfit(node: Node, graph: Graph, x: Value, features: int) -> Refusal | None:
    """Why the result cannot be as many features, a token where x has tokens: kernels write them
    unchecked."""
    y = float_panel(graph, node, node.outputs[0])
    if isinstance(y, Refusal) or (y.features, y.has_tokens) == (features, x.has_tokens):
        return y if isinstance(y, Refusal) else None
    return Refusal(f"{x} does not become {y}")
