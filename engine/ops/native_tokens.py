"""How the operators over tokens ask for their kernels: see engine/ops/native.py for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph import NATIVE, ROWS, TOKENS, Graph, Node, Value
from engine.kernels.table import IDS, POOL_NAMES
from engine.ops.work import Alias, Map, Refusal, Work, float_panel, flowing, misfit
from engine.segments import OFFSETS, POSITIONS, Count, Panel, Place, Stride

Array = np.ndarray[Any, Any]


def layer_norm(node: Node, graph: Graph) -> Work | Refusal:
    """`colonnade.LayerNorm`, LayerNormalization and RMSNormalization over the last axis."""
    x = float_panel(graph, node, node.inputs[0])
    if isinstance(x, Refusal):
        return x
    assert x.shape is not None
    rank, axis = len(x.shape), int(node.attributes.get("axis", -1))
    width = x.shape[-1]
    if node.domain == NATIVE:
        width = graph.initializers[node.inputs[1]].size
    if axis not in (-1, rank - 1) or not isinstance(width, int) or rank < 2:
        return Refusal(f"over more than the last axis of {x}")
    constants: list[Array] = []
    for index, absent in ((1, 1.0), (2, 0.0)):
        name = node.inputs[index] if len(node.inputs) > index else ""
        array = graph.initializers.get(name, np.float32(absent)) if name else np.float32(absent)
        if (name and name not in graph.initializers) or np.size(array) not in (1, width):
            return Refusal(f"its {name} is not a constant of {width} features")
        flat = np.broadcast_to(np.asarray(array, np.float32).reshape(-1), (width,))
        constants.append(np.ascontiguousarray(flat))
    epsilon = np.array([node.attributes.get("epsilon", 1e-5)], np.float32)
    centred = node.attributes.get("centred", node.op != "RMSNormalization")
    wrong = misfit(node, graph, x, x.features or 0)
    if wrong:
        return wrong
    outer = (x.features or 0) // max(1, width)
    scale, bias = constants
    operands = (Panel(x.name), Panel(node.outputs[0]), outer, width, scale, bias, epsilon)
    kernel = f"{'layernorm' if centred else 'rmsnorm'}_f32"
    return Map(kernel, operands, (x.name,), node.outputs[0], f"epsilon={epsilon[0]:.3g}")


def positional(node: Node, graph: Graph) -> Work | Refusal:
    """The same kernel as for an embedding: positions are ids that the session knows."""
    table = graph.initializers.get(node.inputs[1])
    if table is None or table.ndim != 2 or table.dtype != np.float32:
        return Refusal("its table is not constant")
    x = flowing(graph, node, node.inputs[0])
    wrong = x if isinstance(x, Refusal) else misfit(node, graph, x, table.shape[1])
    if wrong:
        return wrong
    return _lookup("embed_int64", Place(POSITIONS), table, node.outputs[0])


def counted(node: Node, graph: Graph) -> Work | Refusal:
    """And the same again: what it counts is known before the segment runs."""
    table, ids = graph.initializers[node.inputs[1]], flowing(graph, node, node.inputs[0])
    wrong = ids if isinstance(ids, Refusal) else misfit(node, graph, ids, table.shape[1])
    if wrong:
        return wrong
    count = Count(node.inputs[0], node.attributes["padding"], node.attributes["first"])
    return _lookup("embed_int64", count, table, node.outputs[0])


def gather(node: Node, graph: Graph) -> Work | Refusal:
    """Rows of a constant table by ids, or the first or last token of each sequence."""
    if node.inputs[0] in graph.initializers:
        return _embedding(node, graph)
    x, y = (float_panel(graph, node, n) for n in (node.inputs[0], node.outputs[0]))
    for value in (x, y):
        if isinstance(value, Refusal):
            return value
    assert isinstance(x, Value) and isinstance(y, Value)
    index = graph.initializers.get(node.inputs[1])
    pools = x.has_tokens and not y.has_tokens and y.features == x.features
    if not pools or int(node.attributes.get("axis", 0)) != 1:
        return Refusal("no kernel for this Gather")
    if index is None or index.size != 1 or int(index.reshape(-1)[0]) not in (0, -1):
        return Refusal("a token of the middle of a sequence")
    which = "first" if int(index.reshape(-1)[0]) == 0 else "last"
    return _pool(f"take_{which}_f32", x, node.outputs[0])


def _embedding(node: Node, graph: Graph) -> Work | Refusal:
    table, ids = graph.initializers[node.inputs[0]], flowing(graph, node, node.inputs[1])
    if isinstance(ids, Refusal):
        return ids
    if table.dtype != np.float32 or table.ndim != 2 or node.attributes.get("axis", 0) != 0:
        return Refusal(f"its table is {table.dtype.name}{list(table.shape)}")
    if ids.shape != (ROWS, TOKENS) or ids.dtype.name not in IDS:
        return Refusal(f"{ids} are not ids of tokens")
    if graph.producer(ids.name) is not None:
        return Refusal(f"{ids.name} is computed, not fed")
    wrong = misfit(node, graph, ids, table.shape[1])
    if wrong:
        return wrong
    kernel = f"embed_{ids.dtype.name}"
    return _lookup(kernel, Place(ids.name), table, node.outputs[0])


def _lookup(kernel: str, ids: Place | Count, table: Array, y: str) -> Map:
    entries, features = table.shape
    operands = (Panel(y), ids, features, table, entries)
    return Map(kernel, operands, (), y, f"{entries} entries by {ids}")


def _pool(kernel: str, x: Value, y: str) -> Map:
    operands = (Panel(x.name), Stride(x.name), x.features or 0, Place(y), Place(OFFSETS))
    return Map(kernel, operands, (x.name,), y, whole=True, direct=True)


def reduction(node: Node, graph: Graph) -> Work | Refusal:
    """Over the tokens of each sequence, or over neighbouring features."""
    x, y = (float_panel(graph, node, n) for n in (node.inputs[0], node.outputs[0]))
    for value in (x, y):
        if isinstance(value, Refusal):
            return value
    assert isinstance(x, Value) and isinstance(y, Value) and x.shape is not None
    axes = _axes(node, graph)
    if axes is None:
        return Refusal("its axes are not constant")
    rank, lead = len(x.shape), 2 if x.has_tokens else 1
    if any(not -rank <= a < rank for a in axes):
        return Refusal(f"axes {axes} are not all of {x}")
    over = sorted({a % rank for a in axes} or range(rank))
    if x.has_tokens and over == [1]:
        name = node.op.removeprefix("Reduce")
        if name not in POOL_NAMES:
            return Refusal(f"no kernel for {node.op} over tokens")
        if y.has_tokens or y.features != x.features:
            return Refusal(f"{x} does not become {y}")
        return _pool(f"pool_{name.lower()}_f32", x, y.name)
    if over[0] < lead or over != list(range(over[0], over[-1] + 1)):
        return Refusal(f"over the axes {over} of {x}")
    dims = [int(d) for d in x.shape[lead:]]
    first, last = over[0] - lead, over[-1] - lead + 1
    parts = (dims[:first], dims[first:last], dims[last:])
    outer, axis, inner = (int(np.prod(p, dtype=np.int64)) for p in parts)
    wrong = misfit(node, graph, x, outer * inner)
    if wrong:
        return wrong
    operands = (Panel(x.name), Panel(y.name), outer, axis, inner)
    return Map(f"{node.op.lower()}_f32", operands, (x.name,), y.name)


def _axes(node: Node, graph: Graph) -> list[int] | None:
    """Attribute before opset 13 or 18, an input since; empty for all; None where unknown."""
    if len(node.inputs) > 1 and node.inputs[1]:
        array = graph.initializers.get(node.inputs[1])
        return None if array is None or not array.size else [int(a) for a in array.reshape(-1)]
    given = node.attributes.get("axes")
    return None if given is None else [int(a) for a in given]


def repeat(node: Node, graph: Graph) -> Work | Refusal:
    x = float_panel(graph, node, node.inputs[0])
    if isinstance(x, Refusal):
        return x
    count = int(node.attributes["count"])
    wrong = misfit(node, graph, x, (x.features or 0) * count)
    if wrong:
        return wrong
    operands = (Panel(x.name), Panel(node.outputs[0]), x.features or 0, 1, count)
    return Map("copy_f32", operands, (x.name,), node.outputs[0])


def part(node: Node, graph: Graph) -> Work | Refusal:
    """Features lie one after the other in a panel: a part of them is a view."""
    x = float_panel(graph, node, node.inputs[0])
    if isinstance(x, Refusal):
        return x
    assert x.shape is not None
    if x.features != x.shape[-1]:
        return Refusal(f"a part of the last axis of {x}")
    start, count = int(node.attributes["start"]), int(node.attributes["count"])
    wrong = misfit(node, graph, x, count)
    if wrong or start < 0 or start + count > x.features:
        return wrong or Refusal(f"{start} and {count} features on are not all in {x}")
    return Alias(x.name, node.outputs[0], start)
