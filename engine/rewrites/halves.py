"""Numbers of half a word: what a model keeps in float16 or bfloat16 is computed in float32.

Every such number is a float32, too, so constants keep their values and zeros stay zeros. Inputs and
outputs keep the types that the model declares, by casts at its borders:

    x: float16 ... y: float16   ->   x: float16, Cast, x: float32 ... y: float32, Cast, y: float16

What lies between is rounded less, and what float16 would call infinite, from 65,520 on, stays a
number. A model that only rounds something by a Cast and a Cast back is left alone: it means that.
All is done by one edit, because a node takes one type for all that it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine.graph import Graph, Node, Value
from engine.mapped import release
from engine.rewrites.rewrite import Array, Edit, Rewrite, View

_WIDE: np.dtype[Any] = np.dtype(np.float32)
_FLOAT32 = 1
_HALVES = {"float16": 10, "bfloat16": 16}
"""ONNX's numbers of element types, by numpy's names."""

_NAMING_TYPES = frozenset(
    {
        "dtype",
        "output_datatype",
        "output_dtype",
        "precision",
        "softmax_precision",
        "stash_type",
        "to",
    }
)
"""Attributes that are such a number."""

_ONLY_MOVES = frozenset(
    {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
"""What may stand outside the casts: LAYOUT moves transposes to the very inputs and outputs."""

_BITS = frozenset({"BitCast"})
"""What they give depends on how many bytes a number has."""


def _at(node: Node, view: View) -> Edit | str | None:
    graph = view.graph
    if node is not graph.nodes[0] or not any(_computes_in_halves(n, graph) for n in graph.nodes):
        return None
    for other in graph.nodes:
        if other.captures or any(hasattr(a, "node") for a in other.attributes.values()):
            return f"{other.name} ({other.label}) has a subgraph with types of its own"
        if other.op in _BITS:
            return f"{other.name} ({other.label}) takes numbers for their bits"
    return _widened(view)


def _computes_in_halves(node: Node, graph: Graph) -> bool:
    """Whether the node does more with them than to round or to move them."""
    names = () if node.op in _ONLY_MOVES else (*node.reads, *node.writes)
    return any(_is_half(graph.value(name)) for name in names)


def _is_half(value: Value | Array | None) -> bool:
    return value is not None and value.dtype.name in _HALVES


def halves_of(graph: Graph) -> tuple[Array, ...]:
    """The constants that are halves."""
    return tuple(a for a in graph.initializers.values() if _is_half(a))


def _widened(view: View) -> Edit:
    graph = view.graph
    inputs, outputs = ([v for v in vs if _is_half(v)] for vs in (graph.inputs, graph.outputs))
    halves = {n: a for n, a in graph.initializers.items() if _is_half(a)}
    named = dict.fromkeys(v.name for v in (*inputs, *outputs))
    inside = {name: view.fresh(f"{name}/float32") for name in named}
    nodes = [_in_float32(node, inside) for node in graph.nodes]
    read = {n for node in nodes for n in node.reads}
    written = {n for node in nodes for n in node.writes}
    taken = [v for v in inputs if inside[v.name] in read]
    given = [v for v in outputs if inside[v.name] in written]
    values = {n: replace(v, dtype=_WIDE) for n, v in graph.values.items() if _is_half(v)}
    values |= {new: Value(new, _WIDE, _shape(old, graph)) for old, new in inside.items()}
    values |= {v.name: v for v in (*inputs, *outputs)}
    constants = {inside.get(n, n): _wide(a) for n, a in halves.items()}
    before = [_cast(view, v.name, inside[v.name], _FLOAT32) for v in taken]
    behind = [_cast(view, inside[v.name], v.name, _HALVES[v.dtype.name]) for v in given]
    return Edit(
        removes=graph.nodes,
        inserts=(*before, *nodes, *behind),
        values=values,
        initializers=constants,
        reason=f"{len(halves)} constants and all between casts at the model's borders become "
        "float32",
    )


def _in_float32(node: Node, inside: Mapping[str, str]) -> Node:
    def renamed(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(inside.get(n, n) for n in names)

    attributes = {k: _attribute(k, v) for k, v in node.attributes.items()}
    inputs, outputs = renamed(node.inputs), renamed(node.outputs)
    return replace(node, inputs=inputs, outputs=outputs, attributes=attributes)


def _attribute(name: str, given: Any) -> Any:
    if name in _NAMING_TYPES and given in _HALVES.values():
        return _FLOAT32
    return _wide(given) if isinstance(given, np.ndarray) and _is_half(given) else given


def _wide(array: Array) -> Array:
    wide = array.astype(_WIDE)
    wide.flags.writeable = False
    release(array)
    return wide


def _shape(name: str, graph: Graph) -> Any:
    value = graph.value(name)
    return value.shape if value is not None else None


def _cast(view: View, before: str, after: str, to: int) -> Node:
    return Node(view.fresh_node(f"{after}.cast"), "Cast", (before,), (after,), "", {"to": to})


HALVES = Rewrite("halves", "computes in float32 what is float16 or bfloat16", _at)
