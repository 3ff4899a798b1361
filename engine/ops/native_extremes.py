"""How ArgMax, ArgMin and TopK over features ask for their kernels."""

from __future__ import annotations

import math

import numpy as np

from engine.graph import Graph, Node
from engine.ops.work import Map, Refusal, Work, float_panel, flowing
from engine.segments import Panel

MOST_PLACES = 1 << 24
"""Along the axis: up to here a panel's floats count in ones."""
MOST_APART = 1 << 14
"""Features, where those along the axis do not lie side by side: classes of pixels, whose panels of
all pixels would be many megabytes."""
MOST_TOP = 16
"""k up to which TopK has a kernel, which keeps them in order one by one."""


def extreme(node: Node, graph: Graph) -> Work | Refusal:
    """ArgMax and ArgMin."""
    parts = _parts(node, graph, int(node.attributes.get("axis", 0)))
    if isinstance(parts, Refusal):
        return parts
    outer, axis, inner = parts
    x, y = node.inputs[0], node.outputs[0]
    wrong = _misfit(node, graph, y, outer * inner, np.dtype(np.int64))
    if wrong:
        return wrong
    which = "last" if node.attributes.get("select_last_index", 0) else "first"
    operands = (Panel(x), Panel(y), outer, axis, inner)
    return Map(f"{node.op.lower()}_{which}_f32", operands, (x,), y, places=y)


def top(node: Node, graph: Graph) -> Work | Refusal:
    """TopK, in order whether that is asked for or not."""
    parts = _parts(node, graph, int(node.attributes.get("axis", -1)))
    if isinstance(parts, Refusal):
        return parts
    k = _count(node, graph)
    if isinstance(k, Refusal):
        return k
    outer, axis, inner = parts
    if not 0 < k <= min(axis, MOST_TOP):
        return Refusal(f"k is {k}; the kernel has it from 1 to {min(axis, MOST_TOP)}")
    x, (y, places) = node.inputs[0], node.outputs
    wrong = _misfit(node, graph, y, outer * k * inner, np.dtype(np.float32))
    wrong = wrong or _misfit(node, graph, places, outer * k * inner, np.dtype(np.int64))
    if wrong:
        return wrong
    most = "max" if node.attributes.get("largest", 1) else "min"
    operands = (Panel(x), Panel(y), Panel(places), outer, axis, inner, k)
    return Map(f"top{most}_f32", operands, (x,), y, f"k={k}", places=places)


def _count(node: Node, graph: Graph) -> int | Refusal:
    """k: an attribute before opset 10, an input since."""
    if len(node.inputs) < 2:
        return int(node.attributes.get("k", 0))
    found = graph.initializers.get(node.inputs[1])
    if found is None or found.size != 1:
        return Refusal(f"its k, {node.inputs[1]}, is not constant")
    return int(found.reshape(-1)[0])


def _parts(node: Node, graph: Graph, given: int) -> tuple[int, int, int] | Refusal:
    """Features before the axis, along it and behind it."""
    x = float_panel(graph, node, node.inputs[0])
    if isinstance(x, Refusal):
        return x
    assert x.shape is not None
    rank = len(x.shape)
    if not -rank <= given < rank:
        return Refusal(f"axis {given} is not one of {x}")
    if given % rank < x.lead:
        return Refusal(f"over {x.shape[given]}, not over features")
    dims = [int(d) for d in x.shape[x.lead :]]
    axis = given % rank - x.lead
    outer, length, inner = math.prod(dims[:axis]), dims[axis], math.prod(dims[axis + 1 :])
    if not 0 < length <= MOST_PLACES:
        return Refusal(f"{length} places, not 1 to {MOST_PLACES:,}")
    if inner > 1 and math.prod(dims) > MOST_APART:
        return Refusal(f"{x} has more than {MOST_APART:,} features, with the axis not the last")
    return outer, length, inner


def _misfit(
    node: Node, graph: Graph, name: str, features: int, dtype: np.dtype[np.generic]
) -> Refusal | None:
    """Why a result cannot be what the kernel writes unchecked."""
    x, y = graph.values[node.inputs[0]], flowing(graph, node, name)
    if isinstance(y, Refusal):
        return y
    same = (y.features, y.has_tokens, y.dtype) == (features, x.has_tokens, dtype)
    return None if same else Refusal(f"{x} does not become {y}")
