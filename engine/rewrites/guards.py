"""Shares of attention that are guarded: a query that sees no key gets nothing where it got NaN.

    s = softmax(scores)   Where(IsNaN(s), 0, s) @ v

PyTorch's exporters write it behind masks of bool. The same without a guard are numbers that hide a
key and are finite, so that a query without keys has equal shares, and values that are zero where
the mask hides their key:

    softmax(scores + max(bias, HIDDEN)) @ (v * seen)

What differs are scores that are NaN of themselves: they have no share with a guard, and stay NaN
here.
"""

from __future__ import annotations

import numpy as np

from engine.graph import Node
from engine.rewrites.rewrite import View

HIDDEN = -1e30
"""Takes a share away like minus infinity, and swallows every score of a query without keys."""


def past_guard(softmax: Node, view: View) -> Node:
    """The node that gives the shares behind a guard, or the softmax itself where it has none."""
    shares = softmax.outputs[0]
    readers = view.readers(shares)
    if len(readers) != 2 or view.is_output(shares):
        return softmax
    question, choice = sorted(readers, key=lambda node: node.op != "IsNaN")
    asked = question.label == "IsNaN" and view.readers(question.outputs[0]) == [choice]
    if not asked or choice.label != "Where" or view.is_output(question.outputs[0]):
        return softmax
    condition, instead, otherwise = choice.inputs
    nothing = view.scalar(instead) == 0.0
    names = (condition, otherwise) == (question.outputs[0], shares)
    return choice if nothing and names else softmax


def hides(bias: str, view: View) -> Node | None:
    """The Select that gives minus infinity for keys that are hidden; None where nothing does."""
    node = view.producer(bias)
    if node is None or node.label != "colonnade.Select":
        return None
    return node if -np.inf in (node.attributes["zero"], node.attributes["other"]) else None


def is_finite(bias: str, view: View) -> bool:
    """Whether no key's number can be infinite: a product of a mask of whole numbers with one that
    is not, or a Select of two."""
    node = view.producer(bias)
    if node is None:
        return False
    if node.label == "colonnade.Select":
        return bool(np.isfinite([node.attributes["zero"], node.attributes["other"]]).all())
    constants = [c for c in map(view.constant, node.inputs) if c is not None]
    return node.label in ("Mul", "Add") and all(bool(np.isfinite(c).all()) for c in constants)
