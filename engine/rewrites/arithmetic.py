"""Arithmetic that kernels know under another name.

Max, Min with a number     colonnade.Clip
Sum                        Adds, from the left
Swish of alpha 1           colonnade.Silu
Pow by 2, 1/2, -1          colonnade.Square, Sqrt, Reciprocal; by -1/2 two of them
LpNormalization            x / max(norm, least), where least is a norm's smallest positive value:
                           so zeros stay zeros
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.graph import NATIVE, Node, Value
from engine.rewrites.rewrite import Edit, Rewrite, View

_NORMS = {1: ("ReduceL1", 2.0**-149), 2: ("ReduceL2", 2.0**-74.5)}
"""By p: the reduction, and the least of its results that is not zero."""
_POWERS = {
    2.0: (("Square", NATIVE),),
    0.5: (("Sqrt", ""),),
    -1.0: (("Reciprocal", ""),),
    -0.5: (("Sqrt", ""), ("Reciprocal", "")),
}


def _at(node: Node, view: View) -> Edit | str | None:
    return _RULES[node.op](node, view)


def _source(node: Node, view: View, place: int = 0) -> Value | None:
    """The input, if the result is float32 of the same shape."""
    x, y = view.value(node.inputs[place]), view.value(node.outputs[0])
    if x is None or y is None or x.shape is None or x.shape != y.shape:
        return None
    return x if x.dtype == y.dtype == np.float32 and x.has_rows else None


def _bound(node: Node, view: View) -> Edit | str | None:
    if len(node.inputs) != 2:
        return None
    for place in (0, 1):
        number, x = view.scalar(node.inputs[1 - place]), _source(node, view, place)
        if number is None or x is None or np.isnan(number):
            continue
        attributes = {"min" if node.op == "Max" else "max": number}
        new = Node(node.name, "Clip", (x.name,), node.outputs, NATIVE, attributes)
        return Edit((node,), (new,), reason=f"{x.name} clipped at {number:g}")
    return None


def _sum(node: Node, view: View) -> Edit | str | None:
    if len(node.inputs) < 2:
        return None
    y = view.value(node.outputs[0])
    values = [view.value(n) for n in node.inputs]
    if y is None or any(v is None or v.shape != y.shape for v in values):
        return "its inputs and its result are not known to have one shape"
    first, *others = node.inputs
    names = [view.fresh(f"{node.name}.{i}") for i in range(len(others) - 1)]
    results = (*names, node.outputs[0])
    nodes = tuple(
        Node(view.fresh_node(f"{node.name}.add"), "Add", (left, right), (result,))
        for left, right, result in zip((first, *names), others, results, strict=True)
    )
    new = {n: Value(n, y.dtype, y.shape) for n in names}
    return Edit((node,), nodes, new, reason=f"{len(nodes)} Adds")


def _power(node: Node, view: View) -> Edit | str | None:
    x, exponent = _source(node, view), view.scalar(node.inputs[1])
    if x is None or exponent is None:
        return None
    if exponent not in _POWERS:
        return f"no kernel for the power {exponent:g}"
    *before, (op, domain) = _POWERS[exponent]
    name, nodes, values = x.name, list[Node](), dict[str, Value]()
    for earlier, its_domain in before:
        y = view.fresh(f"{node.name}.{earlier.lower()}")
        named = view.fresh_node(f"{node.name}.{earlier.lower()}")
        nodes.append(Node(named, earlier, (name,), (y,), its_domain))
        values[y] = Value(y, x.dtype, x.shape)
        name = y
    nodes.append(Node(node.name, op, (name,), node.outputs, domain))
    return Edit((node,), tuple(nodes), values, reason=f"the power {exponent:g} of {x.name}")


def _swish(node: Node, view: View) -> Edit | str | None:
    if node.attributes.get("alpha", 1.0) != 1.0:
        return f"no kernel for alpha {node.attributes['alpha']:g}"
    new = Node(node.name, "Silu", node.inputs, node.outputs, NATIVE)
    return Edit((node,), (new,), reason="x * sigmoid(x)")


def _norm(node: Node, view: View) -> Edit | str | None:
    x, p = _source(node, view), node.attributes.get("p", 2)
    if x is None or x.shape is None or p not in _NORMS:
        return None
    if node.attributes.get("axis", -1) not in (-1, len(x.shape) - 1):
        return f"it normalizes another axis than the last of {x}"
    op, least = _NORMS[p]
    shape = (*x.shape[:-1], 1)
    names = [view.fresh(f"{node.name}.{what}") for what in ("norm", "divisor", "axes")]
    norm, divisor, axes = names
    old = view.graph.opsets.get("", 1) < 18
    inputs, attributes = ((x.name,), {"axes": [-1]}) if old else ((x.name, axes), {})
    nodes = (
        Node(view.fresh_node(f"{node.name}.norm"), op, inputs, (norm,), "", attributes),
        Node(
            view.fresh_node(f"{node.name}.divisor"),
            "Clip",
            (norm,),
            (divisor,),
            NATIVE,
            {"min": float(np.float32(least))},
        ),
        Node(node.name, "Div", (x.name, divisor), node.outputs),
    )
    values = {n: Value(n, x.dtype, shape) for n in (norm, divisor)}
    return Edit((node,), nodes, values, {axes: np.array([-1])}, reason=f"{x.name} by its {op}")


_RULES: dict[str, Callable[[Node, View], Edit | str | None]] = {
    "LpNormalization": _norm,
    "Max": _bound,
    "Min": _bound,
    "Pow": _power,
    "Sum": _sum,
    "Swish": _swish,
}

ARITHMETIC = Rewrite(
    "arithmetic",
    "says Max, Min, Pow, Sum, Swish and LpNormalization in operators that have kernels",
    _at,
    frozenset(_RULES),
)
