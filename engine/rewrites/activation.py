"""A function of each element of a Linear's or Conv's result is computed while it is in a register.

y = f(W @ x + b), for every f of the UNARY table; several in a row are applied in order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.graph import Node
from engine.ops.unary import unary_of
from engine.rewrites.rewrite import Edit, Rewrite, View
from engine.rewrites.weighted import LABELS


def _at(node: Node, view: View) -> Edit | str | None:
    before = view.producer(node.inputs[0]) if node.inputs else None
    if before is None or before.label not in LABELS:
        return None
    found = unary_of(node, view.graph.initializers)
    if found is None or isinstance(found, str):
        return found
    source, activation = found
    reason = view.shared(source)
    if reason:
        return reason
    x, y = view.value(source), view.value(node.outputs[0])
    if x is None or y is None or x.shape != y.shape or y.dtype != np.float32:
        return "its result is not known to have the type of its input"
    activations = (*before.attributes["activations"], activation)
    attributes = {**before.attributes, "activations": activations}
    new = replace(before, outputs=node.outputs, attributes=attributes)
    return Edit((before, node), (new,), reason=f"{activation[0]} joined {before.name}")


ACTIVATION = Rewrite(
    "activation", "computes an element-wise function inside the Linear or Conv before it", _at
)
