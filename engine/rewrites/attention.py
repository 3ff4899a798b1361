"""Attention spelled out becomes one node, `colonnade.Attention`, on values of tokens.

    q, k, v   [N, S, heads * d] -> Reshape [N, S, heads, d] -> Transpose [N, heads, S, d]
    scores    q @ k^T, scaled before or after the product, or both; plus a bias a key
    y         softmax(scores) @ v -> Transpose -> Reshape [N, S, heads * d]

Where heads come from is found out by heads.py, which knows q, k and v split from one value, too.
The softmax is the root; the last Reshape is replaced, and what it read is left to dead_code. A
mask stands behind mask.py's Unsqueeze by now, as a bias [N, S], or is in its Near; see biases.py.
ONNX's own Attention (opset 23) takes [N, S, heads * d], or [N, heads, S, d] between the same
Reshapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from engine.graph import NATIVE, ROWS, TOKENS, Node, Shape, Value
from engine.rewrites.biases import NOTHING, Bias, bias_of, joined
from engine.rewrites.guards import HIDDEN, hides, is_finite, past_guard
from engine.rewrites.heads import Heads, heads_of, scaled
from engine.rewrites.mask import odd_attention
from engine.rewrites.rewrite import Array, Edit, Rewrite, View


@dataclass(frozen=True, slots=True)
class _Scores:
    """What a softmax is taken of."""

    q: Heads
    k: Heads
    scale: float
    bias: Bias


@dataclass(frozen=True, slots=True)
class _Triple:
    """All that attention is made of."""

    q: Heads
    k: Heads
    v: Heads
    scale: float
    bias: Bias
    guarded: bool = False
    """Whether a query that sees no key gets nothing: see guards.py."""


def _at(node: Node, view: View) -> Edit | str | None:
    if node.op == "Attention":
        return _standard(node, view)
    value = view.value(node.inputs[0])
    if value is None or value.shape is None or value.shape[2:] != (TOKENS, TOKENS):
        return None
    axis = node.attributes.get("axis", 1 if view.graph.opsets.get("", 1) < 13 else -1)
    if axis not in (-1, 3):
        return f"its shares are taken over axis {axis}, not over the keys"
    scores = _scores(node.inputs[0], view)
    if isinstance(scores, str):
        return scores
    shares = past_guard(node, view)
    result = _mixed(shares, view)
    if isinstance(result, str):
        return result
    v, product = result
    heads = _Triple(scores.q, scores.k, v, scores.scale, scores.bias, shares is not node)
    return _edit(product, heads, view)


def _edit(product: Node, found: _Triple, view: View) -> Edit | str:
    """One node in place of the Reshape that puts the heads of the product together."""
    last = _joined(product, view)
    if isinstance(last, str):
        return last
    three = (found.q, found.k, found.v)
    heads = {(h.heads * h.shared, h.depth) for h in three}
    shared = (found.q.shared, found.v.shared) == (1, found.k.shared)
    apart = {h.apart for h in three}
    if len(heads) != 1 or len(apart) != 1 or found.v.scale != 1 or not shared:
        return "its queries, keys and values are not of the same heads"
    parts = _Parts(last, view)
    inputs, bias = [parts.of(h) for h in three], found.bias
    if found.guarded:
        hiding = parts.guarded(inputs[2], bias)
        if isinstance(hiding, str):
            return hiding
        inputs[2], bias = hiding
    bias = parts.summed(bias, found.q.heads)
    done = view.value(last.outputs[0])
    if done is None or done.shape != (ROWS, TOKENS, found.q.heads * found.q.depth):
        return f"{done or last.outputs[0]} does not put its heads together"
    new = _node(last, inputs, found.q.heads, found.k.heads, found.scale, bias)
    if found.q.apart != found.q.depth:
        new = replace(new, attributes={**new.attributes, "apart": found.q.apart})
    reason = f"{found.q.heads} heads of {inputs[0]}"
    return parts.edit(new, reason)


def _node(
    last: Node, three: Sequence[str], heads: int, kv_heads: int, scale: float, bias: Bias
) -> Node:
    """The node in place of the last one of the pattern."""
    attributes = {"heads": heads, "scale": scale, **bias.bounds}
    if kv_heads != heads:
        attributes["kv_heads"] = kv_heads
    inputs = (*three, *bias.inputs)
    return Node(last.name, "Attention", inputs, (last.outputs[0],), NATIVE, attributes)


class _Parts:
    """Queries, keys and values as values of their own, and one bias a key."""

    def __init__(self, last: Node, view: View) -> None:
        self.last, self.view = last, view
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {}
        self.constants: dict[str, Array] = {}

    def of(self, heads: Heads) -> str:
        """The value that holds these heads and no others: a part is made where there is none."""
        value = self.view.value(heads.source)
        assert value is not None
        if value.features == heads.features:
            return heads.source
        name = self.view.fresh(f"{heads.source}.{heads.start}")
        node = self.view.fresh_node(f"{self.last.name}.{heads.start}")
        attributes = {"start": heads.start, "count": heads.features}
        self.nodes.append(Node(node, "Part", (heads.source,), (name,), NATIVE, attributes))
        self.values[name] = Value(name, value.dtype, (ROWS, TOKENS, heads.features))
        return name

    def edit(self, new: Node, reason: str) -> Edit:
        nodes = (*self.nodes, new)
        return Edit((self.last,), nodes, self.values, self.constants, reason=reason)

    def guarded(self, v: str, bias: Bias) -> tuple[str, Bias] | str:
        """The values without those of hidden keys, and a bias that is finite: see guards.py."""
        keys = []
        for key in bias.keys:
            select = hides(key, self.view)
            if select is None and not is_finite(key, self.view):
                return f"its shares are guarded, and {key} may hide keys by minus infinity"
            if select is not None:
                lows = {n: select.attributes[n] for n in ("zero", "other")}
                seen = {n: float(low > -np.inf) for n, low in lows.items()}
                finite = {n: max(low, HIDDEN) for n, low in lows.items()}
                v = self._masked(v, self._selected(select, seen))
                key = self._selected(select, finite)
            keys.append(key)
        return v, replace(bias, keys=tuple(keys))

    def _selected(self, like: Node, numbers: dict[str, float]) -> str:
        """Another Select of what `like` reads."""
        return self._add("Select", like.inputs, "select", (ROWS, TOKENS), numbers, NATIVE)

    def _masked(self, v: str, seen: str) -> str:
        value = self.values.get(v) or self.view.value(v)
        assert value is not None and value.shape is not None
        return self._add("Mul", (v, self._unsqueezed(seen)), "seen", value.shape)

    def summed(self, bias: Bias, heads: int) -> Bias:
        """The same with one bias of keys at most."""
        if len(bias.keys) < 2:
            return bias
        made = (self.values.get(name) or self.view.value(name) for name in bias.keys)
        values = [v for v in made if v is not None]
        each = max(v.features or 0 for v in values)
        one, *rest = (self._repeated(v, each) for v in values)
        shape = (ROWS, TOKENS, heads) if each > 1 else (ROWS, TOKENS)
        for other in rest:
            one = self._add("Add", (one, other), "sum", shape)
        return replace(bias, keys=(one,))

    def _repeated(self, value: Value, count: int) -> str:
        """[N, S] becomes [N, S, count], where there is more than one."""
        if value.features == count:
            return value.name
        one = self._unsqueezed(value.name)
        return self._add("Repeat", (one,), "each", (ROWS, TOKENS, count), {"count": count}, NATIVE)

    def _unsqueezed(self, name: str) -> str:
        """[N, S] becomes [N, S, 1]."""
        axis = self.view.fresh(f"{name}.axis")
        self.constants[axis] = np.array([2], np.int64)
        old = self.view.graph.opsets.get("", 1) < 13
        inputs, attributes = ((name,), {"axes": [2]}) if old else ((name, axis), {})
        return self._add("Unsqueeze", inputs, "wide", (ROWS, TOKENS, 1), attributes)

    def _add(
        self, op: str, inputs: tuple[str, ...], what: str, shape: Shape,
        attributes: Mapping[str, Any] = MappingProxyType({}), domain: str = "",
    ) -> str:  # fmt: skip
        name = self.view.fresh(f"{self.last.outputs[0]}.{what}")
        node = self.view.fresh_node(f"{self.last.name}.{what}")
        self.nodes.append(Node(node, op, inputs, (name,), domain, dict(attributes)))
        self.values[name] = Value(name, np.dtype(np.float32), shape)
        return name


def _scores(name: str, view: View) -> _Scores | str:
    """Up from the softmax: the bias first, then what scales the product."""
    scale, bias = 1.0, NOTHING
    while True:
        node = view.producer(name)
        if node is None:
            return f"its scores {name} are not computed"
        if node.label == "MatMul":
            break
        step = scaled(node, view)
        if step is not None:
            name, scale = step[0], scale * step[1]
        elif node.label == "Add":
            found = _with_bias(node, view)
            both = None if found is None else joined(bias, found[1])
            if found is None or both is None:
                return "it adds something to its scores that is not known to be a mask of keys"
            name, bias = found[0], both
            if scale != 1:
                return "its mask is scaled, too"
        else:
            return f"{node.name} ({node.label}) stands between the product and the softmax"
    q, k = (heads_of(n, view) for n in node.inputs)
    if q is None or k is None or q.transposed or not k.transposed:
        return "its queries and keys are not values of tokens split into heads"
    return _Scores(q, k, scale * q.scale * k.scale, bias)


def _with_bias(node: Node, view: View) -> tuple[str, Bias] | None:
    for scores, mask in (node.inputs, node.inputs[::-1]):
        bias = bias_of(mask, view)
        if bias is not None:
            return scores, bias
    return None


def _mixed(softmax: Node, view: View) -> tuple[Heads, Node] | str:
    """Down from the softmax: the values, and the product with them."""
    product = _reader(softmax, view)
    if isinstance(product, str):
        return product
    v = heads_of(product.inputs[1], view) if product.label == "MatMul" else None
    if v is None or v.transposed:
        return f"{product.name} ({product.label}) does not take values of tokens split into heads"
    return v, product


def _joined(product: Node, view: View) -> Node | str:
    """The Reshape behind [N, heads, S, d] that puts the heads together."""
    transpose = _reader(product, view)
    if isinstance(transpose, str):
        return transpose
    if transpose.label != "Transpose" or transpose.attributes.get("perm") != [0, 2, 1, 3]:
        return f"{transpose.name} ({transpose.label}) does not put the heads together"
    last = _reader(transpose, view)
    if isinstance(last, str):
        return last
    return last if last.label == "Reshape" else f"{last.name} ({last.label}) is no Reshape"


def _reader(node: Node, view: View) -> Node | str:
    """The one node that needs the result; what only asks for its shape does not count."""
    name = node.outputs[0]
    readers = [n for n in view.readers(name) if n.label != "Shape"]
    if len(readers) != 1 or view.is_output(name):
        return f"{name} is read by {len(readers)} nodes, or an output"
    return readers[0]


def _standard(node: Node, view: View) -> Edit | str | None:
    """ONNX's Attention, with a mask of keys or none: of [N, S, heads * d], or [N, heads, S, d]."""
    inputs = [*node.inputs, *[""] * (6 - len(node.inputs))]
    odd = odd_attention(node)
    if odd:
        return odd
    bias = bias_of(inputs[3], view) if inputs[3] else NOTHING
    if bias is not None and node.attributes.get("is_causal"):
        bias = joined(bias, Bias(ahead=0))
    if bias is None:
        return f"{inputs[3]} is not known to be a mask of keys"
    value = view.value(inputs[0])
    if value is None or value.shape is None or len(value.shape) not in (3, 4):
        return f"{value or inputs[0]} are not values of tokens"
    scale = float(node.attributes.get("scale") or 0.0)
    if len(value.shape) == 4:
        three = [heads_of(n, view) for n in inputs[:3]]
        found = [h for h in three if h is not None and not h.transposed]
        if len(found) < 3:
            return "its queries, keys and values are not values of tokens split into heads"
        q, k, v = (replace(h, shared=max(1, found[0].heads // h.heads)) for h in found)
        scale = (scale or q.depth**-0.5) * q.scale * k.scale
        return _edit(node, _Triple(q, k, v, scale, bias), view)
    return _side_by_side(node, value, inputs, bias, scale, view)


def _side_by_side(
    node: Node, q: Value, inputs: list[str], bias: Bias, scale: float, view: View
) -> Edit | str:
    """[N, S, heads * d] is how our own has it."""
    heads = int(node.attributes.get("q_num_heads", 0))
    kv_heads = int(node.attributes.get("kv_num_heads", heads))
    if not heads or not kv_heads or heads % kv_heads:
        return f"its {heads} heads do not share {kv_heads}"
    if not q.has_tokens or not q.features:
        return f"{q} are not values of tokens"
    theirs = (*q.shape[:2], q.features // heads * kv_heads) if q.shape else ()
    wanted = ((inputs[1], theirs), (inputs[2], theirs), (node.outputs[0], q.shape))
    for name, shape in wanted:
        value = view.value(name)
        if value is None or value.shape != shape:
            return f"{value or name} is not shaped as its queries are"
    scale = scale or (q.features / heads) ** -0.5
    parts = _Parts(node, view)
    bias = parts.summed(bias, heads)
    new = _node(node, inputs[:3], heads, kv_heads, scale, bias)
    return parts.edit(new, f"{heads} heads of {inputs[0]}")


ATTENTION = Rewrite(
    "attention",
    "recognizes attention spelled out in several nodes",
    _at,
    frozenset({"Softmax", "Attention"}),
)
