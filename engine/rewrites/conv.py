"""Conv with constant weights becomes `colonnade.Conv`, always of two dimensions.

    y = conv(x[N, C, H, W], W[M, C/group, kh, kw]) + b[M]
    y = conv(x[N, C, L],    W[M, C/group, 1,  kw]) + b[M]

Its inputs are x, W, b and r (what is added to the result: residual.py), "" where there is none.
Its attributes are strides (sh, sw), pads (top, left, bottom, right), dilations (dh, dw), group and
activations. Padding that follows the input's size is worked out here: SAME_UPPER and SAME_LOWER
give ceil(size / stride) outputs, and where the zeros are odd, one more at the end or in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.graph import NATIVE, Node, Shape, Value
from engine.rewrites.rewrite import Array, Edit, Rewrite, View

Pair = tuple[int, int]


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
    attributes = _attributes(node, x.shape, weights.shape)
    pixels = output_pixels(attributes, _pixels(x.shape), _wide(weights.shape))
    if min(attributes["pads"]) < 0 or min(pixels) < 1:
        return f"it takes {x} to {list(pixels)} pixels with pads {attributes['pads']}"
    if y is None or y.shape is None or _pixels(y.shape) != pixels:
        return f"its result is {y}, not of {list(pixels)} pixels"
    name, constants = node.inputs[1], dict[str, Array]()
    if weights.ndim == 3 or not weights.flags.c_contiguous:
        name = view.fresh(f"{node.name}.weights")
        constants[name] = np.ascontiguousarray(weights.reshape(_wide(weights.shape)))
    inputs = (x.name, name, bias_name, "")
    new = Node(node.name, "Conv", inputs, node.outputs, NATIVE, attributes)
    return Edit((node,), (new,), initializers=constants, reason=f"weights{list(weights.shape)}")


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


def _pixels(shape: Shape) -> Pair:
    """Height and width of [N, C, H, W], or of [N, C, L]; 0 where they are open."""
    height, width = (1, *(d if isinstance(d, int) else 0 for d in shape[2:]))[-2:]
    return height, width


def _wide(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """A shape of three dimensions as one of four: a line is an image of height 1."""
    outputs, each, *space = shape
    height, width = (1, *space)[-2:]
    return outputs, each, height, width


def _attributes(node: Node, shape: Shape, weights: tuple[int, ...]) -> dict[str, Any]:
    strides, dilations = (_pair(node, key) for key in ("strides", "dilations"))
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        spans = zip(_pixels(shape), _wide(weights)[2:], strides, dilations, strict=True)
        sides = [_same(*span, upper=auto == "SAME_UPPER") for span in spans]
    elif auto == "VALID":
        sides = [(0, 0), (0, 0)]
    else:
        sides = explicit_pads(node.attributes.get("pads") or [0] * (2 * len(shape) - 4))
    (top, bottom), (left, right) = sides
    return {
        "strides": strides,
        "pads": (top, left, bottom, right),
        "dilations": dilations,
        "group": int(node.attributes.get("group", 1)),
        "activations": (),
    }


def _pair(node: Node, key: str) -> Pair:
    height, width = (1, *(int(v) for v in node.attributes.get(key) or (1, 1)))[-2:]
    return height, width


def explicit_pads(pads: list[int]) -> list[Pair]:
    """(before, after) of height and width, from ONNX's list: all befores, then all afters."""
    half = len(pads) // 2
    sides = [(int(a), int(b)) for a, b in zip(pads[:half], pads[half:], strict=True)]
    return [(0, 0), *sides][-2:]


def _same(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> Pair:
    """Zeros before and after, so that there are ceil(size / stride) outputs."""
    outputs = -(-size // stride)
    zeros = max(0, (outputs - 1) * stride + (kernel - 1) * dilation + 1 - size)
    small = zeros // 2
    return (small, zeros - small) if upper else (zeros - small, small)


def output_pixels(attributes: Mapping[str, Any], pixels: Pair, weights: Shape) -> Pair:
    """Height and width of the result."""
    top, left, bottom, right = attributes["pads"]
    height, width = (
        (size + pads - (int(k) - 1) * gap - 1) // stride + 1
        for size, pads, k, gap, stride in zip(
            pixels,
            (top + bottom, left + right),
            weights[2:],
            attributes["dilations"],
            attributes["strides"],
            strict=True,
        )
    )
    return height, width


CONV = Rewrite(
    "conv",
    "turns Conv with constant weights into a Conv whose padding is known",
    _at,
    frozenset({"Conv"}),
)
