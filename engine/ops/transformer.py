"""What the operators that stand for a transformer's parts mean, in numpy.

LayerNorm   (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, or over each
            len(scale) of it;
            without `centred` RMSNorm, whose mean is taken as zero
Attention   softmax(scale * Q K^T + bias[key] + table[head, query - key]) V, for each head: q, k, v
            [N, S, heads * d]; k and v have `kv_heads` where queries share them. A query sees keys
            from `back` places before it to `ahead` after it, where these are given. A bias is
            [N, S], or [N, S, heads]. Where heads stand `apart` features from each other, more than
            d, q, k and v go from the first one's start to the last one's end
Near        [N, heads, S, S], what Attention adds to its scores: bias[key] + table[head, query -
            key], and `unseen` for keys that the query does not see; of its first input it needs
            the shape
Positional  table[:S] for each row of x [N, S, ...]: what is added for a token's place
Counted     rows of a table by how many tokens of ids [N, S] up to each are not `padding`, plus
            `first`, which is the place of padding itself; without padding the ids are a mask
Rotary      pairs of features of each head turned by turns [N, S, cosines and sines]: i with
            i + pairs, or, `interleaved`, 2 i with 2 i + 1; features beyond all pairs stay

A table [heads or 1, 2 P - 1] has distance 0 in the middle: it serves sequences of P tokens.

Repeat      x[..., 1] -> y[..., count]
Part        `count` of the last axis, from `start` on
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engine.graph import Node

Array = np.ndarray[Any, np.dtype[Any]]


def layer_norm(node: Node, x: Array, scale: Array, bias: Array) -> Array:
    shape, scale, bias = x.shape, scale.reshape(-1), bias.reshape(-1)
    x = x.reshape(*shape[:-1], -1, len(scale))
    mean = x.mean(-1, keepdims=True) if node.attributes["centred"] else np.float32(0)
    variance = np.square(x - mean).mean(-1, keepdims=True)
    epsilon = np.float32(node.attributes["epsilon"])
    return np.asarray((x - mean) / np.sqrt(variance + epsilon) * scale + bias).reshape(shape)


def attention(
    node: Node, q: Array, k: Array, v: Array, bias: Array | None = None, table: Array | None = None
) -> Array:
    heads, scale = node.attributes["heads"], np.float32(node.attributes["scale"])
    shared = heads // node.attributes.get("kv_heads", heads)
    rows, tokens, features = q.shape
    depth, apart = head_places(node.attributes, features)
    places = near_scores(node.attributes, tokens, table, -np.inf)
    # one product a row and head, so that a row gets the same bytes in any batch
    y = np.empty((rows, tokens, heads * depth), np.float32)
    for row, head in np.ndindex(rows, heads):
        own, theirs = (slice(h * apart, h * apart + depth) for h in (head, head // shared))
        scores = scale * (q[row, :, own] @ k[row, :, theirs].T)
        if bias is not None:
            scores = scores + (bias[row] if bias.ndim == 2 else bias[row, :, head])
        if places is not None:
            scores = scores + places[head % len(places)]
        e = np.exp(scores - scores.max(-1, keepdims=True))
        y[row, :, head * depth : (head + 1) * depth] = (
            e / e.sum(-1, keepdims=True) @ v[row, :, theirs]
        )
    return y


def head_places(attributes: Mapping[str, Any], features: int) -> tuple[int, int]:
    """Features of a head, and how many there are from one's first to the next one's."""
    heads = int(attributes["heads"])
    apart = int(attributes.get("apart", features // heads))
    return features - (heads - 1) * apart, apart


def near_scores(
    attributes: Mapping[str, Any], tokens: int, table: Array | None, unseen: float
) -> Array | None:
    """[heads or 1, queries, keys]: a number a head and distance, and `unseen` beyond the bounds;
    None where there is neither."""
    back, ahead = (int(attributes.get(name, -1)) for name in ("back", "ahead"))
    if table is None and back < 0 and ahead < 0:
        return None
    distance = np.arange(tokens)[:, None] - np.arange(tokens)  # of a query to a key before it
    y = np.zeros((1, tokens, tokens), np.float32)
    if table is not None:
        y = table[:, distance + table.shape[1] // 2]
    hidden = (distance > back if back >= 0 else False) | (
        -distance > ahead if ahead >= 0 else False
    )
    return np.where(hidden, np.float32(unseen), y)


def near(node: Node, x: Array, bias: Array | None = None, table: Array | None = None) -> Array:
    rows, tokens = x.shape[:2]
    y = near_scores(node.attributes, tokens, table, node.attributes["unseen"])
    y = np.zeros((1, tokens, tokens), np.float32) if y is None else y
    if bias is None:
        return np.repeat(y[None], rows, axis=0)
    seen = near_scores(node.attributes, tokens, None, -np.inf)
    each = bias[:, None] if bias.ndim == 2 else bias.transpose(0, 2, 1)
    total = y + each[:, :, None, :]
    return total if seen is None else np.where(seen < 0, y, total)


def rotary(node: Node, x: Array, turns: Array) -> Array:
    heads, half = node.attributes["heads"], turns.shape[-1] // 2
    y = x.reshape(*x.shape[:2], heads, -1).copy()
    first, second = slice(0, half), slice(half, 2 * half)
    if node.attributes["interleaved"]:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    one, two = y[..., first].copy(), y[..., second].copy()
    cosine, sine = turns[:, :, None, :half], turns[:, :, None, half:]
    y[..., first] = one * cosine - two * sine
    y[..., second] = two * cosine + one * sine
    return y.reshape(x.shape)


def positional(node: Node, x: Array, table: Array) -> Array:
    return np.broadcast_to(table[: x.shape[1]], (*x.shape[:2], table.shape[1])).copy()


def counted(node: Node, ids: Array, table: Array) -> Array:
    padding = node.attributes["padding"]
    counts = (ids if padding is None else ids != padding).astype(np.int64)
    return np.asarray(table[np.cumsum(counts, axis=1) * counts + node.attributes["first"]])


def repeat(node: Node, x: Array) -> Array:
    return np.repeat(x, node.attributes["count"], axis=-1)


def part(node: Node, x: Array) -> Array:
    start = node.attributes["start"]
    return x[..., start : start + node.attributes["count"]].copy()


TRANSFORMER: dict[str, Callable[..., Array]] = {
    "Attention": attention,
    "Counted": counted,
    "LayerNorm": layer_norm,
    "Near": near,
    "Part": part,
    "Positional": positional,
    "Repeat": repeat,
    "Rotary": rotary,
}
