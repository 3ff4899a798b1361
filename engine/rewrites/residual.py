"""What is added to a Conv's result joins it, so that the sum is made in a register.

    conv(x, W) + b,  then + r   =   conv(x, W) + b + r         r of the result's shape

A Conv takes one r, before its activations. Where both sides of the sum are Convs that could, the
later one takes the other, which has been computed by then.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.graph import NATIVE, Node
from engine.rewrites.rewrite import Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    sides = [view.producer(name) for name in node.inputs]
    convs = [p for p in sides if p is not None and p.label == f"{NATIVE}.Conv"]
    if len(node.inputs) != 2 or not convs:
        return None
    reasons = [_refused(conv, node, view) for conv in convs]
    if all(reasons):
        return reasons[0]
    able = [conv for conv, reason in zip(convs, reasons, strict=True) if not reason]
    conv = max(able, key=view.graph.nodes.index)
    (rest,) = (name for name in node.inputs if name != conv.outputs[0])
    new = replace(conv, inputs=(*conv.inputs[:3], rest), outputs=node.outputs)
    return Edit((conv, node), (new,), reason=f"{conv.name} adds {rest}")


def _refused(conv: Node, node: Node, view: View) -> str | None:
    """Why the Conv cannot add what the node adds to its result."""
    (result,) = conv.outputs
    if conv.attributes["activations"]:
        return f"{conv.name} has an activation in between"
    if conv.inputs[3]:
        return f"{conv.name} adds {conv.inputs[3]} already"
    if set(node.inputs) == {result}:
        return f"it adds {result} to itself"
    values = [view.value(name) for name in (*node.inputs, *node.outputs)]
    shapes = {v.shape if v is not None else None for v in values}
    if len(shapes) > 1 or None in shapes or any(v and v.dtype != np.float32 for v in values):
        return f"{node.inputs[0]} and {node.inputs[1]} are not float32 of one shape"
    return view.shared(result)


RESIDUAL = Rewrite(
    "residual", "adds to a Conv's result inside the Conv", _at, frozenset({"Add", "Sum"})
)
