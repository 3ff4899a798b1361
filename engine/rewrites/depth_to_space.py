"""DepthToSpace: one order of channels, and behind what it is followed by, which a Conv can take in.

    mode CRD       = colonnade.DepthToSpace
    mode DCR       = colonnade.DepthToSpace of other channels
    f(space(x))    = space(f'(x))       for functions of elements and scales of channels

`colonnade.DepthToSpace` has the attributes block (height, width) and size (height, width): its
result is cut to that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.graph import NATIVE, Node, Value
from engine.ops.unary import unary_of
from engine.rewrites.affine import Affine, affine_of
from engine.rewrites.geometry import is_image, pixels
from engine.rewrites.rewrite import Array, Edit, Rewrite, View

LABEL = f"{NATIVE}.DepthToSpace"


def _at(node: Node, view: View) -> Edit | str | None:
    return _depth_to_space(node, view) if node.label == "DepthToSpace" else _behind(node, view)


def _depth_to_space(node: Node, view: View) -> Edit | str | None:
    """ONNX's own: in the order CRD ours, in the order DCR behind a choice of channels."""
    x, y = view.value(node.inputs[0]), view.value(node.outputs[0])
    if x is None or y is None or x.shape is None or y.shape is None or not is_image(x, view):
        return None
    block, source, inserts, values = int(node.attributes["blocksize"]), x.name, [], {}
    if node.attributes.get("mode", "DCR") == "DCR":
        source = view.fresh(f"{node.name}.ordered")
        order = np.arange(int(x.shape[1])).reshape(block * block, -1).T.reshape(-1).tolist()
        name = view.fresh_node(source)
        inserts.append(
            Node(name, "Channels", (x.name,), (source,), NATIVE, {"order": tuple(order)})
        )
        values[source] = Value(source, x.dtype, x.shape)
    apart = {"block": (block, block), "size": pixels(y.shape)}
    inserts.append(Node(node.name, "DepthToSpace", (source,), node.outputs, NATIVE, apart))
    return Edit((node,), tuple(inserts), values, reason=f"blocks of {block} x {block}")


def _behind(node: Node, view: View) -> Edit | str | None:
    """f(DepthToSpace(x)) = DepthToSpace(f(x)), for functions of elements and scales of channels."""
    space = next((p for n in node.inputs if (p := view.producer(n)) and p.label == LABEL), None)
    conv = view.producer(space.inputs[0]) if space is not None else None
    if space is None or conv is None or conv.label != f"{NATIVE}.Conv":
        return None
    y, before = view.value(node.outputs[0]), view.value(space.outputs[0])
    if y is None or before is None or (y.shape, y.dtype) != (before.shape, before.dtype):
        return None
    function, affine = unary_of(node, view.graph.initializers), affine_of(node, view)
    reason = view.shared(space.outputs[0])
    if isinstance(function, tuple):
        (old,), (name,) = space.outputs, space.inputs
        inputs = tuple(name if n == old else n for n in node.inputs)
        return reason or _before_space(space, [replace(node, inputs=inputs)], {}, node, view)
    if not isinstance(affine, Affine):
        return affine
    if conv.attributes["activations"] or affine.axis not in (None, 1):
        reason = reason or f"{conv.name} has an activation in between, or it is not over channels"
    return reason or _scaled(node, space, affine, view)


def _scaled(node: Node, space: Node, affine: Affine, view: View) -> Edit | str:
    """Scale and shift of each channel, for each of its phases."""
    many = int(np.prod(space.attributes["block"]))
    (name,), steps, constants = space.inputs, list[Node](), dict[str, Array]()
    for op, vector, neutral in (("Mul", affine.scale, 1), ("Add", affine.shift, 0)):
        if (vector == neutral).all():
            continue
        constant = view.fresh(f"{node.name}.{op.lower()}")
        with np.errstate(all="ignore"):
            wide = np.repeat(np.float32(vector), many) if vector.size > 1 else np.float32(vector)
        constants[constant] = wide.reshape(-1, *(1 for _ in range(_spatial(node, view))))
        into = view.fresh(f"{constant}.result")
        steps.append(Node(view.fresh_node(constant), op, (name, constant), (into,)))
        name = into
    if not all(np.isfinite(c).all() for c in constants.values()):
        return "its scale or shift would leave the range of float32"
    return _before_space(space, steps, constants, node, view)


def _spatial(node: Node, view: View) -> int:
    value = view.value(node.outputs[0])
    return len(value.shape or ()) - 2 if value is not None else 0


def _before_space(
    space: Node, steps: list[Node], constants: dict[str, Array], node: Node, view: View
) -> Edit:
    """`steps` on what DepthToSpace reads, and DepthToSpace last."""
    x = view.value(space.inputs[0])
    assert x is not None
    last = view.fresh(f"{node.name}.phases")
    steps = [*steps[:-1], replace(steps[-1], outputs=(last,))]
    values = {n: Value(n, x.dtype, x.shape) for step in steps for n in step.outputs}
    moved = replace(space, inputs=(last,), outputs=node.outputs)
    reason = f"moved before {space.name}"
    return Edit((space, node), (*steps, moved), values, constants, reason=reason)


DEPTH_TO_SPACE = Rewrite(
    "depth_to_space",
    "gives DepthToSpace one order of channels, and moves what follows before it",
    _at,
)
