"""A function of each element of a Linear's result is computed while it is in a register.

y = f(W @ x + b), for every f of the UNARY table; several in a row are applied in order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.graph import NATIVE, Node
from engine.ops.unary import unary_of
from engine.rewrites.rewrite import Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    linear = view.producer(node.inputs[0]) if node.inputs else None
    if linear is None or (linear.domain, linear.op) != (NATIVE, "Linear"):
        return None
    found = unary_of(node, view.graph.initializers)
    if found is None or isinstance(found, str):
        return found
    source, activation = found
    reason = view.shared(source)
    if reason:
        return reason
    before, after = view.value(source), view.value(node.outputs[0])
    if before is None or after is None or before.shape != after.shape or after.dtype != np.float32:
        return "its result is not known to have the type of its input"
    activations = (*linear.attributes["activations"], activation)
    new = replace(linear, outputs=node.outputs, attributes={"activations": activations})
    return Edit((linear, node), (new,), reason=f"{activation[0]} joined {linear.name}")


ACTIVATION = Rewrite(
    "activation", "computes an element-wise function inside the Linear before it", _at
)
