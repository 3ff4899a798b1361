"""com.microsoft's attention, spelled out: Attention, whose queries, keys and values are one product
of its input, and MultiHeadAttention, which is given all three.

Heads are split, scores scaled, masked and mixed as exporters write it, which is what
engine/rewrites/attention.py looks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from engine.reader.spelling import Call, Spelling


@dataclass(frozen=True, slots=True)
class _Heads:
    """Queries, keys and values [N, S, heads * d], and what becomes of them."""

    q: str
    k: str
    v: str
    heads: int
    mask: str
    """[N, S], of keys; empty where all are seen."""
    scale: float


def attention(call: Call, s: Spelling) -> bool:
    """Of x W + b, whose parts are queries, keys and values."""
    x, weights, bias, mask = (call.input(i) for i in range(4))
    w, heads = s.known.get(weights), call.integer("num_heads")
    if w is None or w.ndim != 2 or heads < 1 or call.inputs_but(0, 1, 2, 3) or call.wants(s, 1):
        return False
    mask = s.sources.get(mask, mask)
    sizes = call.integers("qkv_hidden_sizes") or [w.shape[1] // 3] * 3
    odd = len(sizes) != 3 or sizes[0] != sizes[1] or sum(sizes) != w.shape[1]
    if odd or call.integer("do_rotary") or any(n < 1 or n % heads for n in sizes):
        return False
    if mask and s.ranks.get(mask) != 2:
        return False
    q, k, v = s.split(s.total(s.op("MatMul", x, weights), bias), 2, sizes)
    scale = call.number("scale", 0) or (sizes[0] / heads) ** -0.5
    _mixed(call, s, _Heads(q, k, v, heads, mask, scale))
    return True


def multi_head_attention(call: Call, s: Spelling) -> bool:
    """Of queries, keys and values, each with its part of the bias."""
    q, k, v, bias, mask = (call.input(i) for i in range(5))
    b, heads = s.vector(bias), call.integer("num_heads")
    given = not call.inputs_but(0, 1, 2, 3, 4) and not call.wants(s, 1, 2, 3)
    if not given or heads < 1 or b is None or len(b) % (3 * heads):
        return False  # without a bias nothing says how wide heads are
    mask = s.sources.get(mask, mask)
    if mask and s.ranks.get(mask) != 2:
        return False
    parts = [s.constant(part) for part in np.split(b, 3)]
    q, k, v = (s.op("Add", x, part) for x, part in zip((q, k, v), parts, strict=True))
    scale = call.number("scale", 0) or (len(b) / 3 / heads) ** -0.5
    _mixed(call, s, _Heads(q, k, v, heads, mask, scale))
    return True


def _mixed(call: Call, s: Spelling, of: _Heads) -> None:
    """softmax(scale q k^T + mask) v, heads side by side again."""
    queries, keys = _split(s, of.q, of.heads), _split(s, of.k, of.heads, (0, 2, 3, 1))
    scores = s.op("Mul", s.op("MatMul", queries, keys), s.number(of.scale))
    if of.mask:
        filler = call.number("mask_filter_value", -10000.0)
        scores = s.op("Add", scores, _hidden(s, of.mask, filler))
    if call.integer("unidirectional"):
        scores = s.op("Add", scores, _causal(s, of.q))
    shares = s.op("Softmax", scores, axis=3)
    mixed = s.op("MatMul", shares, _split(s, of.v, of.heads))
    back = s.op("Transpose", mixed, perm=[0, 2, 1, 3])
    shape = s.constant(np.array([0, 0, -1], np.int64))
    s.op("Reshape", back, shape, output=call.output(0))


def _split(s: Spelling, x: str, heads: int, perm: Sequence[int] = (0, 2, 1, 3)) -> str:
    shape = s.constant(np.array([0, 0, heads, -1], np.int64))
    return s.op("Transpose", s.op("Reshape", x, shape), perm=list(perm))


def _hidden(s: Spelling, mask: str, filler: float) -> str:
    """[N, 1, 1, S]: what is added for keys that the mask hides."""
    seen = s.op("Cast", s.op("Cast", mask, to=onnx.TensorProto.BOOL), to=onnx.TensorProto.FLOAT)
    wide = s.unsqueeze(seen, 1, 2)
    return s.op("Mul", s.op("Sub", s.number(1), wide), s.number(filler))


def _causal(s: Spelling, x: str) -> str:
    """[S, S]: what is added for keys behind a query."""
    zero, one = (s.constant(np.array(n, np.int64)) for n in (0, 1))
    places = s.op("Range", zero, s.length(x), one)
    behind = s.op("Less", s.unsqueeze(places, 1), s.unsqueeze(places, 0))
    lowest = s.number(float(np.finfo(np.float32).min))
    return s.op("Where", behind, lowest, s.number(0))
