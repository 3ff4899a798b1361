"""What the operators that stand for a transformer's parts mean, in numpy.

LayerNorm   (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis;
            without `centred` RMSNorm, whose mean is taken as zero
Attention   softmax(scale * Q K^T + bias[key]) V, for each head: q, k, v [N, S, heads * d]
Positional  table[:S] in the shape of x [N, S, K]: what is added for a token's place
Repeat      x[..., 1] -> y[..., count]
Part        `count` of the last axis, from `start` on
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.graph import Node

Array = np.ndarray[Any, np.dtype[Any]]


def layer_norm(node: Node, x: Array, scale: Array, bias: Array) -> Array:
    mean = x.mean(-1, keepdims=True) if node.attributes["centred"] else np.float32(0)
    variance = np.square(x - mean).mean(-1, keepdims=True)
    epsilon = np.float32(node.attributes["epsilon"])
    return np.asarray((x - mean) / np.sqrt(variance + epsilon) * scale + bias)


def attention(node: Node, q: Array, k: Array, v: Array, bias: Array | None = None) -> Array:
    heads, scale = node.attributes["heads"], np.float32(node.attributes["scale"])
    rows, tokens, features = q.shape
    # one product a row and head, so that a row gets the same bytes in any batch
    y = np.empty((rows, tokens, features), np.float32)
    for row, head in np.ndindex(rows, heads):
        part = slice(head * features // heads, (head + 1) * features // heads)
        scores = scale * (q[row, :, part] @ k[row, :, part].T)
        if bias is not None:
            scores = scores + bias[row]
        e = np.exp(scores - scores.max(-1, keepdims=True))
        y[row, :, part] = e / e.sum(-1, keepdims=True) @ v[row, :, part]
    return y


def positional(node: Node, x: Array, table: Array) -> Array:
    return np.broadcast_to(table[: x.shape[1]], x.shape).copy()


def repeat(node: Node, x: Array) -> Array:
    return np.repeat(x, node.attributes["count"], axis=-1)


def part(node: Node, x: Array) -> Array:
    start = node.attributes["start"]
    return x[..., start : start + node.attributes["count"]].copy()


TRANSFORMER: dict[str, Callable[..., Array]] = {
    "Attention": attention,
    "LayerNorm": layer_norm,
    "Part": part,
    "Positional": positional,
    "Repeat": repeat,
}
