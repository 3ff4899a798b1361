"""Position embeddings become `colonnade.Positional`: rows of a table by a token's place.

Exporters slice a constant [1, 512] of 0, 1, 2 ... to the sequence's length, or count with Range,
and look that up in the table; or they slice the table. Either way the value is the first S rows of
a constant, which is added to a value of tokens.
"""

from __future__ import annotations

import numpy as np

from engine.graph import NATIVE, TOKENS, Node, Value
from engine.rewrites.rewrite import Array, Edit, Rewrite, View

_SHAPERS = frozenset({"Unsqueeze", "Reshape", "Identity", "Cast", "Expand", "Squeeze"})
_COUNT = np.arange(0)
"""Stands for 0, 1, 2 ... without an end."""


def _at(node: Node, view: View) -> Edit | str | None:
    for place, other in ((0, 1), (1, 0)):
        x, value = view.value(node.inputs[other]), view.value(node.inputs[place])
        if x is None or value is None or value.shape is None or x.shape is None:
            continue
        if not x.has_tokens or len(x.shape) != 3 or value.shape[-2:] != (TOKENS, x.shape[2]):
            continue
        table = _prefix(node.inputs[place], view)
        if table is not None and table.dtype == np.float32 and table.shape[1:] == x.shape[2:]:
            return _edit(node, view, place, x, np.ascontiguousarray(table))
    return None


def _edit(node: Node, view: View, place: int, x: Value, table: Array) -> Edit:
    name, added = view.fresh(f"{node.name}.table"), view.fresh(f"{node.name}.positions")
    lookup = Node(
        view.fresh_node(f"{node.name}.lookup"), "Positional", (x.name, name), (added,), NATIVE
    )
    inputs = tuple(added if i == place else n for i, n in enumerate(node.inputs))
    new = Node(node.name, "Add", inputs, node.outputs)
    return Edit(
        (node,),
        (lookup, new),
        {added: Value(added, x.dtype, x.shape)},
        {name: table},
        reason=f"{len(table)} positions",
    )


def _prefix(name: str, view: View) -> Array | None:
    """The array whose first S rows the value is; leading ones are left out."""
    node = view.producer(name)
    if node is None or node.domain:
        return None
    if node.op in _SHAPERS:
        return _prefix(node.inputs[0], view)
    if node.op == "Range":
        start, step = (view.scalar(node.inputs[i]) for i in (0, 2))
        return _COUNT if (start, step) == (0, 1) and _spans(name, view) else None
    if node.op == "Slice":
        return _sliced(node, view)
    if node.op == "Gather" and node.attributes.get("axis", 0) == 0:
        table, rows = view.constant(node.inputs[0]), _prefix(node.inputs[1], view)
        if table is None or rows is None or table.ndim != 2:
            return None
        if rows is _COUNT:
            return table
        good = rows.ndim == 1 and rows.dtype.kind in "iu" and bool((rows < len(table)).all())
        return table[rows] if good and bool((rows >= 0).all()) else None
    return None


def _spans(name: str, view: View) -> bool:
    """Whether the value's one free dimension is the length of a sequence."""
    value = view.value(name)
    shape = () if value is None or value.shape is None else value.shape
    return [d for d in shape if not isinstance(d, int)] == [TOKENS]


def _sliced(node: Node, view: View) -> Array | None:
    """A constant cut from 0 to S along the axis behind its leading ones."""
    array = view.constant(node.inputs[0])
    if array is None or len(node.inputs) < 4 or not _spans(node.outputs[0], view):
        return None
    starts, axes = (view.constant(node.inputs[i]) for i in (1, 3))
    steps = view.constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] else None
    if starts is None or axes is None or starts.size != 1 or axes.size != 1:
        return None
    if starts.reshape(-1)[0] != 0 or (steps is not None and bool((steps != 1).any())):
        return None
    axis = int(axes.reshape(-1)[0]) % array.ndim
    if any(d != 1 for d in array.shape[:axis]):
        return None
    return array.reshape(array.shape[axis:])


POSITIONS = Rewrite(
    "positions",
    "turns slices of position tables into lookups by a token's place",
    _at,
    frozenset({"Add"}),
)
