"""com.microsoft's Attention, spelled out: queries, keys and values of one product of the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from engine.reader.spelling import Call, Spelling


def attention(call: Call, s: Spelling) -> bool:
    """Queries, keys and values of one product, split into heads, with a mask of keys."""
    x, weights, bias, mask = (call.input(i) for i in range(4))
    w, heads = s.known.get(weights), call.integer("num_heads")
    if w is None or w.ndim != 2 or heads < 1 or call.inputs_but(0, 1, 2, 3) or call.wants(s, 1):
        return False
    mask = s.sources.get(mask, mask)
    sizes = call.integers("qkv_hidden_sizes") or [w.shape[1] // 3] * 3
    odd = len(sizes) != 3 or sizes[0] != sizes[1] or sum(sizes) != w.shape[1]
    if (
        odd
        or call.integer("do_rotary")
        or any(n < 1 or n % heads for n in sizes)
        or (mask and s.ranks.get(mask) != 2)
    ):
        return False
    q, k, v = s.split(s.total(s.op("MatMul", x, weights), bias), 2, sizes)
    queries, keys = _heads(s, q, heads, sizes[0]), _heads(s, k, heads, sizes[1], (0, 2, 3, 1))
    scale = call.number("scale", 0) or (sizes[0] / heads) ** -0.5
    scores = s.op("Mul", s.op("MatMul", queries, keys), s.number(scale))
    if mask:
        filler = call.number("mask_filter_value", -10000.0)
        scores = s.op("Add", scores, _hidden(s, mask, filler))
    if call.integer("unidirectional"):
        scores = s.op("Add", scores, _causal(s, x))
    shares = s.op("Softmax", scores, axis=3)
    mixed = s.op("MatMul", shares, _heads(s, v, heads, sizes[2]))
    back = s.op("Transpose", mixed, perm=[0, 2, 1, 3])
    shape = s.constant(np.array([0, 0, sizes[2]], np.int64))
    s.op("Reshape", back, shape, output=call.output(0))
    return True


def _heads(s: Spelling, x: str, heads: int, size: int, perm: Sequence[int] = (0, 2, 1, 3)) -> str:
    shape = s.constant(np.array([0, 0, heads, size // heads], np.int64))
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
