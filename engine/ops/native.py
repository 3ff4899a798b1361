"""NATIVE_OPS: the operators that have kernels, and how each asks for them.

One row an operator, keyed as `Node.label` prints it. A function gives the work, or the reason why
this node is left to the reference; `explain` prints that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.graph import Graph, Node, Value
from engine.kernels.table import BINARY_NAMES, IMPORTS, POINTS, UNARY_NAMES
from engine.ops.unary import UNARY
from engine.ops.work import Alias, Linear, Map, Refusal, Work, float_panel, flowing
from engine.program import Panel

MAX_REPEATS = 64
"""Positions of [rows, positions, K] that a Linear is unrolled over; more are left to the
reference until tokens are columns of their own."""


def lower(node: Node, graph: Graph) -> Work | Refusal:
    """The work of one node, or why there is none."""
    rule = NATIVE_OPS.get(node.label)
    if rule is None:
        return Refusal(f"no kernel for {node.label}")
    if len(node.writes) != 1:
        return Refusal(f"expected one output, got {len(node.writes)}")
    return rule(node, graph)


def linear(node: Node, graph: Graph) -> Work | Refusal:
    x, y = float_panel(graph, node, node.inputs[0]), float_panel(graph, node, node.outputs[0])
    for value in (x, y):
        if isinstance(value, Refusal):
            return value
    weights = graph.initializers.get(node.inputs[1])
    if weights is None:
        return Refusal(f"the weights {node.inputs[1]} are not constant")
    bias_name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = graph.initializers.get(bias_name)
    if bias is None:
        bias = np.zeros(len(weights), np.float32)
    assert isinstance(x, Value)
    repeats = (x.features or 0) // max(1, weights.shape[1])
    if repeats > MAX_REPEATS:
        return Refusal(f"{repeats} positions a row, more than the {MAX_REPEATS} unrolled")
    activations = tuple(tuple(a) for a in node.attributes.get("activations", ()))
    unknown = [name for name, *_ in activations if name not in UNARY_NAMES]
    if unknown:
        return Refusal(f"no kernel for the activation {unknown[0]}")
    return Linear(x.name, node.outputs[0], weights, bias, activations, repeats)


def unary(node: Node, graph: Graph) -> Work | Refusal:
    x = float_panel(graph, node, node.inputs[0])
    if isinstance(x, Refusal):
        return x
    name, pair = _unary_parameters(node, graph)
    if pair is None:
        return Refusal("bounds that are not constant")
    return map_unary(name, pair, x.name, node.outputs[0], x.features or 0)


def map_unary(name: str, pair: tuple[float, float], x: str, y: str, features: int) -> Map:
    """y = f(x; a, b) over all features of a panel."""
    parameters = np.array(pair, np.float32)
    operands = (Panel(x), Panel(y), features, parameters)
    kernel = f"{name.lower()}_f32_x{POINTS}"
    return Map(kernel, operands, (x,), y, _parameters_text(name, pair))


def _parameters_text(name: str, pair: tuple[float, float]) -> str:
    given = UNARY[name].attributes
    return ", ".join(f"{key}={value:.6g}" for (key, _), value in zip(given, pair, strict=False))


def _unary_parameters(node: Node, graph: Graph) -> tuple[str, tuple[float, float] | None]:
    """The table's name for the node and its (a, b); None where they are not constant."""
    if node.op == "Clip" and len(node.inputs) > 1:  # bounds are inputs since opset 11
        bounds: list[float] = []
        for index, absent in ((1, -np.inf), (2, np.inf)):
            name = node.inputs[index] if len(node.inputs) > index else ""
            if name and name not in graph.initializers:
                return "Clip", None
            bounds.append(float(graph.initializers[name].item()) if name else absent)
        return "Clip", (bounds[0], bounds[1])
    name = node.op
    if name == "Gelu" and node.attributes.get("approximate") == "tanh":
        name = "GeluTanh"
    return name, UNARY[name].parameters(node.attributes)


def binary(node: Node, graph: Graph) -> Work | Refusal:
    out = float_panel(graph, node, node.outputs[0])
    if isinstance(out, Refusal):
        return out
    one, two = node.inputs
    constants = [n for n in (one, two) if n in graph.initializers]
    if constants:
        return _with_constant(node, graph, out, constant_first=constants[0] == one)
    for name in (one, two):
        value = float_panel(graph, node, name)
        if isinstance(value, Refusal):
            return value
        if value.shape != out.shape:
            return Refusal(f"{value} is broadcast to {out}")
    operands = (Panel(one), Panel(two), Panel(out.name), out.features or 0)
    return Map(f"{node.op.lower()}_f32_x{POINTS}", operands, (one, two), out.name)


