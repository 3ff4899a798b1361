"""Shapes that the reader already knows: their computation at run time falls away.

Exported models compute the target of a Reshape from Shape, Gather and Concat even where only the
rows are free. Then the target is a constant, with 0 ("as in the input") for the rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.graph import Node
from engine.rewrites.rewrite import Array, Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    return _reshape(node, view) if node.op == "Reshape" else _known_dims(node, view)


def _reshape(node: Node, view: View) -> Edit | str | None:
    if len(node.inputs) < 2 or view.constant(node.inputs[1]) is not None:
        return None
    before, after = view.value(node.inputs[0]), view.value(node.outputs[0])
    if before is None or after is None or before.shape is None or after.shape is None:
        return "the shapes of its input and output are not known"
    fixed = after.shape[1:] if before.has_rows and after.has_rows else after.shape
    if not all(isinstance(d, int) and d > 0 for d in fixed):
        return f"its result has the shape {list(after.shape)}, with more open than the rows"
    # 0 copies the dimension of the input, unless the node says otherwise
    target = np.array([*([0] if len(fixed) < len(after.shape) else []), *fixed], np.int64)
    name = view.fresh(f"{node.name}.shape")
    attributes = {k: v for k, v in node.attributes.items() if k != "allowzero"}
    new = replace(node, inputs=(node.inputs[0], name), attributes=attributes)
    return Edit((node,), (new,), initializers={name: target}, reason=f"shape {list(after.shape)}")


def _known_dims(node: Node, view: View) -> Edit | str | None:
    """Shape of a fixed value, or Gather of fixed dimensions from a Shape."""
    dims = _shape_dims(node, view) if node.op == "Shape" else _gathered(node, view)
    if (
        dims is None
        or any(view.is_output(o) for o in node.writes)
        or not view.readers(node.outputs[0])
    ):
        return None
    if dims.dtype != np.int64:
        return "it reads a dimension that is open until a batch is there"
    return Edit((node,), initializers={node.outputs[0]: dims}, reason=f"{dims.tolist()}")


def _shape_dims(node: Node, view: View) -> Array | None:
    """The dimensions that a Shape node gives; an object array where one of them is open."""
    value = view.value(node.inputs[0])
    if value is None or value.shape is None:
        return None
    rank = len(value.shape)
    start, end = (node.attributes.get(k, d) for k, d in (("start", 0), ("end", rank)))
    dims = list(value.shape)[start:end]
    return np.array(dims, np.int64 if all(isinstance(d, int) for d in dims) else object)


def _gathered(node: Node, view: View) -> Array | None:
    source, indices = view.producer(node.inputs[0]), view.constant(node.inputs[1])
    if source is None or source.op != "Shape" or source.domain or indices is None:
        return None
    dims = _shape_dims(source, view)
    if dims is None or bool((indices >= len(dims)).any() or (indices < -len(dims)).any()):
        return None
    found = np.asarray(dims.astype(object)[indices], object)
    fixed = all(isinstance(d, int) for d in found.reshape(-1))
    return found.astype(np.int64) if fixed else found


STATIC_SHAPE = Rewrite(
    "static_shape",
    "replaces computed shapes that are already known",
    _at,
    frozenset({"Reshape", "Shape", "Gather"}),
)
