"""Whatever exporters add to scores becomes a bias a key, or a node that says who sees whom.

A mask [N, S] of ones and zeros is turned into something that is added to the scores, by casts,
subtractions, products, Where and Expand, in as many spellings as there are exporters: [N, 1, 1, S]
or [N, 1, S, S], -10000, the least float or minus infinity, of int64, bool or float. Or the scores
themselves are filled, by Where. Mostly it says one thing: a number for keys that count, and another
for keys that do not. So the part of the graph between the mask and the scores is not matched but
run, see key_rules.py; where its result depends on the mask of the key alone, it becomes

    bias[N, S] = Select(Cast(mask) - at)   or   (Cast(mask) - at) * slope

behind an Unsqueeze to [N, 1, 1, S], which broadcasts as before. Where it depends on the distance of
query and key, too (near_rules.py: causal masks, windows, relative positions), it becomes
`colonnade.Near` of that bias, which attention.py takes in; so does a slope a head times the place
of the key (place_rules.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.graph import NATIVE, ROWS, TOKENS, Node, Value
from engine.rewrites.key_rules import Rule, rule_of
from engine.rewrites.near_rules import POSITIONS, NearRule, near_rule_of
from engine.rewrites.place_rules import CountRule, place_rule_of
from engine.rewrites.rewrite import Array, Edit, Rewrite, View
from engine.rewrites.trial import OF_PLACES, behind

LEAST_FILL = -1e9
"""Scores are filled with no more than this. For fewer, a row without any key would not be what it
was: there, fill + score is rounded to the fill, whose neighbours are 64 away."""

_KNOWN = OF_PLACES | {"CumSum"}
"""What is tried."""
AnyRule = Rule | NearRule | CountRule

_ARITHMETIC = frozenset({"Add", "Cast", "Div", "Mul", "Relu", "Sub", "colonnade.Select"})
"""What a bias [N, S] may be made by, and stay: kernels know it."""


def key_bias(name: str, view: View) -> str | None:
    """The bias [N, S] that the value [N, 1, 1, S] is, by this rewrite or from the start."""
    node, value = view.producer(name), view.value(name)
    if node is None or node.label not in ("Unsqueeze", "Reshape"):
        return None
    bias = view.value(node.inputs[0])
    if value is None or value.shape != (ROWS, 1, 1, TOKENS) or bias is None:
        return None
    return bias.name if bias.shape == (ROWS, TOKENS) and bias.dtype == np.float32 else None


def _is_made(name: str, view: View) -> bool:
    """Whether it is a bias already, of arithmetic that there are kernels for."""
    bias = key_bias(name, view)
    maker = view.producer(bias) if bias is not None else None
    return bias is not None and (maker is None or maker.label in _ARITHMETIC)


def _at(node: Node, view: View) -> Edit | str | None:
    if node.op == "Where" and _fills_scores(node, view):
        return _filled(node, view)
    name = node.outputs[0]
    if _is_made(name, view) or not _is_mask(name, view):
        return None
    rule = _known(name, view)
    return rule if isinstance(rule, str) else _edit(node, rule, view)


def _is_mask(name: str, view: View) -> bool:
    """Whether it is added to scores [N, heads, S, S], and shaped as a mask of keys."""
    value, readers = view.value(name), view.readers(name)
    if value is None or not _fits_scores(value) or view.is_output(name):
        return False
    return bool(readers) and all(_adds(n, name, view) for n in readers)


def _fits_scores(value: Value) -> bool:
    """Whether it is [N, heads or 1, S or 1, S], its middle perhaps not known, or less in front."""
    shape = value.shape or ()
    if len(shape) == 4 and shape[0] == ROWS:
        return shape[3] == TOKENS
    front = (1,) * (4 - len(shape)) + shape[:-2]
    return len(front) == 2 and front[0] == 1 and shape[-2:] in ((TOKENS, TOKENS), (1, TOKENS))


def _adds(reader: Node, name: str, view: View) -> bool:
    """Whether the node adds the value to scores: only there may its shape change."""
    if reader.label == "Attention":
        return len(reader.inputs) > 3 and reader.inputs[3] == name and not odd_attention(reader)
    return reader.label == "Add" and _is_scores(reader.outputs[0], view)


def odd_attention(node: Node) -> str | None:
    """What an ONNX Attention does beside the plain thing."""
    odd = [k for k in ("softcap", "qk_matmul_output_mode") if node.attributes.get(k)]
    if odd or any(node.inputs[4:]):
        return f"it has {odd or 'a past'}"
    return "it has more than one result" if any(node.outputs[1:]) else None


def _is_scores(name: str, view: View) -> bool:
    value = view.value(name)
    shape = value.shape if value is not None and value.shape is not None else ()
    return len(shape) == 4 and shape[2:] == (TOKENS, TOKENS)


def _known(name: str, view: View, inverted: bool = False) -> AnyRule | str:
    """What the value says by keys alone, or by distances too; of an `inverted` one the opposite."""
    part = behind(name, view, _KNOWN)
    if isinstance(part, str):
        return part
    value = view.value(name)
    by_keys = value is not None and value.shape is not None and value.shape[0] == ROWS
    rule = rule_of(name, part, view) if by_keys else "it is no mask of keys"
    if not isinstance(rule, str):
        return rule
    near = near_rule_of(name, part, view, inverted)
    placed = place_rule_of(name, part, view) if isinstance(near, str) else near
    return near if isinstance(placed, str) else placed


# ---- Where: scores are filled -----------------------------------------------------------------


def _fills_scores(node: Node, view: View) -> bool:
    """Whether it takes scores where a mask says so, and one number elsewhere."""
    if len(node.inputs) != 3 or not _is_scores(node.outputs[0], view):
        return False
    fills = [_uniform(n, view) is not None for n in node.inputs[1:]]
    scores = node.inputs[2 if fills[0] else 1]
    # a mask may be filled, too, before it is added
    return fills.count(True) == 1 and isinstance(behind(scores, view, OF_PLACES), str)


def _uniform(name: str, view: View) -> float | None:
    array = view.constant(name)
    if array is None or not array.size or array.dtype != np.float32:
        return None
    return float(array.flat[0]) if bool((array == array.flat[0]).all()) else None


def _filled(node: Node, view: View) -> Edit | str | None:
    """Where(mask, scores, fill) is scores + (0 or fill): what is filled has no share left."""
    condition, *branches = node.inputs
    first = _uniform(branches[0], view) is not None
    fill, scores = _uniform(branches[0 if first else 1], view), branches[1 if first else 0]
    value = view.value(condition)
    if value is None or not _fits_scores(value):
        return f"{value or condition} is no mask of keys"
    if fill is None or not fill <= LEAST_FILL:
        return f"it fills scores with {fill}, not with {LEAST_FILL:g} or less"
    rule = _known(condition, view, inverted=first)
    if isinstance(rule, str | CountRule):
        return rule if isinstance(rule, str) else f"{condition} is no mask of keys"
    filled = _with_fill(rule, fill, first)
    steps = _Steps(view, view.fresh(f"{node.name}.mask"), view.fresh_node(f"{node.name}.mask"))
    steps.write(filled)
    steps.nodes.append(Node(node.name, "Add", (scores, steps.name), node.outputs))
    return steps.edit(node, str(filled))


def _with_fill(rule: Rule | NearRule, fill: float, first: bool) -> Rule | NearRule:
    """The rule of a condition, as numbers that are added. A mask of bool is known as 0 where it is
    true, and -inf where not; the other way round where that of distances was inverted."""
    if isinstance(rule, NearRule):
        bias = rule.rule and _with_fill(rule.rule, fill, first=False)
        assert not isinstance(bias, NearRule)
        return replace(rule, rule=bias, unseen=fill)
    fills = {0.0: fill if first else 0.0, -np.inf: 0.0 if first else fill}
    return replace(rule, low=fills[rule.low], other=fills[rule.other])


# ---- the bias ---------------------------------------------------------------------------------


def _edit(node: Node, rule: AnyRule, view: View) -> Edit:
    steps = _Steps(view, node.outputs[0], node.name)
    steps.write(rule)
    return steps.edit(node, str(rule))


@dataclass(slots=True)
class _Steps:
    """Writes the nodes from a mask to the value `name`, [N, 1, 1, S]."""

    view: View
    name: str
    node: str
    """Name of the last node."""
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    def write(self, rule: AnyRule) -> None:
        """The nodes, the last of which gives the value `name`."""
        if isinstance(rule, NearRule):
            self._near(rule)
            return
        if isinstance(rule, CountRule):
            self._added(self._counted(rule), "", len(rule.slopes), (-1, -1, 0.0))
            return
        axes = self._constant("axes", np.array([1, 2], np.int64))
        y, old = self._bias(rule), self.view.graph.opsets.get("", 1) < 13
        inputs, attributes = ((y,), {"axes": [1, 2]}) if old else ((y, axes), {})
        self.nodes.append(Node(self.node, "Unsqueeze", inputs, (self.name,), "", attributes))
        self.values[self.name] = Value(self.name, np.dtype(np.float32), (ROWS, 1, 1, TOKENS))

    def _near(self, rule: NearRule) -> None:
        """The mask's numbers, and what distances add to them or hide."""
        bias, table = self._bias(rule.rule) if rule.rule else "", ""
        if rule.table is not None:
            table = self._constant("distances", rule.table)
        heads = 1 if rule.table is None else len(rule.table)
        self._added(bias, table, heads, (rule.back, rule.ahead, rule.unseen))

    def _added(self, bias: str, table: str, heads: int, bounds: tuple[int, int, float]) -> None:
        """What attention adds to its scores."""
        shape = bias or next(v.name for v in self.view.graph.inputs if v.has_tokens)
        inputs = (shape, bias, table)
        named = dict(zip(("back", "ahead", "unseen"), bounds, strict=True))
        self.nodes.append(Node(self.node, "Near", inputs, (self.name,), NATIVE, named))
        shape_of = (ROWS, heads, TOKENS, TOKENS)
        self.values[self.name] = Value(self.name, np.dtype(np.float32), shape_of)

    def _counted(self, rule: CountRule) -> str:
        """[N, S, heads]: what the tokens of the mask count, times a slope a head."""
        table = self._constant("counts", np.arange(POSITIONS + 1, dtype=np.float32)[:, None])
        axes = self._constant("axes", np.array([2], np.int64))
        counted = {"padding": None, "first": 0}
        y = self._made("Counted", (rule.mask, table), (1,), counted, NATIVE)
        if rule.minus:
            real = self._step("Cast", rule.mask, to=1)
            real = self._step("Mul", real, rule.minus) if rule.minus != 1 else real
            y = self._made("Sub", (y, self._made("Unsqueeze", (real, axes), (1,))), (1,))
        heads = len(rule.slopes)
        y = self._made("Repeat", (y,), (heads,), {"count": heads}, NATIVE)
        return self._made("Mul", (y, self._constant("slopes", rule.slopes)), (heads,))

    def _bias(self, rule: Rule) -> str:
        """The mask's float numbers, and what the rule makes of them: [N, S]."""
        y = self._step("Cast", rule.mask, to=1)
        y = self._step("Sub", y, rule.at) if rule.at else y
        if rule.kind == "linear":
            return self._step("Mul", y, rule.low)
        y = self._step("Relu", y) if rule.kind == "above" else y
        return self._step("Select", y, zero=rule.low, other=rule.other)

    def _step(self, op: str, x: str, number: float | None = None, **attributes: float) -> str:
        """One node on [N, S], with a number as its second input."""
        inputs: tuple[str, ...] = (x,)
        if number is not None:
            inputs = (x, self._constant(f"{op.lower()}.by", np.array(number, np.float32)))
        return self._made(op, inputs, (), attributes, NATIVE if op == "Select" else "")

    def _made(
        self, op: str, inputs: tuple[str, ...], features: tuple[int, ...],
        attributes: Mapping[str, Any] | None = None, domain: str = "",
    ) -> str:  # fmt: skip
        """One node, which gives [N, S, *features]."""
        y = self.view.fresh(f"{self.name}.{op.lower()}")
        node = self.view.fresh_node(f"{self.node}.{op.lower()}")
        self.nodes.append(Node(node, op, inputs, (y,), domain, dict(attributes or {})))
        self.values[y] = Value(y, np.dtype(np.float32), (ROWS, TOKENS, *features))
        return y

    def _constant(self, what: str, array: Array) -> str:
        name = self.view.fresh(f"{self.name}.{what}")
        self.constants[name] = array
        return name

    def edit(self, node: Node, reason: str) -> Edit:
        return Edit((node,), tuple(self.nodes), self.values, self.constants, reason=reason)


MASK = Rewrite("mask", "turns what is added to scores into a bias a key or a distance", _at)