def _with_constant(node: Node, graph: Graph, out: Value, constant_first: bool) -> Work | Refusal:
    flow, fixed = (node.inputs[1], node.inputs[0]) if constant_first else node.inputs[:2]
    x = float_panel(graph, node, flow)
    if isinstance(x, Refusal):
        return x
    if x.shape != out.shape:
        return Refusal(f"{x} is broadcast to {out}")
    constant = graph.initializers[fixed]
    assert out.shape is not None
    if constant.ndim == len(out.shape) and constant.shape[0] != 1:
        return Refusal(f"{fixed} differs from row to row of the batch")
    row_shape = tuple(int(d) for d in out.shape[1:])
    flat = _over_features(constant, row_shape)
    stride = 0 if flat.size == 1 else 4
    suffix = "_constant_first" if constant_first else "_constant"
    operands = (Panel(x.name), Panel(out.name), out.features or 0, flat, stride)
    detail = f"{flat[0]:.6g}" if flat.size == 1 else f"constant[{flat.size}]"
    kernel = f"{node.op.lower()}{suffix}_f32_x{POINTS}"
    return Map(kernel, operands, (x.name,), out.name, detail)


def _over_features(constant: np.ndarray[Any, Any], row_shape: tuple[int, ...]) -> Any:
    """A constant spread over the features of a row, or one number where it is one."""
    if constant.size == 1:
        return constant.reshape(1).astype(np.float32)
    trailing = constant.reshape(constant.shape[-len(row_shape) :]) if row_shape else constant
    return np.ascontiguousarray(np.broadcast_to(trailing, row_shape), np.float32).reshape(-1)


def softmax(node: Node, graph: Graph) -> Work | Refusal:
    x = float_panel(graph, node, node.inputs[0])
    if isinstance(x, Refusal):
        return x
    assert x.shape is not None
    rank = len(x.shape)
    before_13 = graph.opsets.get("", 13) < 13
    axis = int(node.attributes.get("axis", 1 if before_13 else -1)) % rank
    if axis == 0:
        return Refusal("over the rows of the batch")
    dims = [int(d) for d in x.shape[1:]]
    outer = int(np.prod(dims[: axis - 1], dtype=np.int64))
    # before opset 13 everything from the axis on is one axis
    length = int(np.prod(dims[axis - 1 :] if before_13 else dims[axis - 1 : axis], dtype=np.int64))
    inner = 1 if before_13 else int(np.prod(dims[axis:], dtype=np.int64))
    operands = (Panel(x.name), Panel(node.outputs[0]), outer, length, inner)
    return Map(f"{node.op.lower()}_f32_x{POINTS}", operands, (x.name,), node.outputs[0])


def view(node: Node, graph: Graph) -> Work | Refusal:
    """A reshape: nothing moves in a panel as long as rows stay rows."""
    x, y = flowing(graph, node, node.inputs[0]), flowing(graph, node, node.outputs[0])
    for value in (x, y):
        if isinstance(value, Refusal):
            return value
    assert isinstance(x, Value) and isinstance(y, Value)
    if x.features != y.features:
        return Refusal(f"{x} to {y} does not keep the rows")
    if x.dtype.name not in IMPORTS:
        return Refusal(f"{x.dtype.name} cannot be imported into a panel")
    return Alias(x.name, y.name)


def cast(node: Node, graph: Graph) -> Work | Refusal:
    """To float32 only: a batch is rounded to float32 when it is imported, which is the cast."""
    x, y = flowing(graph, node, node.inputs[0]), float_panel(graph, node, node.outputs[0])
    for value in (x, y):
        if isinstance(value, Refusal):
            return value
    assert isinstance(x, Value)
    if x.dtype.name not in IMPORTS:
        return Refusal(f"{x.dtype.name} cannot be imported into a panel")
    return Alias(x.name, node.outputs[0])


def identity(node: Node, graph: Graph) -> Work | Refusal:
    x = flowing(graph, node, node.inputs[0])
    if isinstance(x, Refusal):
        return x
    return view(node, graph)


Rule = Callable[[Node, Graph], Work | Refusal]
NATIVE_OPS: dict[str, Rule] = {
    "colonnade.Linear": linear,
    **{name: unary for name in UNARY_NAMES if name not in ("GeluTanh", "Silu", "Square")},
    **{f"colonnade.{name}": unary for name in ("Gelu", "GeluTanh", "Silu", "Square")},
    **dict.fromkeys(BINARY_NAMES, binary),
    "Softmax": softmax,
    "LogSoftmax": softmax,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), view),
    **dict.fromkeys(("Identity", "Dropout"), identity),
    "Cast": cast,
}
