"""Split along the features becomes a `colonnade.Part` a result, Expand of one feature a Repeat.

A part of the features of a panel is a view, and needs no kernel; so is a Slice of them. What cuts
each head's features is left to heads.py. A Slice of
the first or last token becomes the Gather that takes it, for which there is one. Expand is written
with the shape of another value, which nobody needs to compute where the result's shape is known.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.graph import NATIVE, Node, Value
from engine.rewrites.rewrite import Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    return _RULES[node.op](node, view)


def _expand(node: Node, view: View) -> Edit | str | None:
    x, y = view.value(node.inputs[0]), view.value(node.outputs[0])
    if x is None or y is None or x.shape is None or y.shape is None or not x.has_rows:
        return None
    width = y.shape[-1]
    wide = len(x.shape) > x.lead and x.shape == (*y.shape[:-1], 1)
    if not wide or not isinstance(width, int) or x.dtype != np.float32:
        return None if not wide or isinstance(width, str) else _cast_first(node, view, x, y)
    new = Node(node.name, "Repeat", node.inputs[:1], node.outputs, NATIVE, {"count": width})
    return Edit((node,), (new,), reason=f"{width} times")


def _cast_first(node: Node, view: View, x: Value, y: Value) -> Edit | str:
    """Cast(Expand(x)) is Expand(Cast(x)): panels are float32."""
    readers = view.readers(y.name)
    casts = [n for n in readers if n.label == "Cast" and n.attributes.get("to") == 1]
    if len(casts) != len(readers) or not casts or view.is_output(y.name):
        return f"{y} is read by others than casts to float32"
    new, inserts, float32 = view.fresh(f"{x.name}.float"), [], np.dtype(np.float32)
    cast = Node(view.fresh_node(f"{node.name}.cast"), "Cast", (x.name,), (new,), "", {"to": 1})
    count = int(y.shape[-1]) if y.shape is not None else 0
    for reader in casts:
        inserts.append(
            Node(reader.name, "Repeat", (new,), reader.outputs, NATIVE, {"count": count})
        )
    value = Value(new, float32, x.shape)
    return Edit((node, *casts), (cast, *inserts), {new: value}, reason=f"{count} times, as float32")


def _split(node: Node, view: View) -> Edit | str | None:
    x = view.value(node.inputs[0])
    if x is None or x.shape is None or not _has_features(x):
        return None
    axis = int(node.attributes.get("axis", 0)) % len(x.shape)
    widths = [_width(view.value(o), axis) for o in node.outputs]
    if axis != len(x.shape) - 1 or x.features != x.shape[-1] or not all(widths):
        return f"it splits the axis {axis} of {x}"
    starts = np.cumsum([0, *widths])
    inserts = tuple(
        Node(
            view.fresh_node(f"{node.name}.{i}"),
            "Part",
            node.inputs[:1],
            (name,),
            NATIVE,
            {"start": int(starts[i]), "count": int(widths[i])},
        )
        for i, name in enumerate(node.outputs)
        if name
    )
    return Edit((node,), inserts, reason=f"{widths} features")


def _has_features(x: Value) -> bool:
    """Of a token or of a row; pictures have channels, which other rules take apart."""
    alone = x.has_rows and x.shape is not None and len(x.shape) == 2
    return (x.has_tokens or alone) and x.dtype == np.float32


def _width(value: Value | None, axis: int) -> int:
    dim = value.shape[axis] if value is not None and value.shape is not None else 0
    return dim if isinstance(dim, int) else 0


def _slice(node: Node, view: View) -> Edit | str | None:
    x, cut = view.value(node.inputs[0]), _cut(node, view)
    if x is None or x.shape is None or not _has_features(x) or cut is None:
        return None
    axis, start, end = cut[0] % len(x.shape), *cut[1:]
    size = x.shape[axis]
    if axis == 1 and x.has_tokens:
        return _one_token(node, view, x, start, end)
    if axis != len(x.shape) - 1 or not isinstance(size, int) or x.features != size:
        return f"it cuts the axis {axis} of {x}"
    first, last, _ = slice(start, end).indices(size)
    if last <= first:
        return f"it takes nothing of {x}"
    attributes = {"start": first, "count": last - first}
    new = Node(node.name, "Part", (x.name,), node.outputs, NATIVE, attributes)
    return Edit((node,), (new,), reason=f"{last - first} features from {first} on")


def _one_token(node: Node, view: View, x: Value, start: int, end: int) -> Edit | str:
    """No sequence is empty, so that each has a first and a last token."""
    if (start, end) != (0, 1) and not (start == -1 and end >= _END):
        return f"it takes more than the first or the last token of {x}"
    index = view.fresh(f"{node.name}.index")
    new = Node(node.name, "Gather", (x.name, index), node.outputs, "", {"axis": 1})
    constants = {index: np.array([start], np.int64)}
    return Edit((node,), (new,), initializers=constants, reason=f"token {start} of {x.name}")


def _cut(node: Node, view: View) -> tuple[int, int, int] | None:
    """Axis, start and end of a Slice along one axis, where they are constant."""
    numbers: list[int] = []
    for index, name in enumerate(("axes", "starts", "ends", "steps")):
        place = (3, 1, 2, 4)[index]
        found = node.attributes.get(name)
        if found is None and len(node.inputs) > place:
            found = view.constant(node.inputs[place])
        elif found is None and name == "steps":
            found = [1]
        array = np.asarray(found).reshape(-1) if found is not None else np.empty(0)
        if array.size != 1:
            return None
        numbers.append(int(array[0]))
    axis, start, end, step = numbers
    return (axis, start, end) if step == 1 else None


_END = 2**31 - 1
"""Exporters write this, or more, for "to the end"."""

_RULES: dict[str, Callable[[Node, View], Edit | str | None]] = {
    "Expand": _expand,
    "Slice": _slice,
    "Split": _split,
}

PARTS = Rewrite(
    "parts",
    "turns Split, Slice and Expand of features into views and copies",
    _at,
    frozenset(_RULES),
)
