"""Tokens before rows, as torch's MultiheadAttention has them inside, go behind the rows again.

    x [N, S, F] -> Transpose -> [S, N, F] -> Linear ...        Linear -> Transpose
    y [N, heads, S, d] -> Transpose -> [S, N, heads, d] -> Reshape [S * N, F] -> Linear
      -> Reshape [S, N, M] -> Transpose -> [N, S, M]           Transpose, Reshape [N, S, F], Linear

A Linear, and an Add of its bias, take each token by itself, in any order. The first rule sinks a
Transpose behind them, where attention.py follows heads up from; of the second the root is the last
Transpose.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.graph import ROWS, TOKENS, Node, Value
from engine.rewrites.rewrite import Edit, Rewrite, View

_SWAP = [1, 0, 2]
_PARTED = [2, 0, 1, 3]


def _at(node: Node, view: View) -> Edit | str | None:
    return _rows_again(node, view) if node.label == "Transpose" else _sunk(node, view)


def _sunk(node: Node, view: View) -> Edit | None:
    """The Transpose in front of a Linear or an Add of a constant behind it."""
    place = 1 if node.label == "Add" and view.constant(node.inputs[0]) is not None else 0
    before = _swap(node.inputs[place], view)
    if before is None or not _of_features(node, place, view):
        return None
    x, y = (view.value(name) for name in (before.inputs[0], node.outputs[0]))
    if x is None or not _of_tokens(x) or y is None or y.shape is None:
        return None
    made = view.fresh(f"{y.name}.rows")
    inputs = (*node.inputs[:place], x.name, *node.inputs[place + 1 :])
    name = view.fresh_node(f"{node.name}.swap")
    swap = Node(name, "Transpose", (made,), node.outputs, "", {"perm": _SWAP})
    values = {made: Value(made, y.dtype, (ROWS, TOKENS, y.shape[-1]))}
    first = replace(node, inputs=inputs, outputs=(made,))
    return Edit((node,), (first, swap), values, reason=f"of {x.name}, rows first")


def _of_features(node: Node, place: int, view: View) -> bool:
    """Whether nothing else than constants for each feature goes in beside that input."""
    if node.label != "Add":
        return not any(node.inputs[3:])
    constant = view.constant(node.inputs[1 - place])
    return constant is not None and constant.ndim < 2


def _rows_again(node: Node, view: View) -> Edit | None:
    """A Linear of heads put together, with rows first from the start."""
    chain = _chain(node, view)
    y = view.value(node.outputs[0])
    if chain is None or y is None or not _of_tokens(y):
        return None
    linear, heads = chain
    assert heads.shape is not None
    width = int(heads.shape[1]) * int(heads.shape[3])
    split, joined, shape = (view.fresh(f"{node.name}.{what}") for what in ("split", "join", "to"))
    names = [view.fresh_node(f"{node.name}.{what}") for what in ("split", "join")]
    nodes = (
        Node(names[0], "Transpose", (heads.name,), (split,), "", {"perm": [0, 2, 1, 3]}),
        Node(names[1], "Reshape", (split, shape), (joined,)),
        replace(linear, name=node.name, inputs=(joined, *linear.inputs[1:]), outputs=node.outputs),
    )
    values = {
        split: Value(split, y.dtype, (ROWS, TOKENS, heads.shape[1], heads.shape[3])),
        joined: Value(joined, y.dtype, (ROWS, TOKENS, width)),
    }
    constants = {shape: np.array([0, 0, width], np.int64)}
    return Edit((node,), nodes, values, constants, reason=f"of {heads.name}, rows first")


def _chain(node: Node, view: View) -> tuple[Node, Value] | None:
    """The Linear between two Reshapes, and the heads [N, heads, S, d] that they come from."""
    if _swap(node.outputs[0], view) is None:
        return None
    parts: list[Node] = []
    for label in ("Reshape", "colonnade.Linear", "Reshape", "Transpose"):
        before = view.producer((parts or [node])[-1].inputs[0])
        if before is None or before.label != label:
            return None
        parts.append(before)
    back, linear, flat, parted = parts
    names = (parted.inputs[0], flat.outputs[0], back.outputs[0])
    heads, tokens, outside = map(view.value, names)
    if heads is None or tokens is None or outside is None or any(linear.inputs[3:]):
        return None
    shape = heads.shape or ()
    by_heads = len(shape) == 4 and shape[::2] == (ROWS, TOKENS)
    if parted.attributes.get("perm") != _PARTED or not by_heads:
        return None
    count, depth = shape[1::2]
    if not isinstance(count, int) or not isinstance(depth, int):
        return None
    flattened = len(tokens.shape or ()) == 2 and (tokens.shape or ())[1] == count * depth
    return (linear, heads) if flattened and (outside.shape or ())[:1] == (TOKENS,) else None


def _swap(name: str, view: View) -> Node | None:
    """The Transpose of [N, S, F] or back that gives the value."""
    node = view.producer(name)
    if node is None or node.label != "Transpose":
        return None
    return node if node.attributes.get("perm") == _SWAP else None


def _of_tokens(value: Value) -> bool:
    return value.has_tokens and len(value.shape or ()) == 3


TOKENS_FIRST = Rewrite(
    "tokens_first",
    "takes back that tokens are put before rows",
    _at,
    frozenset({"Add", "Transpose", "colonnade.Linear"}),
)
