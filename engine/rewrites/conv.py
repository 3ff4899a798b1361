"""Conv with constant weights becomes `colonnade.Conv`, always of two dimensions.

    y = conv(x[N, C, H, W], W[M, C/group, kh, kw]) + b[M]
    y = conv(x[N, C, L],    W[M, C/group, 1,  kw]) + b[M]

Its inputs are x, W, b and r (what is added to the result: residual.py), "" where there is none.
Its attributes are strides (sh, sw), pads (top, left, bottom, right), dilations (dh, dw), group and
activations. Padding that follows the input's size is worked out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.graph import NATIVE, Node, Value
from engine.rewrites.geometry import Pair, outputs, pair, pixels, sides
from engine.rewrites.rewrite import Array, Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    weights, x, y = (
        view.constant(node.inputs[1]),
        view.value(node.inputs[0]),
        view.value(node.outputs[0]),
    )
    reason = _refused(x, weights, node)
    if reason or weights is None or x is None or x.shape is None:
        return reason
    bias_name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = view.constant(bias_name)
    if bias_name and (bias is None or bias.dtype != np.float32):
        return f"its bias {bias_name} is no float32 constant"
    kernel = _wide(weights.shape)[2:]
    pads, strides, dilations = (
        sides(node, x.shape, kernel),
        pair(node, "strides"),
        pair(node, "dilations"),
    )
    each = zip(pixels(x.shape), pads, kernel, strides, dilations, strict=True)
    size = tuple(outputs(*numbers) for numbers in each)
    if min(map(min, pads)) < 0 or min(size) < 1:
        return f"it takes {x} to {list(size)} pixels with pads {pads}"
    if y is None or y.shape is None or pixels(y.shape) != size:
        return f"its result is {y}, not of {list(size)} pixels"
    name, constants = node.inputs[1], dict[str, Array]()
    if weights.ndim == 3 or not weights.flags.c_contiguous:
        name = view.fresh(f"{node.name}.weights")
        constants[name] = np.ascontiguousarray(weights.reshape(_wide(weights.shape)))
    inputs = (x.name, name, bias_name, "")
    attributes = conv_attributes(strides, pads, dilations, int(node.attributes.get("group", 1)))
    new = Node(node.name, "Conv", inputs, node.outputs, NATIVE, attributes)
    return Edit((node,), (new,), initializers=constants, reason=f"weights{list(weights.shape)}")


def conv_attributes(
    strides: Pair = (1, 1),
    pads: Sequence[Pair] = ((0, 0), (0, 0)),
    dilations: Pair = (1, 1),
    group: int = 1,
) -> dict[str, Any]:
    """Attributes of a Conv without activations; pads are given as (before, after) of each side."""
    (top, bottom), (left, right) = pads
    return {
        "strides": strides,
        "pads": (top, left, bottom, right),
        "dilations": dilations,
        "group": group,
        "activations": (),
    }


def _refused(x: Value | None, weights: Array | None, node: Node) -> str | None:
    if weights is None:
        return f"its weights {node.inputs[1]} are not constant"
    if weights.ndim not in (3, 4) or 0 in weights.shape:
        return f"its weights are {list(weights.shape)}, not of one or two spatial dimensions"
    if weights.dtype != np.float32 or x is None or x.dtype != np.float32:
        return f"its weights are {weights.dtype.name} and its input {x}, not float32"
    if x.shape is None or len(x.shape) != weights.ndim:
        return f"its input is {x}, not of the {weights.ndim} dimensions of its weights"
    if not all(isinstance(d, int) for d in x.shape[1:]):
        return f"the size of its images is not known: {x}"
    group = int(node.attributes.get("group", 1))
    if len(weights) % group or x.shape[1] != group * weights.shape[1]:
        return f"its weights {list(weights.shape)} in {group} groups do not take {x}"
    return None


def _wide(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The shape of weights with a height, which is 1 for those of a line."""
    many, each, *space = shape
    height, width = (1, *space)[-2:]
    return many, each, height, width


CONV = Rewrite(
    "conv",
    "turns Conv with constant weights into a Conv whose padding is known",
    _at,
    frozenset({"Conv"}),
)
