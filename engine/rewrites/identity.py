"""Nodes that give back what they were given."""

from __future__ import annotations

import numpy as np

from engine.graph import Node
from engine.rewrites.rewrite import Edit, Rewrite, View

_SHAPERS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"})
_ONE_INPUT = frozenset({"Concat", "Sum", "Max", "Min", "Mean"})
# x op c is x: the neutral element, which must stand on the right of Sub and Div
_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0}


def _at(node: Node, view: View) -> Edit | str | None:
    source = _passes(node, view)
    if source is None:
        return None
    result = node.outputs[0]
    before, after = view.value(source), view.value(result)
    if before is None or after is None or before.dtype != after.dtype:
        return "the types of its input and output are not known to be the same"
    if view.captured(source) or view.captured(result):
        return f"{result} or {source} is read by a subgraph"
    if not view.is_output(result):
        return Edit((node,), renames={result: source}, reason=f"{result} is {source}")
    # the graph's output keeps its name, so the value before takes it
    if view.producer(source) is None or view.is_output(source):
        return f"{result} is a graph output and {source} another name that must stay"
    return Edit((node,), renames={source: result}, reason=f"{source} is {result}")


def _passes(node: Node, view: View) -> str | None:
    """The input that the node's only used output equals, or None."""
    if node.domain or not node.inputs or not node.outputs[0]:
        return None
    if node.op == "Dropout":
        return _dropout(node, view)
    if node.op == "Identity":
        return node.inputs[0]
    before, after = view.value(node.inputs[0]), view.value(node.outputs[0])
    if node.op == "Cast" and before is not None and after is not None:
        return node.inputs[0] if before.dtype == after.dtype else None
    if node.op in _ONE_INPUT and len(node.inputs) == 1:
        return node.inputs[0]
    same = (
        before is not None
        and after is not None
        and before.shape is not None
        and before.shape == after.shape
    )
    if node.op in _SHAPERS and same:
        return node.inputs[0]
    if node.op == "Transpose":
        perm = list(node.attributes.get("perm", ()))
        return node.inputs[0] if perm and perm == sorted(perm) else None
    return _neutral(node, view)


def _dropout(node: Node, view: View) -> str | None:
    """Inference: the mask is not used and training is off."""
    used = [o for o in node.writes if view.used(o)]
    mode = node.inputs[2] if len(node.inputs) > 2 else ""
    constant = view.constant(mode)
    off = not mode or (constant is not None and not np.any(constant))
    old = view.graph.opsets.get("", 1) < 7 and not node.attributes.get("is_test", 0)
    return node.inputs[0] if off and not old and used == [node.outputs[0]] else None


def _neutral(node: Node, view: View) -> str | None:
    if node.op not in _NEUTRAL:
        return None
    pairs = [(node.inputs[0], node.inputs[1])]
    if node.op in ("Add", "Mul"):
        pairs.append((node.inputs[1], node.inputs[0]))
    for source, name in pairs:
        constant, before, after = (
            view.constant(name),
            view.value(source),
            view.value(node.outputs[0]),
        )
        if constant is None or before is None or after is None or before.shape is None:
            continue
        if before.shape == after.shape and bool(np.all(constant == _NEUTRAL[node.op])):
            return source
    return None


IDENTITY = Rewrite("identity", "removes nodes that give back what they were given", _at)
