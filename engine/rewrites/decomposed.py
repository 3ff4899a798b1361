"""Activations that exporters spell out are put together again, as `colonnade.Gelu` and friends.

    Gelu       0.5 * x * (1 + erf(x / sqrt(2)))
    GeluTanh   0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))
    Silu       x * sigmoid(x)
    HardSwish  x * hardsigmoid(x, 1/6, 1/2)   or   x * clip(x + 3, 0, 6) / 6
    HardSigmoid(1/6, 1/2)   clip(x + 3, 0, 6) / 6

The last multiplication is replaced; what it read is left to dead_code, so that a part which
another node reads lives on. Products are matched in any order and any bracketing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.graph import NATIVE, Node
from engine.ops.unary import unary_of
from engine.rewrites.rewrite import Edit, Rewrite, View

TOLERANCE = 1e-6
"""Relative; constants are written in float32."""


@dataclass(frozen=True, slots=True)
class Product:
    """scale * the product of values, as a tree of Mul and of Div by constants spells it."""

    scale: float
    factors: tuple[str, ...]


def _at(node: Node, view: View) -> Edit | str | None:
    name = node.outputs[0]
    product = _product(name, view)
    if len(product.factors) == 1:
        return _hard_sigmoid(node, product, view)
    if len(product.factors) != 2:
        return None
    for x, other in (product.factors, product.factors[::-1]):
        for op, matches in _FORMULAS.items():
            if not matches(x, other, product.scale, view):
                continue
            return _function(node, Node(node.name, op, (x,), node.outputs, NATIVE), view)
    return None


def _function(node: Node, new: Node, view: View) -> Edit | str:
    """`new` in the place of the last multiplication."""
    (x,), op = new.inputs, new.op
    before, after = view.value(x), view.value(new.outputs[0])
    known = before is not None and after is not None and before.dtype == np.float32
    if not known or before is None or after is None or before.shape != after.shape:
        return f"it spells {op}, but {x} is not known to be float32 of the same shape"
    return Edit((node,), (new,), reason=f"{op} of {x}")


def _hard_sigmoid(node: Node, product: Product, view: View) -> Edit | str | None:
    x = _clipped(product.factors[0], view)
    if x is None or not _close(product.scale, 1 / 6):
        return None
    new = Node(node.name, "HardSigmoid", (x,), node.outputs, "", {"alpha": 1 / 6, "beta": 0.5})
    return _function(node, new, view)


def _clipped(name: str, view: View) -> str | None:
    """x in clip(x + 3, 0, 6)."""
    node = view.producer(name)
    found = unary_of(node, view.graph.initializers) if node is not None else None
    if not isinstance(found, tuple) or found[1] != ("Clip", 0.0, 6.0):
        return None
    return _plus(found[0], view, 3.0)


def _product(name: str, view: View, top: bool = True) -> Product:
    """Follow Mul and Div by a scalar down to values that are shared, or are no products."""
    node = view.producer(name)
    scalar = view.scalar(name)
    if scalar is not None:
        return Product(scalar, ())
    if node is None or node.domain or (not top and view.shared(name)):
        return Product(1.0, (name,))
    if node.op == "Mul":
        left, right = (_product(n, view, False) for n in node.inputs)
        return Product(left.scale * right.scale, left.factors + right.factors)
    divisor = view.scalar(node.inputs[1]) if node.op == "Div" else None
    if divisor:
        inner = _product(node.inputs[0], view, False)
        return Product(inner.scale / divisor, inner.factors)
    return Product(1.0, (name,))


def _close(found: float | None, wanted: float) -> bool:
    return found is not None and math.isclose(found, wanted, rel_tol=TOLERANCE)


def _plus(name: str, view: View, constant: float) -> str | None:
    """The value to which `name` adds `constant`."""
    node = view.producer(name)
    if node is None or node.label != "Add":
        return None
    for value, other in (node.inputs, node.inputs[::-1]):
        if _close(view.scalar(other), constant):
            return value
    return None


def _one_plus(op: str, name: str, view: View) -> str | None:
    """u in 1 + op(u)."""
    inner = view.producer(_plus(name, view, 1.0) or "")
    return inner.inputs[0] if inner is not None and inner.label == op else None


def _is_scaled(name: str | None, view: View, scale: float, factors: tuple[str, ...]) -> bool:
    if name is None:
        return False
    found = _product(name, view)
    return _close(found.scale, scale) and found.factors == factors


def _gelu(x: str, other: str, scale: float, view: View) -> bool:
    inner = _one_plus("Erf", other, view)
    return _close(scale, 0.5) and _is_scaled(inner, view, 1 / math.sqrt(2), (x,))


def _gelu_tanh(x: str, other: str, scale: float, view: View) -> bool:
    inner = _one_plus("Tanh", other, view)
    if inner is None or not _close(scale, 0.5):
        return False
    product = _product(inner, view)
    if not _close(product.scale, math.sqrt(2 / math.pi)) or len(product.factors) != 1:
        return False
    add = view.producer(product.factors[0])
    if add is None or add.label != "Add" or x not in add.inputs:
        return False
    cube = _product(add.inputs[1] if add.inputs[0] == x else add.inputs[0], view)
    if not _close(cube.scale, 0.044715):
        return False
    power = view.producer(cube.factors[0]) if len(cube.factors) == 1 else None
    if power is not None and power.label == "Pow":
        return power.inputs[0] == x and _close(view.scalar(power.inputs[1]), 3.0)
    return cube.factors == (x, x, x)


def _silu(x: str, other: str, scale: float, view: View) -> bool:
    node = view.producer(other)
    return (
        _close(scale, 1.0) and node is not None and (node.label, node.inputs) == ("Sigmoid", (x,))
    )


def _hard_swish(x: str, other: str, scale: float, view: View) -> bool:
    node = view.producer(other)
    found = unary_of(node, view.graph.initializers) if node is not None else None
    if not isinstance(found, tuple):
        return False
    source, (op, a, b) = found
    if op == "HardSigmoid":
        return _close(scale, 1.0) and source == x and _close(a, 1 / 6) and _close(b, 0.5)
    return _close(scale, 1 / 6) and _clipped(other, view) == x


_FORMULAS = {"Gelu": _gelu, "GeluTanh": _gelu_tanh, "Silu": _silu, "HardSwish": _hard_swish}

DECOMPOSED = Rewrite(
    "decomposed",
    "recognizes Gelu, Silu, HardSwish and HardSigmoid spelled out in several nodes",
    _at,
    frozenset({"Mul", "Div"}),
)
