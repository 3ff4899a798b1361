"""How much arithmetic each node asks for, zeros counted, so that a fallback's weight is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from engine.graph import ROWS, TOKENS, Graph, Node

TYPICAL_TOKENS = 128
"""Of a row, where no batch tells: attention grows with the square of it."""


def multiply_adds(node: Node, graph: Graph, tokens: int) -> int:
    """Dense multiply-adds of a row, of `tokens` tokens where it is a sequence; 0 for what
    multiplies no matrices, or where shapes are open."""
    rule = _RULES.get(node.label)
    if rule is None or len(node.inputs) < 2 or not node.outputs:
        return 0
    dims = _dims(node.outputs[0], graph, tokens)
    if not dims or graph.values[node.outputs[0]].shape[0] != ROWS:  # type: ignore[index]
        return 0
    return math.prod(dims[1:]) * rule(node, graph, tokens)


def _dims(name: str, graph: Graph, tokens: int) -> tuple[int, ...]:
    """Dimensions of a value or constant, 0 for one that is open; nothing where none is known."""
    if name in graph.initializers:
        return tuple(int(d) for d in graph.initializers[name].shape)
    value = graph.values.get(name)
    if value is None or value.shape is None:
        return ()
    return tuple(d if isinstance(d, int) else tokens if d == TOKENS else 0 for d in value.shape)


def _last_of_first(node: Node, graph: Graph, tokens: int) -> int:
    """Inputs of a product: the last dimension of what is multiplied."""
    dims = _dims(node.inputs[0], graph, tokens)
    return dims[-1] if dims else 0


def _kernel_size(node: Node, graph: Graph, tokens: int) -> int:
    """Weights behind one output of a convolution: all dimensions of W but the first."""
    return math.prod(_dims(node.inputs[1], graph, tokens)[1:])


def _keys_and_values(node: Node, graph: Graph, tokens: int) -> int:
    """Behind one feature of a query: a product with it for each key, and one for each value; of
    the keys that it sees."""
    seen = _seen(node.attributes, tokens)
    return 2 * round(seen)


def _seen(attributes: Mapping[str, Any], tokens: int) -> float:
    """Keys that a query sees, over all queries: all, unless there are bounds."""
    total = float(tokens)
    for bound in (int(attributes.get("back", -1)), int(attributes.get("ahead", -1))):
        hidden = max(0, tokens - 1 - bound) if bound >= 0 else 0
        total -= hidden * (hidden + 1) / 2 / tokens if tokens else 0
    return total


_RULES: dict[str, Callable[[Node, Graph, int], int]] = {
    "colonnade.Conv": _kernel_size,
    "colonnade.Linear": _last_of_first,
    "Attention": _keys_and_values,
    "colonnade.Attention": _keys_and_values,
    "MatMul": _last_of_first,
    "Gemm": _last_of_first,
    "MatMulInteger": _last_of_first,
    "Conv": _kernel_size,
    "ConvInteger": _kernel_size,
}
