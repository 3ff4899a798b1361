"""NATIVE_OPS: the operators that have kernels, and how each asks for them.

One row an operator, keyed as `Node.label` prints it. A function gives the work, or the reason why
this node is left to the reference; `explain` prints that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.graph import Graph, Node, Value
from engine.kernels.table import BINARY_NAMES, IMPORTS, REDUCTION_NAMES, UNARY_NAMES
from engine.ops.native_attention import attention, rotary
from engine.ops.native_extremes import extreme, top
from engine.ops.native_tokens import (
    counted,
    gather,
    layer_norm,
    part,
    positional,
    reduction,
    repeat,
)
from engine.ops.unary import UNARY, Array, unary_of
from engine.ops.work import Alias, Joined, Linear, Map, Refusal, Work, float_panel, flowing
from engine.segments import Panel

MAX_REPEATS = 64
"""Positions of [rows, positions, K] that a Linear is unrolled over; more are left to the
reference until tokens are columns of their own."""


def lower(node: Node, graph: Graph) -> Work | Refusal:
    """The work of one node, or why there is none."""
    rule = NATIVE_OPS.get(node.label)
    if rule is None:
        return Refusal(f"no kernel for {node.label}")
    expected = OUTPUTS.get(node.label, 1)
    if len(node.writes) != expected:
        return Refusal(f"expected outputs: {expected}, got {len(node.writes)}")
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
    assert isinstance(x, Value) and isinstance(y, Value)
    reason = _misfit(x, y, weights, bias)
    if reason:
        return Refusal(reason)
    repeats = (x.features or 0) // max(1, weights.shape[1])
    if repeats > MAX_REPEATS:
        return Refusal(f"{repeats} positions a row, more than the {MAX_REPEATS} unrolled")
    activations = tuple(tuple(a) for a in node.attributes.get("activations", ()))
    unknown = [name for name, *_ in activations if name not in UNARY_NAMES]
    if unknown:
        return Refusal(f"no kernel for the activation {unknown[0]}")
    rest = node.inputs[3] if len(node.inputs) > 3 else ""
    if rest:
        added = float_panel(graph, node, rest)
        if isinstance(added, Refusal):
            return added
        if added.shape != y.shape:
            return Refusal(f"it adds {added} to {y}")
    return Linear(x.name, node.outputs[0], weights, bias, activations, repeats, rest)


def _misfit(x: Value, y: Value, weights: Array, bias: Array) -> str | None:
    """Why W[M, K] does not take x[..., K] to y[..., M]: a kernel reads and writes unchecked."""
    assert x.shape is not None
    if any(a.dtype != np.float32 for a in (weights, bias)) or weights.ndim != 2:
        return f"its weights are {weights.dtype.name}{list(weights.shape)}, not float32[M, K]"
    outputs, inputs = weights.shape
    wanted = (*x.shape[:-1], outputs)
    if len(wanted) < 2 or x.shape[-1] != inputs or y.shape != wanted or bias.shape != (outputs,):
        return f"weights[{outputs}, {inputs}] and bias{list(bias.shape)} do not take {x} to {y}"
    return None


def _same_shape(node: Node, graph: Graph, index: int = 0) -> Value | Refusal:
    """The input, where it and the result are float32 panels of one shape."""
    x, y = float_panel(graph, node, node.inputs[index]), float_panel(graph, node, node.outputs[0])
    for value in (x, y):
        if isinstance(value, Refusal):
            return value
    assert isinstance(x, Value) and isinstance(y, Value)
    return x if x.shape == y.shape else Refusal(f"{x} is broadcast to {y}")


def unary(node: Node, graph: Graph) -> Work | Refusal:
    x = _same_shape(node, graph)
    if isinstance(x, Refusal):
        return x
    name, pair = _unary_parameters(node, graph)
    if pair is None:
        return Refusal("bounds that are not one constant number each")
    return map_unary(name, pair, x.name, node.outputs[0], x.features or 0)


def map_unary(name: str, pair: tuple[float, float], x: str, y: str, features: int) -> Map:
    """y = f(x; a, b) over all features of a panel."""
    parameters = np.array(pair, np.float32)
    operands = (Panel(x), Panel(y), features, parameters)
    kernel = f"{name.lower()}_f32"
    return Map(kernel, operands, (x,), y, _parameters_text(name, pair))


def _parameters_text(name: str, pair: tuple[float, float]) -> str:
    given = UNARY[name].attributes
    return ", ".join(f"{key}={value:.6g}" for (key, _), value in zip(given, pair, strict=False))


def _unary_parameters(node: Node, graph: Graph) -> tuple[str, tuple[float, float] | None]:
    """The table's name for the node and its (a, b); None where they are no constant numbers."""
    name = node.op
    if name == "Clip":  # bounds are inputs since opset 11
        found = unary_of(node, graph.initializers)
        return (name, found[1][1:]) if isinstance(found, tuple) else (name, None)
    if name == "Gelu" and node.attributes.get("approximate") == "tanh":
        name = "GeluTanh"
    return name, UNARY[name].parameters(node.attributes)


