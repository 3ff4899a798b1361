"""Rotary positions as exporters spell them: functions of heads for exporters.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from scripts.models import bert_attention as ways
from scripts.models.bert_net import Net

END = np.iinfo(np.int64).max
BASE = 10_000.0

Turn = Callable[[Net, str, str, str], str]
"""x [N, heads, S, d], cosines and sines [N or 1, S, r] give the turned x."""


def angles(net: Net, x: str, width: int, ids: str = "") -> str:
    """[N or 1, S, width / 2]: a place times the frequency of each pair, as Llama has it."""
    write = net.write
    powers = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    frequencies = (1.0 / np.float32(BASE) ** powers).astype(np.float32)
    column = write.weight("inv_freq", frequencies[None, :, None])
    if not ids:
        length = write.dimension(x, 1)
        places = write.op("Range", write.int_scalar(0), length, write.int_scalar(1))
        ids = write.unsqueeze(places, 0)
    row = write.cast(write.unsqueeze(ids, 1), TensorProto.FLOAT)
    return write.op("Transpose", write.op("MatMul", column, row), perm=[0, 2, 1])


def both(net: Net, x: str, width: int, ids: str = "") -> tuple[str, str]:
    """Cosines and sines of all features: those of the pairs, twice."""
    found = angles(net, x, width, ids)
    twice = net.write.op("Concat", found, found, axis=-1)
    return net.write.op("Cos", twice), net.write.op("Sin", twice)


def _cut(net: Net, x: str, first: int, last: int) -> str:
    write = net.write
    return write.op("Slice", x, write.ints(first), write.ints(last), write.ints(3), write.ints(1))


def half(net: Net, x: str, cosine: str, sine: str) -> str:
    """x * cos + rotate_half(x) * sin: Slice, Neg, Concat, Mul, Add."""
    write, middle = net.write, net.size.head // 2
    one, two = _cut(net, x, 0, middle), _cut(net, x, middle, END)
    turned = write.op("Concat", write.op("Neg", two), one, axis=-1)
    cosine, sine = (write.unsqueeze(table, 1) for table in (cosine, sine))
    return write.op("Add", write.op("Mul", x, cosine), write.op("Mul", turned, sine))


def by_split(net: Net, x: str, cosine: str, sine: str) -> str:
    """The two halves by themselves, put together at the end."""
    write, middle = net.write, net.size.head // 2
    one, two = write.split(x, 3, [middle, middle])
    cosine, sine = (_cut(net, write.unsqueeze(t, 1), 0, middle) for t in (cosine, sine))
    first = write.op("Sub", write.op("Mul", one, cosine), write.op("Mul", two, sine))
    second = write.op("Add", write.op("Mul", two, cosine), write.op("Mul", one, sine))
    return write.op("Concat", first, second, axis=-1)


WIDTH = 4
"""Features of a head that are turned where not all are."""


def partly(net: Net, x: str, cosine: str, sine: str) -> str:
    """The first features alone: GPT-NeoX, Phi."""
    write = net.write
    some, rest = _cut(net, x, 0, WIDTH), _cut(net, x, WIDTH, END)
    cosine, sine = (write.unsqueeze(table, 1) for table in (cosine, sine))
    one, two = _cut(net, some, 0, WIDTH // 2), _cut(net, some, WIDTH // 2, END)
    turned = write.op("Concat", write.op("Neg", two), one, axis=-1)
    some = write.op("Add", write.op("Mul", some, cosine), write.op("Mul", turned, sine))
    return write.op("Concat", some, rest, axis=-1)


def neighbours(net: Net, x: str, cosine: str, sine: str) -> str:
    """Pairs of neighbours, split off by Reshape: GPT-J, RoFormer."""
    write, size = net.write, net.size
    shape = write.shape(write.dimension(x, 0), size.heads, write.dimension(x, 2), size.head // 2, 2)
    one, two = (
        write.op("Gather", write.op("Reshape", x, shape), write.int_scalar(i), axis=4)
        for i in (0, 1)
    )
    cosine, sine = (_cut(net, write.unsqueeze(t, 1), 0, size.head // 2) for t in (cosine, sine))
    first = write.op("Sub", write.op("Mul", one, cosine), write.op("Mul", two, sine))
    second = write.op("Add", write.op("Mul", two, cosine), write.op("Mul", one, sine))
    pairs = write.op("Concat", write.unsqueeze(first, 4), write.unsqueeze(second, 4), axis=4)
    return write.op("Reshape", pairs, write.op("Shape", x))


def mirrored(net: Net, x: str, cosine: str, sine: str) -> str:
    """Looks alike and is no rotation: the second half is not negated."""
    write, middle = net.write, net.size.head // 2
    turned = write.op("Concat", _cut(net, x, middle, END), _cut(net, x, 0, middle), axis=-1)
    cosine, sine = (write.unsqueeze(table, 1) for table in (cosine, sine))
    return write.op("Add", write.op("Mul", x, cosine), write.op("Mul", turned, sine))


def rotated(net: Net, x: str, turn: Turn = half, ids: str = "") -> tuple[str, str, str]:
    """Queries and keys turned, for attention."""
    q, k, v = (
        ways.split_heads(net, net.linear(x, name), (0, 2, 1, 3))
        for name in ("query", "key", "value")
    )
    cosine, sine = both(net, x, WIDTH if turn is partly else net.size.head, ids)
    q, k = (turn(net, part, cosine, sine) for part in (q, k))
    return q, net.write.op("Transpose", k, perm=[0, 1, 3, 2]), v


def operator(net: Net, x: str, flat: bool = False, interleaved: int = 0) -> tuple[str, str, str]:
    """Opset 23's RotaryEmbedding, of [N, heads, S, d] or of [N, S, heads * d]."""
    write, size = net.write, net.size
    counted = write.op("Range", write.int_scalar(0), write.dimension(x, 1), write.int_scalar(1))
    ids = write.op("Expand", counted, write.op("Shape", "input_ids"))
    places = np.arange(size.positions)[:, None] / BASE ** (np.arange(size.head // 2) / 6)
    tables = [
        write.weight(name, function(places).astype(np.float32))
        for name, function in (("cos_cache", np.cos), ("sin_cache", np.sin))
    ]
    parts = []
    for name in ("query", "key"):
        part = net.linear(x, name)
        if not flat:
            part = ways.split_heads(net, part, (0, 2, 1, 3))
        attributes = {"num_heads": size.heads} if flat else {}
        part = write.op(
            "RotaryEmbedding", part, *tables, ids, interleaved=interleaved, **attributes
        )
        parts.append(ways.split_heads(net, part, (0, 2, 1, 3)) if flat else part)
    v = ways.split_heads(net, net.linear(x, "value"), (0, 2, 1, 3))
    return parts[0], write.op("Transpose", parts[1], perm=[0, 1, 3, 2]), v
