"""Pictures as they lie in files, fed to a model that wants them normalised: the nodes between.

y = (x - mean) / std for each channel, written in front of the model as Cast, Sub and Div, so that
rewrites may fold them and that a program's fingerprint holds the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from engine.errors import EngineError
from engine.graph import Graph, Node, Value

RANK = 4
"""Of a batch of pictures: `[N, C, H, W]` or `[N, H, W, C]`."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What an input takes instead of normalised numbers."""

    dtype: str
    """numpy element type as it will be fed, "uint8" or a float."""
    mean: tuple[float, ...]
    """Of each channel, in units of what is fed."""
    std: tuple[float, ...]
    channel_axis: int
    """Of the batch: 1 for `[N, C, H, W]`, 3 for `[N, H, W, C]`."""


def with_pixels(graph: Graph, pixels: Mapping[str, Pixels]) -> Graph:
    """The graph with those inputs taking pixels; their names stay."""
    for name, how in pixels.items():
        graph = _with_one(graph, name, how)
    return graph


def _with_one(graph: Graph, name: str, how: Pixels) -> Graph:
    """Nodes that read the input read `name/normalised` instead."""
    value = next((v for v in graph.inputs if v.name == name), None)
    if value is None or value.shape is None or len(value.shape) != RANK:
        raise EngineError(f"pixels: expected an input of pictures, [N, C, H, W], got {name!r}")
    if graph.is_output(name) or any(name in node.captures for node in graph.nodes):
        raise EngineError(
            f"input {name!r}: expected only nodes of the graph itself to read it, got a subgraph "
            "or an output of the model that does; normalise the field instead"
        )
    nodes, constants = _nodes(graph, value, how)
    fed = replace(value, dtype=np.dtype(how.dtype))
    made = {o: Value(o, _made(n, value, fed), value.shape) for n in nodes for o in n.outputs}
    last = nodes[-1].outputs[0] if nodes else name
    rest = (
        replace(node, inputs=tuple(last if i == name else i for i in node.inputs))
        for node in graph.nodes
    )
    inputs = tuple(fed if v.name == name else v for v in graph.inputs)
    changed = graph.with_nodes([*nodes, *rest], values={**made, name: fed}, initializers=constants)
    return replace(changed, inputs=inputs)


def _nodes(graph: Graph, value: Value, how: Pixels) -> tuple[list[Node], dict[str, np.ndarray]]:
    """In order; only those that change something."""
    shape = [1] * (RANK - 1)
    shape[how.channel_axis - 1] = len(how.mean)
    found: list[Node] = []
    constants: dict[str, np.ndarray] = {}

    def add(op: str, *more: str, **attributes: int) -> None:
        before = found[-1].outputs[0] if found else value.name
        name = f"{value.name}/{op.lower()}{len(found)}"
        found.append(Node(name, op, (before, *more), (f"{name}_out",), attributes=attributes))

    if how.dtype != "float32":
        add("Cast", to=_FLOAT32)
    for op, name, numbers, idle in (("Sub", "mean", how.mean, 0), ("Div", "std", how.std, 1)):
        if any(number != idle for number in numbers):
            constant = f"{value.name}/{name}"
            constants[constant] = np.array(numbers, np.float32).reshape(shape)
            add(op, constant)
    if value.dtype == np.float16:
        add("Cast", to=_FLOAT16)
    return found, constants


_FLOAT32, _FLOAT16 = 1, 10
"""ONNX's numbers of element types."""


def _made(node: Node, value: Value, fed: Value) -> np.dtype:
    """Element type of a node's output."""
    last = node.op == "Cast" and node.attributes["to"] == _FLOAT16
    return value.dtype if last else np.dtype(np.float32)
