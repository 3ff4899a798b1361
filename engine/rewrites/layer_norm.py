"""LayerNorm spelled out in nine nodes is put together again, as `colonnade.LayerNorm`.

    d = x - mean(x)        y = d / sqrt(mean(d * d) + epsilon) * scale + bias

over the last axis; or RMSNorm, where d is x and there is no bias. The square is written as Pow by
2, as a product or as `colonnade.Square`; the quotient as a product with a reciprocal, too; d is
sometimes computed twice. The last node is replaced; what it read is left to dead_code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.graph import NATIVE, Node
from engine.rewrites.rewrite import Array, Edit, Rewrite, View


@dataclass(frozen=True, slots=True)
class _Normal:
    """(x - mean or 0) / sqrt(mean of squares + epsilon)"""

    x: str
    epsilon: float
    centred: bool


def _at(node: Node, view: View) -> Edit | str | None:
    if node.op == "Mul":
        return _scaled(node, "", node, view)
    for product, bias in _either_way(node, view):
        scaled = view.producer(product)
        if scaled is not None and scaled.label == "Mul":
            found = _scaled(scaled, bias, node, view)
            if found is not None:
                return found
    return None


def _scaled(product: Node, bias: str, last: Node, view: View) -> Edit | str | None:
    """The product is scale * the normalised value; without bias, of RMSNorm only."""
    for quotient, scale in _either_way(product, view):
        found = _normalised(quotient, view)
        if found is not None and found.centred == bool(bias):
            return _edit(last, view, found, scale, bias)
    return None


def _either_way(node: Node, view: View) -> Iterator[tuple[str, str]]:
    """(value, constant) of a sum or product, whichever stands first."""
    for value, other in (node.inputs, node.inputs[::-1]):
        if view.constant(other) is not None and view.constant(value) is None:
            yield value, other


def _edit(last: Node, view: View, found: _Normal, scale: str, bias: str) -> Edit | str | None:
    op = "LayerNorm" if found.centred else "RMSNorm"
    before, after = view.value(found.x), view.value(last.outputs[0])
    known = before is not None and after is not None and before.dtype == np.float32
    if before is None or after is None or not known or before.shape != after.shape:
        return f"it spells {op}, but {found.x} is not known to be float32 of the same shape"
    width = (before.shape or (None,))[-1]
    names = [n for n in (scale, bias) if n]
    if not isinstance(width, int) or not all(_is_vector(view.constant(n), width) for n in names):
        return f"it spells {op}, but {' and '.join(names)} are no vectors of {width} features"
    zeros = {} if bias else {view.fresh(f"{last.name}.bias"): np.zeros(width, np.float32)}
    attributes = {"centred": int(found.centred), "epsilon": found.epsilon}
    inputs = (found.x, scale, bias or next(iter(zeros)))
    new = Node(last.name, "LayerNorm", inputs, last.outputs, NATIVE, attributes)
    return Edit((last,), (new,), initializers=zeros, reason=f"{op} of {found.x}")


def _is_vector(array: Array | None, width: int) -> bool:
    """Over the last axis; ones in front of it do not count."""
    if array is None or array.dtype != np.float32 or not array.ndim:
        return False
    return bool(array.size == array.shape[-1] == width)


def _normalised(name: str, view: View) -> _Normal | None:
    for above, total in _over_root(name, view):
        for variance, other in _either_way(total, view) if total.label == "Add" else ():
            epsilon = view.scalar(other)
            square = _mean_of(variance, view)
            d = _square_of(square, view) if square is not None else None
            if d is None or epsilon is None:
                continue
            x = _centred(above, view)
            if x is not None and _centred(d, view) == x:
                return _Normal(x, epsilon, True)
            if d == above:
                return _Normal(d, epsilon, False)
    return None


def _over_root(name: str, view: View) -> Iterator[tuple[str, Node]]:
    """(a, node of b) where the value is a / sqrt(b)."""
    node = view.producer(name)
    if node is not None and node.label == "Div":
        pairs = [(node.inputs[0], node.inputs[1])]
    elif node is not None and node.label == "Mul":
        both = (node.inputs, node.inputs[::-1])
        pairs = [(a, r) for a, b in both if (r := _reciprocal_of(b, view))]
    else:
        pairs = []
    for above, below in pairs:
        root = view.producer(below)
        total = view.producer(root.inputs[0]) if root is not None and root.label == "Sqrt" else None
        if total is not None:
            yield above, total


def _reciprocal_of(name: str, view: View) -> str | None:
    node = view.producer(name)
    if node is not None and node.label == "Reciprocal":
        return node.inputs[0]
    over = node is not None and node.label == "Div" and view.scalar(node.inputs[0]) == 1
    return node.inputs[1] if node is not None and over else None


def _centred(name: str, view: View) -> str | None:
    """x where the value is x - mean(x)."""
    node = view.producer(name)
    if node is None or node.label != "Sub":
        return None
    x, mean = node.inputs
    return x if _mean_of(mean, view) == x else None


def _square_of(name: str, view: View) -> str | None:
    node = view.producer(name)
    if node is None:
        return None
    if node.label == "colonnade.Square":
        return node.inputs[0]
    if node.label == "Pow":
        return node.inputs[0] if view.scalar(node.inputs[1]) == 2 else None
    same = node.label == "Mul" and node.inputs[0] == node.inputs[1]
    return node.inputs[0] if same else None


def _mean_of(name: str, view: View) -> str | None:
    """x where the value is the mean of its last axis, which is kept."""
    node = view.producer(name)
    if node is None or node.label != "ReduceMean" or not node.attributes.get("keepdims", 1):
        return None
    value = view.value(node.inputs[0])
    axes = node.attributes.get("axes")
    if len(node.inputs) > 1 and node.inputs[1]:
        constant = view.constant(node.inputs[1])
        axes = None if constant is None else [int(a) for a in constant.reshape(-1)]
    if value is None or value.shape is None or axes is None:
        return None
    last = [a % len(value.shape) for a in axes] == [len(value.shape) - 1]
    return node.inputs[0] if last else None


LAYER_NORM = Rewrite(
    "layer_norm",
    "recognizes LayerNorm and RMSNorm spelled out in several nodes",
    _at,
    frozenset({"Add", "Mul"}),
)
