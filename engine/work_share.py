"""How much arithmetic each node asks for, zeros counted, so that a fallback's weight is known."""

from __future__ import annotations

from collections.abc import Callable

from engine.graph import Graph, Node


def multiply_adds(node: Node, graph: Graph) -> int:
    """Dense multiply-adds a row; 0 for what multiplies no matrices, or where shapes are open."""
    rule = _RULES.get(node.label)
    if rule is None or len(node.inputs) < 2 or not node.outputs:
        return 0
    value = graph.values.get(node.outputs[0])
    features = value.features if value is not None else None
    return (features or 0) * rule(node, graph)


def _dims(name: str, graph: Graph) -> tuple[int, ...]:
    """Known dimensions of a value or constant; nothing where one is open."""
    if name in graph.initializers:
        return tuple(int(d) for d in graph.initializers[name].shape)
    value = graph.values.get(name)
    if value is None or value.shape is None:
        return ()
    return tuple(d if isinstance(d, int) else 0 for d in value.shape)


def _last_of_first(node: Node, graph: Graph) -> int:
    """Inputs of a product: the last dimension of what is multiplied."""
    dims = _dims(node.inputs[0], graph)
    return dims[-1] if dims else 0


def _kernel_size(node: Node, graph: Graph) -> int:
    """Weights behind one output of a convolution: all dimensions of W but the first."""
    size = 1
    for dim in _dims(node.inputs[1], graph)[1:]:
        size *= dim
    return size


_RULES: dict[str, Callable[[Node, Graph], int]] = {
    "colonnade.Linear": _last_of_first,
    "MatMul": _last_of_first,
    "Gemm": _last_of_first,
    "MatMulInteger": _last_of_first,
    "Conv": _kernel_size,
    "ConvInteger": _kernel_size,
}
