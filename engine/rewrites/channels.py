"""What only takes and reorders the channels of an image becomes `colonnade.Channels`.

    y[:, i] = x[:, order[i]]

Such are Split and Slice along the channels, Gather of constant ones, the shuffle between grouped
convolutions (channels as a table [g, C/g], transposed), and any two of these in a row. A Split of
rows or pixels becomes a Slice for each of its results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from engine.graph import NATIVE, Node
from engine.ops.numbers import numbers
from engine.rewrites.geometry import is_image
from engine.rewrites.rewrite import Array, Edit, Rewrite, View

LABEL = f"{NATIVE}.Channels"
_Part = tuple[Node, dict[str, Array]]
"""What takes a part of a Split, and its constants."""


def _at(node: Node, view: View) -> Edit | str | None:
    return _RULES[node.label](node, view)


def _image_channels(name: str, view: View) -> int | None:
    x = view.value(name)
    if x is None or x.shape is None or not is_image(x, view):
        return None
    return int(x.shape[1])


def _taken(node: Node, x: str, order: Sequence[int], reason: str) -> Edit:
    new = Node(node.name, "Channels", (x,), node.outputs, NATIVE, {"order": tuple(order)})
    return Edit((node,), (new,), reason=reason)


def _split(node: Node, view: View) -> Edit | str | None:
    x, axis = view.value(node.inputs[0]), int(node.attributes.get("axis", 0))
    if _image_channels(node.inputs[0], view) is None or x is None or x.shape is None:
        return None
    axis %= len(x.shape)
    results = [view.value(name) for name in node.outputs]
    widths = [v.shape[axis] for v in results if v is not None and v.shape is not None]
    bounds = np.cumsum([0, *(w for w in widths if isinstance(w, int))]).tolist()
    if axis == 0 or len(bounds) != len(results) + 1:
        return "it splits the rows of the batch, or how wide its results are is not known"
    kind, make = ("channels", _channels_part) if axis == 1 else ("rows or pixels", _space_part)
    inserts, constants = list[Node](), dict[str, Array]()
    for name, *pair in zip(node.outputs, bounds, bounds[1:], strict=False):
        part = replace(node, name=view.fresh_node(f"{node.name}.{len(inserts)}"), outputs=(name,))
        new, more = make(part, axis, (pair[0], pair[1]), view)
        inserts.append(new)
        constants |= more
    return Edit((node,), tuple(inserts), initializers=constants, reason=f"{widths} {kind}")


def _channels_part(part: Node, axis: int, bounds: tuple[int, int], view: View) -> _Part:
    order = {"order": tuple(range(*bounds))}
    return Node(part.name, "Channels", part.inputs[:1], part.outputs, NATIVE, order), {}


def _space_part(part: Node, axis: int, bounds: tuple[int, int], view: View) -> _Part:
    """A Slice, whose numbers were attributes before opset 10."""
    given = dict(zip(("starts", "ends", "axes"), ([n] for n in (*bounds, axis)), strict=True))
    if view.graph.opsets.get("", 1) < 10:
        return Node(part.name, "Slice", part.inputs[:1], part.outputs, "", given), {}
    named = {view.fresh(f"{part.name}.{k}"): np.array(v, np.int64) for k, v in given.items()}
    return Node(part.name, "Slice", (part.inputs[0], *named), part.outputs), named


def _slice(node: Node, view: View) -> Edit | str | None:
    channels = _image_channels(node.inputs[0], view)
    if channels is None:
        return None
    rank = len((view.graph.values[node.inputs[0]]).shape or ())
    found = [
        numbers(node, name, place, view.graph)
        for place, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    ]
    reason = next((f for f in found if isinstance(f, str)), None)
    starts, ends, axes, steps = (f if isinstance(f, list) else None for f in found)
    if reason or starts is None or ends is None:
        return reason or "where it starts and ends is not given"
    if [a % rank for a in axes or range(len(starts))] != [1]:
        return f"it cuts the axes {axes} of {node.inputs[0]}"
    order = range(channels)[slice(starts[0], ends[0], steps[0] if steps else 1)]
    if not order:
        return f"it takes nothing of {node.inputs[0]}"
    return _taken(node, node.inputs[0], order, f"{len(order)} channels from {order[0]} on")


def _gather(node: Node, view: View) -> Edit | str | None:
    channels, indices = _image_channels(node.inputs[0], view), view.constant(node.inputs[1])
    if channels is None or indices is None or indices.ndim != 1 or not indices.size:
        return None
    if node.attributes.get("axis", 0) != 1 or (abs(indices + 0.5) > channels).any():
        return f"it takes others than the {channels} channels of {node.inputs[0]}"
    return _taken(node, node.inputs[0], (indices % channels).tolist(), f"{indices.size} channels")


def _shuffle(node: Node, view: View) -> Edit | str | None:
    """The last of three nodes: [N, C, ..] -> [N, g, C/g, ..] -> [N, C/g, g, ..] -> [N, C, ..]."""
    transpose = view.producer(node.inputs[0])
    if transpose is None or transpose.label != "Transpose":
        return None
    first = view.producer(transpose.inputs[0])
    if first is None or first.label != "Reshape":
        return None
    channels = _image_channels(first.inputs[0], view)
    names = (first.inputs[0], node.outputs[0], transpose.inputs[0])
    x, y, table = (v.shape if (v := view.value(n)) is not None else None for n in names)
    if channels is None or x is None or table is None or x != y or table[3:] != x[2:]:
        return None
    perm = [0, 2, 1, *range(3, len(table))]
    if len(table) != len(x) + 1 or list(transpose.attributes.get("perm", ())) != perm:
        return None
    groups = table[1]
    if not isinstance(groups, int) or channels % groups or table[2] != channels // groups:
        return None
    order = np.arange(channels).reshape(groups, -1).T.reshape(-1)
    return _taken(node, first.inputs[0], order.tolist(), f"{groups} groups shuffled")


def _twice(node: Node, view: View) -> Edit | str | None:
    first = view.producer(node.inputs[0])
    if first is None or first.label != LABEL:
        return None
    before = first.attributes["order"]
    order = [before[i] for i in node.attributes["order"]]
    return _taken(node, first.inputs[0], order, f"of those that {first.name} takes")


_RULES: dict[str, Callable[[Node, View], Edit | str | None]] = {
    "Gather": _gather,
    "Reshape": _shuffle,
    "Slice": _slice,
    "Split": _split,
    LABEL: _twice,
}

CHANNELS = Rewrite(
    "channels",
    "turns shuffles, parts and choices of channels into one operator",
    _at,
    frozenset(_RULES),
)
