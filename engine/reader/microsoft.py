"""Operators of onnxruntime's own are spelled out in ONNX's, which kernels are looked for.

`onnxruntime.transformers.optimizer` and the models that onnxruntime saves when it has optimised
them have them, most in the domain com.microsoft, some in ONNX's; what is not known here, or used
in a way that is not, stays as it is and is refused later on by name. The rewrites put together
again what is spelled out here.

EmbedLayerNormalization gives Attention no mask but the sum of each row's, as of sequences that are
padded behind. What it is the sum of is taken instead: the same for these, and for others what the
model meant before it was optimised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from engine.reader.microsoft_attention import attention, multi_head_attention
from engine.reader.nodes import domain_of
from engine.reader.quantised import QUANTISED
from engine.reader.spelling import MICROSOFT, Call, Rule, Spelling

Array = np.ndarray[Any, np.dtype[Any]]
_EPSILON = 1e-12


@dataclass(slots=True)
class Spelled:
    """A graph's nodes, and the constants that came with them."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)


def spell_out(
    graph: onnx.GraphProto, constants: Mapping[str, Array], opsets: Mapping[str, int]
) -> Spelled:
    """The nodes of the graph, those of onnxruntime's own in other words."""
    found = Spelled(list(graph.node))
    if not any((domain_of(n.domain), n.op_type) in _RULES for n in graph.node):
        return found
    found.nodes = []
    ranks, used, sources = _ranks(graph, constants), frozenset(_used(graph)), _sources(graph)
    for node in graph.node:
        prefix = "".join(node.output[:1])
        made = Spelling(opsets.get("", 1), constants, ranks, used, sources, prefix)
        if _understood(node, made):
            found.nodes += made.nodes
            found.constants |= made.constants
        else:
            found.nodes.append(node)
    return found


def _understood(node: onnx.NodeProto, spelling: Spelling) -> bool:
    rule = _RULES.get((domain_of(node.domain), node.op_type))
    if rule is None:
        return False
    spell, needed = rule
    try:
        call = Call(node)
        return call.has(needed) and spell(call, spelling)
    except ValueError:  # an attribute is not of the type that it should have
        return False


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    """Subgraphs that read a value are not looked into: where there are any, all count as read."""
    yield from (v.name for v in graph.output)
    for node in graph.node:
        yield from node.input
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            yield from (o for n in graph.node for o in n.output)


def _ranks(graph: onnx.GraphProto, constants: Mapping[str, Array]) -> dict[str, int]:
    ranks = {name: array.ndim for name, array in constants.items()}
    for value in (*graph.value_info, *graph.input):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            ranks[value.name] = len(kind.shape.dim)
    for node in graph.node:
        if _is_int32(node) and node.input[0] in ranks:
            ranks[node.output[0]] = ranks[node.input[0]]
    return ranks


def _sources(graph: onnx.GraphProto) -> dict[str, str]:
    """Values that stand for others: int32 for whole numbers that are fed, and the sums of masks."""
    whole = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    fed = {v.name for v in graph.input if v.type.tensor_type.elem_type in whole}
    found: dict[str, str] = {}
    for node in graph.node:
        if _is_int32(node) and node.input[0] in fed:
            found[node.output[0]] = node.input[0]
        elif node.op_type == "EmbedLayerNormalization" and len(node.input) > 7:
            found |= dict.fromkeys(node.output[1:2], node.input[7])
    return found


def _is_int32(node: onnx.NodeProto) -> bool:
    to = any(a.name == "to" and a.i == onnx.TensorProto.INT32 for a in node.attribute)
    return node.op_type == "Cast" and to and len(node.input) == len(node.output) == 1


# ---- norms ------------------------------------------------------------------------------------


