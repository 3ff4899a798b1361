"""Positions that are counted become `colonnade.Counted`: a table looked up by how many tokens of a
sequence up to each are no padding.

    real = ids != padding     places = cumsum(real) * real + first     table[places]

So RoBERTa and its kin (XLM-R, CamemBERT, MPNet) find their places in the ids, and OPT in the mask,
which then is `real` itself. Casts may stand anywhere, and numbers that add up to `first` behind the
product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.graph import NATIVE, ROWS, TOKENS, Node
from engine.rewrites.rewrite import Edit, Rewrite, View

_KEEPING_TYPES = (1, 6, 7)
"""float32, int32 and int64 as ONNX numbers them: places and ids stay what they are."""


@dataclass(frozen=True, slots=True)
class _Real:
    """What counts: ids that are not `padding`, or a mask."""

    source: str
    padding: int | None


def _at(node: Node, view: View) -> Edit | str | None:
    table = view.constant(node.inputs[0])
    if table is None or table.ndim != 2 or node.attributes.get("axis", 0) != 0:
        return None
    name, first = _plus(node.inputs[1], view)
    product = _producer(name, view)
    if product is None or product.label != "Mul":
        return None
    for counts, other in (product.inputs, product.inputs[::-1]):
        summed, real = _counted(counts, view), _real(other, view)
        if summed is None or summed != real:
            continue
        if table.dtype != np.float32:
            return f"its table {node.inputs[0]} is {table.dtype.name}"
        attributes = {"padding": real.padding, "first": first}
        inputs = (real.source, node.inputs[0])
        new = Node(node.name, "Counted", inputs, node.outputs, NATIVE, attributes)
        return Edit((node,), (new,), reason=f"{len(table)} positions, by {real.source}")
    return None


def _producer(name: str, view: View) -> Node | None:
    """The node that computes the value, behind casts."""
    return view.producer(_behind_casts(name, view))


def _behind_casts(name: str, view: View) -> str:
    node = view.producer(name)
    while node is not None and (node.label == "Identity" or _is_kept(node)):
        name = node.inputs[0]
        node = view.producer(name)
    return name


def _is_kept(node: Node) -> bool:
    return node.label == "Cast" and node.attributes.get("to") in _KEEPING_TYPES


def _plus(name: str, view: View) -> tuple[str, int]:
    """The value without the whole numbers that are added to it, and their sum."""
    node, total = _producer(name, view), 0
    while node is not None and node.label in ("Add", "Sub"):
        pairs = (node.inputs, node.inputs[::-1]) if node.op == "Add" else (node.inputs,)
        found = [(v, n) for v, c in pairs if (n := view.scalar(c)) is not None and n == int(n)]
        if not found:
            break
        name, number = found[0]
        total += int(number) if node.op == "Add" else -int(number)
        node = _producer(name, view)
    return name, total


def _counted(name: str, view: View) -> _Real | None:
    """What is summed up along the tokens, where nothing but zero is added to the sums."""
    name, more = _plus(name, view)
    node = _producer(name, view)
    if node is None or node.label != "CumSum" or more or view.scalar(node.inputs[1]) not in (1, -1):
        return None
    if node.attributes.get("exclusive") or node.attributes.get("reverse"):
        return None
    return _real(node.inputs[0], view)


def _real(name: str, view: View) -> _Real | None:
    """The ids and their padding, or the mask, where they are an input [N, S] of whole numbers."""
    node = _producer(name, view)
    if node is None:
        source = _behind_casts(name, view)
        return _Real(source, None) if _is_fed(source, view) else None
    equal = _producer(node.inputs[0], view) if node.label == "Not" else None
    if equal is None or equal.label != "Equal":
        return None
    for value, other in (equal.inputs, equal.inputs[::-1]):
        padding, source = view.scalar(other), _behind_casts(value, view)
        if padding is not None and padding == int(padding) and _is_fed(source, view):
            return _Real(source, int(padding))
    return None


def _is_fed(name: str, view: View) -> bool:
    value = view.value(name)
    whole = value is not None and value.shape == (ROWS, TOKENS) and value.dtype.kind in "iu"
    return whole and view.is_input(name)


COUNTING = Rewrite(
    "counting",
    "turns positions that are counted from ids or a mask into lookups",
    _at,
    frozenset({"Gather"}),
)
