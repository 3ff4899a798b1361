"""Heads that exporters put into the rows: [heads * N, S, d] becomes [N, heads, S, d].

torch's bmm and baddbmm know one dimension in front, so BLOOM, OPT and BART make one of rows and
heads before their products, and two of it again behind them:

    [N, heads, S, d] -> Reshape [heads * N, S, d] -> MatMul, Mul, Add, Softmax ... -> Reshape

Whatever is computed in between treats each matrix by itself, and is computed with rows and heads
apart just as well. The root is the Reshape that parts them; what it read is left to dead_code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from engine.graph import ROWS, Node, Shape, Value
from engine.rewrites.rewrite import Array, Edit, Rewrite, View
from engine.rewrites.static_shape import target_of

_EACH = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "Sub"})
"""Operators on elements; others move or multiply the last two dimensions."""
_KNOWN = _EACH | {"MatMul", "Softmax", "Transpose"}


def _at(node: Node, view: View) -> Edit | str | None:
    before, after = (view.value(name) for name in (node.inputs[0], node.outputs[0]))
    if before is None or after is None:
        return None
    if before.has_rows and _heads(after):
        return _put_in(node, before, after, view)
    if _heads(before) and after.has_rows:
        return _taken_out(node, before, after, view)
    return None


def _heads(value: Value | None) -> int:
    """How many heads are in the rows, [heads * N, ...]; 0 where there are none."""
    first = value.shape[0] if value is not None and value.shape else 0
    count, _, rows = first.partition("*") if isinstance(first, str) else ("", "", "")
    return int(count) if rows == ROWS and count.isdigit() else 0


def _apart(value: Value) -> Shape:
    """The value's shape with rows and heads apart."""
    return (ROWS, _heads(value), *(value.shape or ())[1:])


def _put_in(node: Node, before: Value, after: Value, view: View) -> Edit | str | None:
    """A Reshape to just that shape stands in front, once for all that will read it."""
    if before.shape == _apart(after):
        return None
    steps = _Steps(view)
    name = steps.reshaped(node.name, before, replace(after, shape=_apart(after)))
    if name is None:
        return f"{before} becomes {after}, with more open than can be told"
    steps.nodes.append(replace(node, inputs=(name, *node.inputs[1:])))
    return steps.edit(node, f"{_heads(after)} heads of {before.name}")


def _taken_out(node: Node, before: Value, after: Value, view: View) -> Edit | str:
    part = _between(before.name, view)
    if isinstance(part, str):
        return part
    steps = _Steps(view)
    for each in part:
        steps.write(each)
    last = replace(before, name=steps.apart(before.name), shape=_apart(before))
    if after.shape == last.shape:
        steps.nodes.append(Node(node.name, "Identity", (last.name,), node.outputs))
    elif steps.reshaped(node.name, last, after, node) is None:
        return f"{last} becomes {after}, with more open than can be told"
    return steps.edit(node, f"{_heads(before)} heads, by {len(part)} nodes")


def _between(name: str, view: View) -> list[Node] | str:
    """The nodes from where heads are put into the rows to the value, in order; or why not."""
    found: dict[str, Node] = {}
    waiting = [name]
    while waiting:
        node = view.producer(waiting.pop())
        if node is None:
            return f"{name} is not computed from rows and heads apart"
        if _enters(node, view) or node.name in found:
            continue
        wrong = _odd(node, view)
        if wrong:
            return wrong
        found[node.name] = node
        waiting += [n for n in node.inputs if view.constant(n) is None]
    return [n for n in view.graph.nodes if n.name in found]


def _enters(node: Node, view: View) -> bool:
    """Whether the Reshape does nothing but put heads into the rows."""
    before, after = (view.value(name) for name in (node.inputs[0], node.outputs[0]))
    if node.label != "Reshape" or before is None or after is None:
        return False
    return bool(_heads(after)) and before.shape == _apart(after)


def _odd(node: Node, view: View) -> str | None:
    """Why the node cannot be computed with rows and heads apart."""
    y = view.value(node.outputs[0])
    if node.domain or node.op not in _KNOWN or y is None or y.shape is None:
        return f"{node.name} ({node.label}) stands between heads put into the rows and taken out"
    rank = len(y.shape)
    for name in node.inputs:
        value, array = view.value(name), view.constant(name)
        alike = value is not None and _heads(value) == _heads(y) and len(value.shape or ()) == rank
        small = array is not None and array.ndim < rank and node.op in _EACH
        if not alike and not small:
            return f"{node.name} ({node.label}) reads {value or name} beside heads in the rows"
    last = 1 if view.graph.opsets.get("", 1) < 13 else -1
    if node.op == "Softmax" and node.attributes.get("axis", last) not in (-1, rank - 1):
        return f"{node.name} takes shares over another axis than the last"
    return None


@dataclass(slots=True)
class _Steps:
    """The same nodes again, with rows and heads apart."""

    view: View
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    """What values have become."""

    def apart(self, name: str) -> str:
        """The value with rows and heads apart, or the constant."""
        if name in self.known or self.view.constant(name) is not None:
            return self.known.get(name, name)
        entry = self.view.producer(name)
        assert entry is not None
        return entry.inputs[0]

    def write(self, node: Node) -> None:
        y = self.view.value(node.outputs[0])
        assert y is not None
        name, attributes = self.view.fresh(f"{y.name}.heads"), dict(node.attributes)
        if node.op == "Transpose":
            attributes["perm"] = [0, 1, *(axis + 1 for axis in attributes["perm"][1:])]
        if node.op == "Softmax":
            attributes["axis"] = -1 if attributes.get("axis") == -1 else len(y.shape or ())
        inputs = tuple(self.apart(n) for n in node.inputs)
        new = self.view.fresh_node(f"{node.name}.heads")
        self.nodes.append(Node(new, node.op, inputs, (name,), "", attributes))
        self.values[name] = Value(name, y.dtype, _apart(y))
        self.known[y.name] = name

    def reshaped(
        self, name: str, before: Value, after: Value, last: Node | None = None
    ) -> str | None:
        """The value in the shape of `after`, by a node in place of the last one or by a new one;
        None where the shape cannot be told."""
        target = target_of(before.shape or (), after.shape or ())
        if target is None:
            return None
        shape = self.view.fresh(f"{name}.shape")
        self.constants[shape] = np.asarray(target)
        y = last.outputs[0] if last is not None else self.view.fresh(f"{before.name}.heads")
        new = last.name if last is not None else self.view.fresh_node(f"{name}.heads")
        self.nodes.append(Node(new, "Reshape", (before.name, shape), (y,)))
        self.values[y] = replace(after, name=y)
        return y

    def edit(self, node: Node, reason: str) -> Edit:
        return Edit((node,), tuple(self.nodes), self.values, self.constants, reason=reason)


HEAD_ROWS = Rewrite(
    "head_rows",
    "takes heads out of the rows",
    _at,
    frozenset({"Reshape"}),
)