def _normalised(
    s: Spelling, x: str, scale: str, bias: str, epsilon: float, output: str, centred: bool = True
) -> bool:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias; of RMSNorm, which is not centred, the
    mean is taken as zero."""
    if centred and s.opset >= 17:
        inputs = (x, scale, bias) if bias else (x, scale)
        s.op("LayerNormalization", *inputs, output=output, axis=-1, epsilon=epsilon)
        return True
    width = s.vector(scale)
    if width is None:
        return False
    d = s.op("Sub", x, s.last_mean(x)) if centred else x
    variance = s.last_mean(s.op("Mul", d, d))
    root = s.op("Sqrt", s.op("Add", variance, s.number(epsilon)))
    quotient = s.op("Div", d, root)
    if centred and not bias:
        bias = s.constant(np.zeros_like(width))
    scaled = s.op("Mul", quotient, scale, output="" if bias else output)
    if bias:
        s.op("Add", scaled, bias, output=output)
    return True


def _norm(call: Call, s: Spelling) -> bool:
    """ONNX has it from operator set 17 on, onnxruntime in any."""
    return _own_norm(call, s, True) if s.opset < 17 else False


def _simplified_norm(call: Call, s: Spelling) -> bool:
    return _own_norm(call, s, False)


def _own_norm(call: Call, s: Spelling, centred: bool) -> bool:
    if call.integer("axis", -1) != -1 or call.wants(s, 1, 2):
        return False
    epsilon = call.number("epsilon", 1e-5)
    x, scale, bias = (call.input(i) for i in range(3))
    return _normalised(s, x, scale, bias, epsilon, call.output(0), centred)


def _skip_norm(call: Call, s: Spelling) -> bool:
    """The norm of x + skip + bias; the sum is an output, too."""
    if call.wants(s, 1, 2):
        return False
    x = s.total(call.input(0), call.input(4), call.input(1), output=call.output(3))
    epsilon = call.number("epsilon", _EPSILON)
    return _normalised(s, x, call.input(2), call.input(3), epsilon, call.output(0))


def _skip_simplified_norm(call: Call, s: Spelling) -> bool:
    if call.wants(s, 1, 2):
        return False
    x = s.total(call.input(0), call.input(3), call.input(1), output=call.output(3))
    epsilon = call.number("epsilon", _EPSILON)
    return _normalised(s, x, call.input(2), "", epsilon, call.output(0), centred=False)


def _embed_norm(call: Call, s: Spelling) -> bool:
    """The norm of words + positions + token types, and the sum of the mask."""
    mask = call.input(7)
    if call.wants(s, 1) and not mask:
        return False
    if mask and call.output(1):
        s.sum_of_tokens(mask, call.output(1))
    ids, types, words, places, kinds, scale, bias = (call.input(i) for i in range(7))
    ids, types = (s.sources.get(n, n) for n in (ids, types))
    if call.input(8):
        positions = s.op("Gather", places, call.input(8))
    else:
        zero, end = (s.constant(np.array([n], np.int64)) for n in (0, 1))
        length = s.unsqueeze(s.length(ids), 0)
        positions = s.unsqueeze(s.op("Slice", places, zero, length, zero, end), 0)
    both = s.op("Add", s.op("Gather", words, ids), positions)
    kind = s.op("Gather", kinds, types) if types and kinds else ""
    x = s.total(both, kind, output=call.output(2)) if kind else both
    epsilon = call.number("epsilon", _EPSILON)
    return _normalised(s, x, scale, bias, epsilon, call.output(0))


# ---- activations and products -----------------------------------------------------------------


def _gelu(call: Call, s: Spelling) -> bool:
    """0.5 x (1 + erf(x / sqrt 2)), of x plus a bias where there is one."""
    x = s.total(call.input(0), call.input(1))
    inner = s.op("Erf", s.op("Mul", x, s.number(math.sqrt(0.5))))
    half = s.op("Mul", x, s.number(0.5))
    s.op("Mul", half, s.op("Add", inner, s.number(1)), output=call.output(0))
    return True


def _fast_gelu(call: Call, s: Spelling) -> bool:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), of x plus a bias where there is one."""
    x = s.total(call.input(0), call.input(1))
    cube = s.op("Mul", s.op("Mul", s.op("Mul", x, x), x), s.number(0.044715))
    scaled = s.op("Mul", s.op("Add", x, cube), s.number(math.sqrt(2 / math.pi)))
    half = s.op("Mul", x, s.number(0.5))
    inner = s.op("Add", s.op("Tanh", scaled), s.number(1))
    s.op("Mul", half, inner, output=call.output(0))
    return True


def _quick_gelu(call: Call, s: Spelling) -> bool:
    """x sigmoid(alpha x)"""
    x, alpha = call.input(0), call.number("alpha", 1.702)
    scaled = x if alpha == 1 else s.op("Mul", x, s.number(alpha))
    s.op("Mul", x, s.op("Sigmoid", scaled), output=call.output(0))
    return True


def _matmul(call: Call, s: Spelling) -> bool:
    """alpha A B, of either with its last two axes swapped."""
    if call.integer("transBatchA") or call.integer("transBatchB"):
        return False
    factors = []
    for place, name in enumerate(("transA", "transB")):
        factor = call.input(place)
        if call.integer(name):
            rank = s.ranks.get(factor)
            if rank is None or rank < 2:
                return False
            factor = s.op("Transpose", factor, perm=[*range(rank - 2), rank - 1, rank - 2])
        factors.append(factor)
    alpha, y = call.number("alpha", 1.0), call.output(0)
    product = s.op("MatMul", *factors, output=y if alpha == 1 else "")
    if alpha != 1:
        s.op("Mul", product, s.number(alpha), output=y)
    return True


_RULES: dict[tuple[str, str], tuple[Rule, int]] = {
    **QUANTISED,
    ("", "LayerNormalization"): (_norm, 2),
    ("", "SimplifiedLayerNormalization"): (_simplified_norm, 2),
    (MICROSOFT, "Attention"): (attention, 2),
    (MICROSOFT, "BiasGelu"): (_gelu, 2),
    (MICROSOFT, "EmbedLayerNormalization"): (_embed_norm, 1),
    (MICROSOFT, "FastGelu"): (_fast_gelu, 1),
    (MICROSOFT, "FusedMatMul"): (_matmul, 2),
    (MICROSOFT, "Gelu"): (_gelu, 1),
    (MICROSOFT, "MultiHeadAttention"): (multi_head_attention, 3),
    (MICROSOFT, "QuickGelu"): (_quick_gelu, 1),
    (MICROSOFT, "SkipLayerNormalization"): (_skip_norm, 3),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): (_skip_simplified_norm, 3),
}
"""By domain and operator: whether the node could be spelled out, and how many inputs it needs."""
