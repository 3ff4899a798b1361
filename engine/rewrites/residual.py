"""What is added to a Linear's or Conv's result joins it, so that the sum is made in a register.

    linear(x, W) + b,  then + r   =   linear(x, W) + b + r         r of the result's shape

Each takes one r, before its activations. Where both sides of the sum are some that could, the
later one takes the other, which has been computed by then.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.graph import Node
from engine.rewrites.rewrite import Edit, Rewrite, View
from engine.rewrites.weighted import Weighted, weighted


def _at(node: Node, view: View) -> Edit | str | None:
    found = [weighted(view.producer(name), view) for name in node.inputs]
    sides = [side for side in found if side is not None]
    if not sides:
        return None
    reasons = [_refused(side, node, view) for side in sides]
    if all(reasons):
        return reasons[0]
    able = [side.node for side, reason in zip(sides, reasons, strict=True) if not reason]
    taker = max(able, key=view.graph.nodes.index)
    (rest,) = (name for name in node.inputs if name != taker.outputs[0])
    new = replace(taker, inputs=(*taker.inputs[:3], rest), outputs=node.outputs)
    return Edit((taker, node), (new,), reason=f"{taker.name} adds {rest}")


def _refused(side: Weighted, node: Node, view: View) -> str | None:
    """Why the Linear or Conv cannot add what the node adds to its result."""
    taker, (result,) = side.node, side.node.outputs
    if taker.attributes["activations"]:
        return f"{taker.name} has an activation in between"
    if side.rest:
        return f"{taker.name} adds {side.rest} already"
    if set(node.inputs) == {result}:
        return f"it adds {result} to itself"
    constant = [name for name in node.inputs if view.constant(name) is not None]
    if constant:
        return f"{constant[0]} is constant"
    values = [view.value(name) for name in (*node.inputs, *node.outputs)]
    shapes = {v.shape if v is not None else None for v in values}
    if len(shapes) > 1 or None in shapes or any(v and v.dtype != np.float32 for v in values):
        return f"{node.inputs[0]} and {node.inputs[1]} are not float32 of one shape"
    return view.shared(result)


RESIDUAL = Rewrite(
    "residual", "adds to a Linear's or Conv's result inside it", _at, frozenset({"Add"})
)
