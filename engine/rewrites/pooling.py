"""Means and maxima over all pixels have one spelling: GlobalAveragePool and GlobalMaxPool.

    ReduceMean, ReduceMax over height and width
    AveragePool, MaxPool whose one window is the whole image

Where a reduction drops the dimensions it reduces, Flatten drops them behind it. For other pools
the padding that follows the input's size is worked out.
"""

from __future__ import annotations

from dataclasses import replace

from engine.graph import Node, Value
from engine.ops.numbers import numbers
from engine.rewrites.geometry import is_image, pair, sides
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
        return _with_pads(node, x)
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


def _with_pads(node: Node, x: Value) -> Edit | None:
    if not node.attributes.get("auto_pad", "NOTSET").startswith("SAME"):
        return None
    found = sides(node, x.shape or (), pair(node, "kernel_shape"))
    pads = [side[i] for i in (0, 1) for side in found[4 - len(x.shape or ()) :]]
    attributes = {**node.attributes, "auto_pad": "NOTSET", "pads": pads}
    return Edit((node,), (replace(node, attributes=attributes),), reason=f"pads {pads}")


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
    "says pools of all pixels in one way, and works out the pads of others",
    _at,
    frozenset(_GLOBAL),
)
