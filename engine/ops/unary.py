"""UNARY: the element-wise functions of one value that a Linear may carry as its activation.

Each row gives the meaning in numpy and the names of the ONNX attributes that become the two
parameters `a` and `b`. The vector code of a kernel is keyed by the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.graph import NATIVE, Node

Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[[Array, float, float], Array]


@dataclass(frozen=True, slots=True)
class Unary:
    """One function y = f(x, a, b), element by element, in the element type of x."""

    name: str
    function: Function
    attributes: tuple[tuple[str, float], ...] = ()
    """ONNX attribute and its default, for `a`, then for `b`."""

    def numpy(self, x: Array, a: float = 0.0, b: float = 0.0) -> Array:
        """The meaning; overflow gives infinity and a bad argument NaN, without a warning."""
        with np.errstate(all="ignore"):
            return np.asarray(self.function(x, a, b)).astype(x.dtype, copy=False)

    def parameters(self, attributes: Mapping[str, Any]) -> tuple[float, float]:
        """A node's attributes as (a, b)."""
        found = [float(attributes.get(name, default)) for name, default in self.attributes]
        a, b = (*found, 0.0, 0.0)[:2]
        return a, b


_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """The error function, exact to the last bit or two of a float64: slow, for the oracle."""
    return np.asarray(_erf(x.astype(np.float64)), dtype=np.float64)


def _sigmoid(x: Array) -> Array:
    # exp(-|x|) never overflows, so both tails keep their precision
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + small), small / (1 + small)))


def _gelu(x: Array, a: float, b: float) -> Array:
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def _gelu_tanh(x: Array, a: float, b: float) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _softplus(x: Array, a: float, b: float) -> Array:
    return np.asarray(np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0))


_ROWS = (
    Unary("Relu", lambda x, a, b: np.maximum(x, 0)),
    Unary("LeakyRelu", lambda x, a, b: np.where(x < 0, a * x, x), (("alpha", 0.01),)),
    # an infinite bound is no bound; NaN passes, as in numpy's minimum and maximum
    Unary(
        "Clip",
        lambda x, a, b: np.minimum(np.maximum(x, a), b),
        (("min", -math.inf), ("max", math.inf)),
    ),
    Unary(
        "HardSigmoid",
        lambda x, a, b: np.maximum(0, np.minimum(1, a * x + b)),
        (("alpha", 0.2), ("beta", 0.5)),
    ),
    Unary("HardSwish", lambda x, a, b: x * np.maximum(0, np.minimum(1, x / 6 + 0.5))),
    Unary(
        "Elu", lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x), (("alpha", 1.0),)
    ),
    Unary("Sigmoid", lambda x, a, b: _sigmoid(x)),
    Unary("Silu", lambda x, a, b: x * _sigmoid(x)),
    Unary("Tanh", lambda x, a, b: np.tanh(x)),
    Unary("Erf", lambda x, a, b: erf(x)),
    Unary("Gelu", _gelu),
    Unary("GeluTanh", _gelu_tanh),
    Unary("Softplus", _softplus),
    Unary("Exp", lambda x, a, b: np.exp(x)),
    Unary("Log", lambda x, a, b: np.log(x)),
    Unary("Sqrt", lambda x, a, b: np.sqrt(x)),
    Unary("Neg", lambda x, a, b: np.negative(x)),
    Unary("Abs", lambda x, a, b: np.abs(x)),
    Unary("Reciprocal", lambda x, a, b: np.reciprocal(x)),
    Unary("Select", lambda x, a, b: np.where(x == 0, a, b), (("zero", 0.0), ("other", 1.0))),
    Unary("Square", lambda x, a, b: np.square(x)),
)
UNARY: dict[str, Unary] = {row.name: row for row in _ROWS}
"""By name. Gelu is the erf form, GeluTanh its approximation, Silu is x * sigmoid(x), Select
one number for zero and another for all else."""


def unary_of(
    node: Node, constants: Mapping[str, Array]
) -> tuple[str, tuple[str, float, float]] | str | None:
    """(value it is applied to, (row, a, b)) of a node that is one of UNARY; a reason or None."""
    if node.domain not in ("", NATIVE) or not node.inputs:
        return None
    if node.op == "Clip":
        return _clip(node, constants)
    if node.op in ("PRelu", "Pow"):
        return _with_constant(node, constants)
    if node.op == "Mul" and node.inputs[0] == node.inputs[1]:
        return node.inputs[0], ("Square", 0.0, 0.0)
    name = node.op
    if name == "Gelu" and node.attributes.get("approximate", "none") == "tanh":
        name = "GeluTanh"
    if name not in UNARY or len(node.inputs) != 1:
        return None
    return node.inputs[0], (name, *UNARY[name].parameters(node.attributes))


def _clip(node: Node, constants: Mapping[str, Array]) -> tuple[str, tuple[str, float, float]] | str:
    """Bounds are attributes before opset 11 and optional inputs since."""
    bounds = list(UNARY["Clip"].parameters(node.attributes))
    for index, name in enumerate(node.inputs[1:3]):
        if not name:
            continue
        bound = constants.get(name)
        if bound is None or bound.size != 1:
            return f"its bound {name} is not one constant number"
        bounds[index] = float(bound.reshape(-1)[0])
    low, high = bounds  # a bound that is NaN is none, as in onnxruntime
    low, high = (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)
    return node.inputs[0], ("Clip", low, high)


def _with_constant(
    node: Node, constants: Mapping[str, Array]
) -> tuple[str, tuple[str, float, float]] | str | None:
    """PRelu with one slope is LeakyRelu; Pow by 2 is Square, by -1 Reciprocal."""
    array = constants.get(node.inputs[1])
    if array is None or array.size != 1:
        return f"its {node.inputs[1]} is not one constant number" if node.op == "PRelu" else None
    number = float(array.reshape(-1)[0])
    if node.op == "PRelu":
        return node.inputs[0], ("LeakyRelu", number, 0.0)
    powers = {2.0: "Square", -1.0: "Reciprocal"}
    return (node.inputs[0], (powers[number], 0.0, 0.0)) if number in powers else None
