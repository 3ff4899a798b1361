"""Sizes, strides and pads of images: always (height, width), a line being an image of height 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.graph import NATIVE, Node, Shape, Value
from engine.rewrites.rewrite import View

Pair = tuple[int, int]

_GIVE_IMAGES = frozenset(f"{NATIVE}.{op}" for op in ("Channels", "Conv", "DepthToSpace"))


def is_image(x: Value, view: View) -> bool:
    """Whether the value is float32 [N, C, H, W]; [N, C, L] only where a Conv made it so."""
    if x.shape is None or x.dtype != np.float32 or not x.has_rows:
        return False
    made = view.producer(x.name)
    line = len(x.shape) == 3 and made is not None and made.label in _GIVE_IMAGES
    return all(isinstance(d, int) for d in x.shape[1:]) and (len(x.shape) == 4 or line)


def pixels(shape: Shape) -> Pair:
    """Height and width of [N, C, H, W], or of [N, C, L]; 0 where they are open."""
    height, width = (1, *(d if isinstance(d, int) else 0 for d in shape[2:]))[-2:]
    return height, width


def pair(node: Node, key: str) -> Pair:
    """An attribute of strides, dilations or the kernel's shape; 1 where it is not given."""
    height, width = (1, *(int(v) for v in node.attributes.get(key) or (1, 1)))[-2:]
    return height, width


def sides(node: Node, shape: Shape, kernel: Pair) -> list[Pair]:
    """Zeros (before, after) the height and the width of an input of this shape."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        each = zip(
            pixels(shape), kernel, pair(node, "strides"), pair(node, "dilations"), strict=True
        )
        return [_same(*numbers, upper=auto == "SAME_UPPER") for numbers in each]
    if auto == "VALID":
        return [(0, 0), (0, 0)]
    return explicit_pads(node.attributes.get("pads") or [0] * (2 * len(shape) - 4))


def explicit_pads(pads: Sequence[int]) -> list[Pair]:
    """(before, after) of height and width, from ONNX's list: all befores, then all afters."""
    half = len(pads) // 2
    given = [(int(a), int(b)) for a, b in zip(pads[:half], pads[half:], strict=True)]
    return [(0, 0), *given][-2:]


def _same(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> Pair:
    """So that there are ceil(size / stride) outputs; the odd one stands behind, or in front."""
    outputs = -(-size // stride)
    zeros = max(0, (outputs - 1) * stride + (kernel - 1) * dilation + 1 - size)
    small = zeros // 2
    return (small, zeros - small) if upper else (zeros - small, small)


def outputs(size: int, pads: Pair, kernel: int, stride: int, dilation: int) -> int:
    """How many places a kernel has along one dimension."""
    return (size + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1