def binary(node: Node, graph: Graph) -> Work | Refusal:
    one, two = node.inputs
    constants = [n for n in (one, two) if n in graph.initializers]
    if constants:
        return _with_constant(node, graph, constant_first=constants[0] == one)
    x, other = (_same_shape(node, graph, index) for index in (0, 1))
    if isinstance(x, Refusal) != isinstance(other, Refusal):
        return _with_single(node, graph, single_first=isinstance(x, Refusal))
    for value in (other, x):
        if isinstance(value, Refusal):
            return value
    assert isinstance(x, Value)
    operands = (Panel(one), Panel(two), Panel(node.outputs[0]), x.features or 0)
    return Map(f"{node.op.lower()}_f32", operands, (one, two), node.outputs[0])


def prelu(node: Node, graph: Graph) -> Work | Refusal:
    if node.inputs[1] not in graph.initializers:
        return Refusal(f"its slopes {node.inputs[1]} are computed")
    return _with_constant(node, graph, constant_first=False)


def _with_single(node: Node, graph: Graph, single_first: bool) -> Work | Refusal:
    """x[..., K] op s[..., 1]: one number for all of the last axis."""
    index = 1 if single_first else 0
    x, s = _same_shape(node, graph, index), float_panel(graph, node, node.inputs[1 - index])
    for value in (x, s):
        if isinstance(value, Refusal):
            return value
    assert isinstance(x, Value) and isinstance(s, Value) and x.shape is not None
    if len(x.shape) <= x.lead or s.shape != (*x.shape[:-1], 1):
        return Refusal(f"{s} is broadcast to {x}")
    width = int(x.shape[-1])
    outer = (x.features or 0) // max(1, width)
    operands = (Panel(x.name), Panel(s.name), Panel(node.outputs[0]), outer, width)
    kernel = f"{node.op.lower()}_broadcast{'_first' if single_first else ''}_f32"
    return Map(kernel, operands, (x.name, s.name), node.outputs[0])


def _with_constant(node: Node, graph: Graph, constant_first: bool) -> Work | Refusal:
    fixed = node.inputs[0 if constant_first else 1]
    x = _same_shape(node, graph, 1 if constant_first else 0)
    if isinstance(x, Refusal):
        return x
    constant = graph.initializers[fixed]
    assert x.shape is not None
    if constant.ndim == len(x.shape) and constant.shape[0] != 1:
        return Refusal(f"{fixed} differs from row to row of the batch")
    row_shape = tuple(int(d) for d in x.shape[x.lead :])
    if not _spreads(constant.shape, row_shape):
        return Refusal(f"{fixed}{list(constant.shape)} does not fit {x}")
    flat = _over_features(constant, row_shape)
    stride = 0 if flat.size == 1 else 4
    suffix = "_constant_first" if constant_first else "_constant"
    operands = (Panel(x.name), Panel(node.outputs[0]), x.features or 0, flat, stride)
    detail = f"{flat[0]:.6g}" if flat.size == 1 else f"constant[{flat.size}]"
    kernel = f"{node.op.lower()}{suffix}_f32"
    return Map(kernel, operands, (x.name,), node.outputs[0], detail)


def _spreads(shape: tuple[int, ...], row_shape: tuple[int, ...]) -> bool:
    """Whether a constant broadcasts to the features of a row; ones in front do not count."""
    if np.prod(shape, dtype=np.int64) == 1:
        return len(shape) <= len(row_shape) + 2
    front = len(shape) - len(row_shape)
    pairs = zip(reversed(shape), reversed(row_shape), strict=False)
    return all(d == 1 for d in shape[: max(0, front)]) and all(c in (1, d) for c, d in pairs)


def _over_features(constant: np.ndarray[Any, Any], row_shape: tuple[int, ...]) -> Any:
    """A constant spread over the features of a row, or one number where it is one."""
    if constant.size == 1:
        return constant.reshape(1).astype(np.float32)
    trailing = constant.reshape(constant.shape[-len(row_shape) :]) if row_shape else constant
    return np.ascontiguousarray(np.broadcast_to(trailing, row_shape), np.float32).reshape(-1)


