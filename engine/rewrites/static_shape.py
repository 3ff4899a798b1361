"""Shapes that the reader already knows: their computation at run time falls away.

Exported models compute the target of a Reshape from Shape, Gather and Concat even where only the
rows are free. Then the target is a constant, with 0 ("as in the input") for the rows. A Resize to
sizes, which count the rows of a batch, too, is one by scales.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.graph import Node, Shape
from engine.rewrites.rewrite import Array, Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    return _RULES.get(node.op, _known_dims)(node, view)


def _reshape(node: Node, view: View) -> Edit | str | None:
    if len(node.inputs) < 2 or view.constant(node.inputs[1]) is not None:
        return None
    before, after = view.value(node.inputs[0]), view.value(node.outputs[0])
    if before is None or after is None or before.shape is None or after.shape is None:
        return "the shapes of its input and output are not known"
    target = target_of(before.shape, after.shape)
    if target is None:
        return f"its result has the shape {list(after.shape)}, with more open than can be told"
    name = view.fresh(f"{node.name}.shape")
    attributes = {k: v for k, v in node.attributes.items() if k != "allowzero"}
    new = replace(node, inputs=(node.inputs[0], name), attributes=attributes)
    return Edit((node,), (new,), initializers={name: target}, reason=f"shape {list(after.shape)}")


def _resize(node: Node, view: View) -> Edit | str | None:
    if len(node.inputs) < 4 or not node.inputs[3] or node.attributes.get("axes"):
        return None
    before, after = view.value(node.inputs[0]), view.value(node.outputs[0])
    dims = [v.shape[1:] for v in (before, after) if v is not None and v.shape is not None]
    if len(dims) < 2 or not all(isinstance(d, int) and d for shape in dims for d in shape):
        return "the sizes of its input and output are not known"
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch" or node.inputs[1]:
        return "it resizes a region, or keeps the aspect ratio"
    old, new = (np.array(shape, np.float32) for shape in dims)
    scales = np.concatenate([np.ones(1, np.float32), new / old])
    if (np.floor(scales[1:] * old) != new).any():
        return f"no float32 scales take {before} to {list(dims[1])}"
    name = view.fresh(f"{node.name}.scales")
    resized = replace(node, inputs=(node.inputs[0], "", name))
    return Edit((node,), (resized,), initializers={name: scales}, reason=f"by {scales.tolist()}")


def target_of(before: Shape, after: Shape) -> Array | None:
    """What Reshape is given: 0 copies a dimension of the input, -1 is the one left over."""
    target: list[int] = []
    for axis, dim in enumerate(after):
        if isinstance(dim, int):
            target.append(dim)
        else:
            target.append(0 if axis < len(before) and before[axis] == dim else -1)
    # a fixed 0 would be taken as a copy
    good = target.count(-1) <= 1 and 0 not in [d for d in after if isinstance(d, int)]
    return np.array(target, np.int64) if good else None


def _known_dims(node: Node, view: View) -> Edit | str | None:
    """Shape of a fixed value, or fixed dimensions taken from a Shape."""
    dims = _DIMS[node.op](node, view)
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


def _sliced(node: Node, view: View) -> Array | None:
    source = view.producer(node.inputs[0])
    bounds = [view.constant(n) for n in node.inputs[1:3]]
    if source is None or source.label != "Shape" or len(node.inputs) > 4 or len(bounds) != 2:
        return None
    dims = _shape_dims(source, view)
    if dims is None or any(b is None or b.size != 1 for b in bounds):
        return None
    start, end = (int(b.reshape(-1)[0]) for b in bounds if b is not None)
    found = dims[start:end]
    fixed = all(isinstance(d, int | np.integer) for d in found)
    return found.astype(np.int64) if fixed else found.astype(object)


_DIMS = {"Gather": _gathered, "Shape": _shape_dims, "Slice": _sliced}

_RULES = {"Reshape": _reshape, "Resize": _resize}

STATIC_SHAPE = Rewrite(
    "static_shape",
    "replaces computed shapes that are already known",
    _at,
    frozenset({*_RULES, *_DIMS}),
)
