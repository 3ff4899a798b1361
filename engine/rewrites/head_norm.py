"""A norm of each head, as of Qwen3's and Gemma3's queries and keys, moves in front of the heads.

    Norm(Reshape(x))  =  Reshape(Norm of each d features of x)      x [N, S, heads * d]

so that heads.py finds behind it what it knows, a value of tokens that is split into heads.
"""

from __future__ import annotations

import numpy as np

from engine.graph import NATIVE, ROWS, TOKENS, Node, Value
from engine.rewrites.rewrite import Array, Edit, Rewrite, View

_OPERATORS = frozenset({"LayerNormalization", "RMSNormalization"})


def _at(node: Node, view: View) -> Edit | str | None:
    reshape = view.producer(node.inputs[0])
    if reshape is None or reshape.label != "Reshape":
        return None
    x, split = view.value(reshape.inputs[0]), view.value(node.inputs[0])
    if x is None or split is None or x.dtype != np.float32 or len(split.shape or ()) != 4:
        return None
    heads, depth = (split.shape or ())[2:]
    if x.shape != (ROWS, TOKENS, x.features) or split.shape != (*x.shape[:2], heads, depth):
        return None
    if node.op in _OPERATORS and (len(node.writes) > 1 or node.attributes.get("axis", -1) != -1):
        return "it is over more than the features of a head, or gives more than the norm"
    scale, bias = (_vector(node, place, depth, view) for place in (1, 2))
    if scale is None or bias is None:
        return f"its scale or bias is no constant of {depth} features"
    return _edit(node, x, split, scale, bias, view)


def _vector(node: Node, place: int, depth: int | str, view: View) -> Array | None:
    """The constant of that input; zeros for a bias that is not there; None where it is another."""
    if len(node.inputs) <= place or not node.inputs[place]:
        return np.zeros(int(depth), np.float32)
    found = view.constant(node.inputs[place])
    if found is None or found.dtype != np.float32 or not found.ndim:
        return None
    return found.reshape(-1) if found.size == found.shape[-1] == depth else None


def _edit(node: Node, x: Value, split: Value, scale: Array, bias: Array, view: View) -> Edit:
    names = [view.fresh(f"{node.name}.{what}") for what in ("scale", "bias", "shape", "flat")]
    _, heads, depth = (split.shape or ())[1:]
    constants = dict(zip(names, (scale, bias, np.array([0, 0, heads, depth])), strict=False))
    attributes = {
        "centred": node.attributes.get("centred", int(node.op != "RMSNormalization")),
        "epsilon": node.attributes.get("epsilon", 1e-5),
    }
    flat = names[3]
    inputs = (x.name, *names[:2])
    norm = Node(
        view.fresh_node(f"{node.name}.flat"), "LayerNorm", inputs, (flat,), NATIVE, attributes
    )
    back = Node(node.name, "Reshape", (flat, names[2]), node.outputs)
    values = {flat: Value(flat, x.dtype, x.shape)}
    return Edit((node,), (norm, back), values, constants, reason=f"{heads} heads of {depth}")


HEAD_NORM = Rewrite(
    "head_norm",
    "moves the norm of each head in front of where heads are split",
    _at,
    frozenset({*_OPERATORS, "colonnade.LayerNorm"}),
)
