"""Means and maxima over all pixels have one spelling: GlobalAveragePool and GlobalMaxPool.

    ReduceMean, ReduceMax over height and width
    AveragePool, MaxPool whose one window is the whole image

Where a reduction drops the dimensions it reduces, Flatten drops them behind it.
"""

from __future__ import annotations

import numpy as np

from engine.graph import NATIVE, Node, Value
from engine.ops.numbers import numbers
from engine.rewrites.rewrite import Edit, Rewrite, View

_GLOBAL = {
    "AveragePool": "GlobalAveragePool",
    "MaxPool": "GlobalMaxPool",
    "ReduceMax": "GlobalMaxPool",
    "ReduceMean": "GlobalAveragePool",
}


def _at(node: Node, view: View) -> Edit | str | None:
    x, y = view.value(node.inputs[0]), view.value(node.outputs[0])
    if x is None or y is None or x.shape is None or y.shape is None or not is_image(x, view):
        return None
    whole = _reduces_all if node.op.startswith("Reduce") else _sees_all
    if not whole(node, x, view):
        return None
    op, ones = _GLOBAL[node.op], tuple(1 for _ in x.shape[2:])
    if y.shape == (*x.shape[:2], *ones):
        new = Node(node.name, op, (x.name,), node.outputs[:1])
        return Edit((node,), (new,), reason=f"{op} of {x.name}")
    if y.shape != x.shape[:2]:
        return f"it takes {x} to {y}"
    pooled = view.fresh(f"{node.name}.pooled")
    nodes = (
        Node(view.fresh_node(f"{node.name}.pool"), op, (x.name,), (pooled,)),
        Node(node.name, "Flatten", (pooled,), node.outputs, "", {"axis": 1}),
    )
    values = {pooled: Value(pooled, x.dtype, (*x.shape[:2], *ones))}
    return Edit((node,), nodes, values, reason=f"{op} of {x.name}, flattened")


def is_image(x: Value, view: View) -> bool:
    """Whether the value is float32 [N, C, H, W]; [N, C, L] only where a Conv made it so."""
    if x.shape is None or x.dtype != np.float32 or not x.has_rows:
        return False
    made, lines = view.producer(x.name), len(x.shape) == 3
    conv = made is not None and made.label in (f"{NATIVE}.Conv", f"{NATIVE}.Channels")
    known = all(isinstance(d, int) for d in x.shape[1:])
    return known and (len(x.shape) == 4 or (lines and conv))


def _reduces_all(node: Node, x: Value, view: View) -> bool:
    axes, rank = numbers(node, "axes", 1, view.graph), len(x.shape or ())
    return isinstance(axes, list) and {a % rank for a in axes} == set(range(2, rank))


def _sees_all(node: Node, x: Value, view: View) -> bool:
    """Whether the window is the image, and stands at one place."""
    pads, kernel = node.attributes.get("pads") or [0], node.attributes["kernel_shape"]
    auto = node.attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    gaps = {1, *(node.attributes.get("dilations") or [])} == {1}
    alone = len(node.writes) == 1 and auto and gaps and not any(pads)
    return alone and tuple(kernel) == (x.shape or ())[2:]


POOLING = Rewrite(
    "pooling",
    "turns means and maxima over all pixels into GlobalAveragePool and GlobalMaxPool",
    _at,
    frozenset(_GLOBAL),
)
