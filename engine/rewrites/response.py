"""LRN of images becomes a Conv over channels of their squares, and functions of elements.

    x / (k + a / n * sum of squares over n channels around)^b
        = x * exp(-b * log(conv(x * x, W) + k))        W[C, C, 1, 1] = a / n in a band of n channels

The sum is never negative, so the logarithm is that of a number from k on; k has to be positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph import NATIVE, Node, Value
from engine.rewrites.conv import conv_attributes
from engine.rewrites.geometry import is_image
from engine.rewrites.rewrite import Array, Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    x = view.value(node.inputs[0])
    if x is None or x.shape is None or not is_image(x, view):
        return None
    size = int(node.attributes["size"])
    alpha, beta, bias = (
        float(node.attributes.get(k, d))
        for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    if bias <= 0 or alpha < 0:
        return f"its logarithm is not known to be of a positive number (bias {bias:g})"
    channels = int(x.shape[1])
    constants: dict[str, Array] = {
        view.fresh(f"{node.name}.band"): _band(channels, size, alpha / size),
        view.fresh(f"{node.name}.bias"): np.full(channels, bias, np.float32),
        view.fresh(f"{node.name}.power"): np.float32(-beta).reshape(1),
    }
    band, shift, power = constants
    names = {
        what: view.fresh(f"{node.name}.{what}")
        for what in ("squares", "sum", "log", "scaled", "factor")
    }
    steps: tuple[tuple[str, str, tuple[str, ...], str, dict[str, Any]], ...] = (
        ("squares", "Square", (x.name,), NATIVE, {}),
        ("sum", "Conv", (names["squares"], band, shift, ""), NATIVE, conv_attributes()),
        ("log", "Log", (names["sum"],), "", {}),
        ("scaled", "Mul", (names["log"], power), "", {}),
        ("factor", "Exp", (names["scaled"],), "", {}),
    )
    nodes = [
        Node(view.fresh_node(names[what]), op, inputs, (names[what],), domain, attributes)
        for what, op, inputs, domain, attributes in steps
    ]
    nodes.append(Node(node.name, "Mul", (x.name, names["factor"]), node.outputs))
    values = {name: Value(name, x.dtype, x.shape) for name in names.values()}
    return Edit((node,), tuple(nodes), values, constants, reason=f"{size} of {channels} channels")


def _band(channels: int, size: int, weight: float) -> Array:
    """W[C, C, 1, 1]: the channels around each, (size - 1) // 2 before and size // 2 behind it."""
    to, source = np.indices((channels, channels))
    around = (source >= to - (size - 1) // 2) & (source <= to + size // 2)
    return (around * np.float32(weight)).astype(np.float32).reshape(channels, channels, 1, 1)


RESPONSE = Rewrite(
    "response",
    "turns LRN into a Conv over the channels of squares and functions of elements",
    _at,
    frozenset({"LRN"}),
)
