"""What a node on images [N, H, W, C] is for the same images as [N, C, H, W].

Each rule gives the `Change`: which inputs are images, and which constants and attributes are
others; or a reason. Axes and whatever is counted by axes move from their place in one layout to
that in the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.graph import NATIVE, Node
from engine.ops.numbers import numbers
from engine.ops.unary import UNARY
from engine.rewrites.rewrite import Array, View
from engine.rows import ELEMENTS

TO_LAST = (0, 2, 3, 1)
"""[N, C, H, W] to [N, H, W, C]; its k-th axis is this one of the former."""
TO_FIRST = (0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class Change:
    """How a node changes with the layout of its images."""

    images: tuple[int, ...] = (0,)
    """Inputs that come in the other layout."""
    constants: dict[int, Array] = field(default_factory=dict)
    """Inputs that are other constants."""
    attributes: dict[str, Any] = field(default_factory=dict)
    flat: bool = False
    """The result has no pixels, and is the same in both layouts."""


Rule = Callable[[Node, View], Change | str]


def rank(name: str, view: View) -> int:
    value = view.value(name)
    return len(value.shape) if value is not None and value.shape is not None else -1


def _moved(array: Array) -> Array:
    """A constant that is broadcast over images."""
    wide = array.reshape((1,) * (4 - array.ndim) + array.shape)
    return np.ascontiguousarray(wide.transpose(TO_FIRST))


def _elements(node: Node, view: View) -> Change | str:
    images, constants = [], dict[int, Array]()
    for index, name in enumerate(node.inputs):
        constant = view.constant(name)
        if not name or (constant is not None and constant.size == 1):
            continue
        if rank(name, view) > 4 or (constant is None and rank(name, view) != 4):
            return f"{name} is no image"
        if constant is None:
            images.append(index)
        else:
            constants[index] = _moved(constant)
    return Change(tuple(images), constants)


def _axis(node: Node, view: View) -> Change | str:
    """Operators along one axis: Concat, Softmax, Split."""
    default = {"Concat": None, "Split": 0}.get(node.op, -1)
    axis = node.attributes.get("axis", default)
    if axis is None or (node.op.endswith("Softmax") and view.graph.opsets.get("", 1) < 13):
        return "it works along several axes"
    attributes = {"axis": TO_LAST[axis % 4]}
    if node.op != "Concat":
        return Change(attributes=attributes)
    found = _elements(node, view)
    if isinstance(found, str) or len(found.images) + len(found.constants) < len(node.inputs):
        return "it takes constants of one element"
    return Change(found.images, found.constants, attributes)


def _counted(node: Node, view: View, name: str, place: int, array: Array) -> Change:
    """`array` where the node had `name`: as an attribute, or as an input."""
    if name in node.attributes:
        return Change(attributes={name: array.tolist()})
    return Change(constants={place: array})


def _by_axis(node: Node, view: View, name: str, place: int, axes_place: int) -> Change | str:
    """One number or more for every axis, or for those that are given as axes."""
    found, axes = (
        numbers(node, which, index, view.graph)
        for which, index in ((name, place), ("axes", axes_place))
    )
    if isinstance(axes, list):
        return _counted(node, view, "axes", axes_place, _first_axes(axes))
    if not isinstance(found, list) or axes is not None:
        return f"its {name} or axes are not constant"
    kind = np.float32 if name == "scales" else np.int64
    array = np.array(found, kind).reshape(-1, 4)[:, TO_FIRST].reshape(-1)
    return _counted(node, view, name, place, array)


def _first_axes(axes: list[int]) -> Array:
    return np.array([TO_LAST[a % 4] for a in axes], np.int64)


def _pad(node: Node, view: View) -> Change | str:
    return _by_axis(node, view, "pads", 1, 3)


def _resize(node: Node, view: View) -> Change | str:
    inputs = (*node.inputs, "", "", "")
    regions = view.constant(inputs[1]) if view.graph.opsets.get("", 1) > 10 else None
    if regions is not None and regions.size and node.op == "Resize":
        return "it resizes a region"
    if inputs[3]:
        return _by_axis(node, view, "sizes", 3, len(inputs))
    place = 2 if node.op == "Resize" and view.graph.opsets.get("", 1) > 10 else 1
    return _by_axis(node, view, "scales", place, len(inputs))


def _slice(node: Node, view: View) -> Change | str:
    axes, starts = (
        numbers(node, name, place, view.graph) for place, name in ((3, "axes"), (1, "starts"))
    )
    if isinstance(axes, list):
        return _counted(node, view, "axes", 3, _first_axes(axes))
    if axes is not None or not isinstance(starts, list):
        return "its starts or axes are computed"
    first = _first_axes(list(range(len(starts))))
    if "starts" in node.attributes:
        return Change(attributes={"axes": first.tolist()})
    return Change(constants={3: first})


def _reduce(node: Node, view: View) -> Change | str:
    axes = numbers(node, "axes", 1, view.graph)
    if not isinstance(axes, list):
        return "its axes are not given"
    flat = not node.attributes.get("keepdims", 1)
    if flat and {a % 4 for a in axes} != {1, 2}:
        return f"it drops the axes {axes}"
    change = _counted(node, view, "axes", 1, np.sort(_first_axes(axes)))
    return Change(change.images, change.constants, change.attributes, flat)


_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL2")
RULES: dict[str, Rule] = {
    **dict.fromkeys((*ELEMENTS, *(f"{NATIVE}.{name}" for name in UNARY)), _elements),
    **dict.fromkeys(("Concat", "LogSoftmax", "Softmax", "Split"), _axis),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Pad": _pad,
    "Slice": _slice,
}
"""By label; of all others nothing is known."""
