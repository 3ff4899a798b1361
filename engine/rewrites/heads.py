"""Where the heads of queries, keys and values come from: which features of a value of tokens.

Heads are split off by Reshape and Transpose, or queries, keys and values are split from one value
by Split, Slice or Gather, before or after the heads are: after it, a head's queries, keys and
values stand side by side. Whatever only moves elements is followed up from [N, heads, S, d], or
[N, heads, d, S], to a value [N, S, F], and then run from there on an array of numbers, which shows
where each comes to lie. Heads of keys and values that several heads of queries share are repeated
by Expand.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from engine.errors import EngineError
from engine.graph import Node
from engine.reference import evaluate
from engine.rewrites.rewrite import Array, View
from engine.rewrites.trial import sized

_MOVES = frozenset(
    {
        "Expand",
        "Flatten",
        "Gather",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
_ROWS, _TOKENS = 2, 3
"""The array of numbers that is sent through."""


@dataclass(frozen=True, slots=True)
class Heads:
    """A value [N, heads * shared, S, d], or with d and S changed about, by where it comes from."""

    source: str
    """[N, S, F]."""
    start: int
    """Its first feature."""
    heads: int
    depth: int
    apart: int
    """Features from one head's first to the next one's: `depth` where they stand side by side."""
    transposed: bool
    scale: float
    shared: int = 1
    """How often each head is repeated."""

    @property
    def features(self) -> int:
        """From the first head's start to the last one's end."""
        return (self.heads - 1) * self.apart + self.depth


def scaled(node: Node, view: View) -> tuple[str, float] | None:
    """(value, factor) of a product or quotient with a constant number."""
    if node.label not in ("Mul", "Div"):
        return None
    pairs = (node.inputs, node.inputs[::-1]) if node.op == "Mul" else (node.inputs,)
    for value, other in pairs:
        number = view.scalar(other)
        if number and view.constant(value) is None:
            return value, number if node.op == "Mul" else 1 / number
    return None


def heads_of(name: str, view: View) -> Heads | None:
    """The value's heads, or None where it has none."""
    path: list[tuple[Node, str]] = []
    scale = 1.0
    while not _is_source(name, view):
        node = view.producer(name)
        if node is None:
            return None
        step = scaled(node, view)
        if step is not None:
            name, scale = step[0], scale * step[1]
        elif node.label in _MOVES and _is_known(node, view):
            path.append((node, name))
            name = node.inputs[0]
        else:
            return None
    value = view.value(name)
    features = value.features if value is not None else None
    if value is None or not features or value.dtype != np.float32:
        return None
    numbers = np.arange(_ROWS * _TOKENS * features).reshape(_ROWS, _TOKENS, features)
    moved = _sent(numbers, path[::-1], view)
    return None if moved is None else _found(name, numbers, moved, scale)


def _is_known(node: Node, view: View) -> bool:
    """Whether it is known where it moves elements: by constants, or by the shape of its result."""
    if _is_told(node, view):
        return _size(node.outputs[0], view) is not None
    return all(view.constant(n) is not None for n in node.reads[1:])


def _is_told(node: Node, view: View) -> bool:
    """Whether the shape of its result says all: of a Reshape where that is computed."""
    computed = node.label == "Reshape" and view.constant(node.inputs[1]) is None
    return node.label == "Expand" or computed


def _size(name: str, view: View) -> tuple[int, ...] | None:
    """The value's shape with the sizes of the array of numbers."""
    return sized(name, view, _ROWS, _TOKENS)


def _is_source(name: str, view: View) -> bool:
    value = view.value(name)
    return value is not None and value.has_tokens and len(value.shape or ()) == 3


def _sent(numbers: Array, path: list[tuple[Node, str]], view: View) -> Array | None:
    """The numbers as the nodes move them."""
    for node, output in path:
        if _is_told(node, view):
            shape = _size(output, view) or ()
            expands = node.label == "Expand"
            numbers = np.broadcast_to(numbers, shape) if expands else numbers.reshape(shape)
            continue
        constants = {n: view.graph.initializers[n] for n in node.reads[1:]}
        try:
            found = evaluate(node, {node.inputs[0]: numbers, **constants}, view.graph.opsets)
        except EngineError:
            return None
        numbers = found[output]
    return numbers


def _found(name: str, numbers: Array, moved: Array, scale: float) -> Heads | None:
    """The part of the features, split into heads, that has come out."""
    if moved.ndim != 4 or not moved.size or moved.shape[0] != _ROWS:
        return None
    start = int(moved.flat[0])
    for transposed, shared in itertools.product((False, True), _divisors(moved.shape[1])):
        heads, depth = moved.shape[1] // shared, moved.shape[2 if transposed else 3]
        apart = int(moved[0, shared, 0, 0]) - start if heads > 1 else depth
        places = start + apart * np.arange(heads)[:, None] + np.arange(depth)
        if apart < depth or places[-1, -1] >= numbers.shape[2]:
            continue
        split = numbers[..., places].repeat(shared, axis=2)
        if np.array_equal(split.transpose((0, 2, 3, 1) if transposed else (0, 2, 1, 3)), moved):
            return Heads(name, start, heads, depth, apart, transposed, scale, shared)
    return None


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