def softmax(node: Node, graph: Graph) -> Work | Refusal:
    x = _same_shape(node, graph)
    if isinstance(x, Refusal):
        return x
    assert x.shape is not None
    rank = len(x.shape)
    before_13 = graph.opsets.get("", 13) < 13
    given = int(node.attributes.get("axis", 1 if before_13 else -1))
    if not -rank <= given < rank:
        return Refusal(f"axis {given} is not one of {x}")
    axis = given % rank
    if axis < x.lead:
        return Refusal(f"over {x.shape[axis]}, not over features")
    axis -= x.lead - 1
    dims = [int(d) for d in x.shape[x.lead :]]
    outer = int(np.prod(dims[: axis - 1], dtype=np.int64))
    # before opset 13 everything from the axis on is one axis
    length = int(np.prod(dims[axis - 1 :] if before_13 else dims[axis - 1 : axis], dtype=np.int64))
    inner = 1 if before_13 else int(np.prod(dims[axis:], dtype=np.int64))
    operands = (Panel(x.name), Panel(node.outputs[0]), outer, length, inner)
    return Map(f"{node.op.lower()}_f32", operands, (x.name,), node.outputs[0])


def view(node: Node, graph: Graph) -> Work | Refusal:
    """A reshape: nothing moves in a panel as long as rows stay rows."""
    x, y = flowing(graph, node, node.inputs[0]), flowing(graph, node, node.outputs[0])
    for value in (x, y):
        if isinstance(value, Refusal):
            return value
    assert isinstance(x, Value) and isinstance(y, Value)
    if (x.features, x.lead) != (y.features, y.lead) or x.dtype != y.dtype:
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
    assert isinstance(x, Value) and isinstance(y, Value)
    if x.shape != y.shape:
        return Refusal(f"{x} is no cast of {y}")
    if x.dtype.name not in IMPORTS:
        return Refusal(f"{x.dtype.name} cannot be imported into a panel")
    return Alias(x.name, node.outputs[0])


def joined(node: Node, graph: Graph) -> Work | Refusal:
    """Concat of features: those of each input are copied to their place."""
    values = [float_panel(graph, node, name) for name in (*node.inputs, node.outputs[0])]
    for value in values:
        if isinstance(value, Refusal):
            return value
    *parts, y = (v for v in values if isinstance(v, Value))
    axis = int(node.attributes.get("axis", 0))
    rank = len(y.shape or ())
    if axis not in (-1, rank - 1) or any(len(v.shape or ()) != v.lead + 1 for v in (*parts, y)):
        return Refusal(f"it joins the axis {axis} of {parts[0]}")
    alike = all(v.lead == y.lead for v in parts)
    if not alike or sum(v.features or 0 for v in parts) != y.features:
        return Refusal(f"{', '.join(map(str, parts))} do not become {y}")
    return Joined(tuple(node.inputs), y.name)


def identity(node: Node, graph: Graph) -> Work | Refusal:
    x = flowing(graph, node, node.inputs[0])
    if isinstance(x, Refusal):
        return x
    return view(node, graph)


Rule = Callable[[Node, Graph], Work | Refusal]
_OWN_UNARY = ("Clip", "Gelu", "GeluTanh", "Select", "Silu", "Square")
NATIVE_OPS: dict[str, Rule] = {
    "colonnade.Linear": linear,
    **{name: unary for name in UNARY_NAMES if name not in ("GeluTanh", "Select", "Silu", "Square")},
    **{f"colonnade.{name}": unary for name in _OWN_UNARY},
    **dict.fromkeys(BINARY_NAMES, binary),
    "PRelu": prelu,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), view),
    **dict.fromkeys(("Identity", "Dropout"), identity),
    "Cast": cast,
    "Concat": joined,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "colonnade.LayerNorm"), layer_norm),
    **dict.fromkeys(REDUCTION_NAMES, reduction),
    **dict.fromkeys(("ArgMax", "ArgMin"), extreme),
    "TopK": top,
    "Gather": gather,
    "colonnade.Attention": attention,
    "colonnade.Part": part,
    "colonnade.Counted": counted,
    "colonnade.Positional": positional,
    "colonnade.Repeat": repeat,
    "colonnade.Rotary": rotary,
}

OUTPUTS = {"TopK": 2}
"""Of operators that do not have one."""
