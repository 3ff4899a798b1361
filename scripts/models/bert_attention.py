"""The styles' ways with positions, masks and attention.

A mask's value is what is added to the scores of padding: -10000 in older models, float32's
minimum in newer ones, -inf where no arithmetic is done with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from scripts.models.bert_net import Net
from scripts.models.writer import Writer

INT64_MAX = np.iinfo(np.int64).max


def sliced_ids(net: Net, ids: str) -> str:
    """PyTorch: the first `sequence` of position_ids[1, 512], and their rows of the table."""
    write = net.write
    end = write.unsqueeze(write.dimension(ids, 1), 0)
    table = np.arange(net.size.positions, dtype=np.int64)[None]
    every = write.weight("embeddings.position_ids", table)
    taken = write.op("Slice", every, write.ints(0), end, write.ints(1), write.ints(1))
    return write.op("Gather", net.parameter("position_embeddings.weight"), taken)


def sliced_table(net: Net, ids: str) -> str:
    """By hand: the first `sequence` rows of the table itself, [sequence, hidden]."""
    write = net.write
    end = write.unsqueeze(write.dimension(ids, 1), 0)
    table = net.parameter("position_embeddings.weight")
    return write.op("Slice", table, write.ints(0), end, write.ints(0))


def ranged(net: Net, ids: str) -> str:
    """Rows 0 .. sequence - 1 by Range and Gather."""
    write = net.write
    stop = write.dimension(ids, 1)
    places = write.op("Range", write.int_scalar(0), stop, write.int_scalar(1))
    return write.op("Gather", net.parameter("position_embeddings.weight"), places)


def additive_mask(write: Writer, mask: str, value: float) -> str:
    """PyTorch, eager attention: (1 - mask[:, None, None, :]) * value, [batch, 1, 1, sequence]."""
    wide = write.cast(write.unsqueeze(write.unsqueeze(mask, 1), 2), TensorProto.FLOAT)
    return write.op("Mul", write.op("Sub", write.floats(1), wide), write.floats(value))


def cast_first_mask(write: Writer, mask: str, value: float) -> str:
    """By hand: the same with the cast first and both axes at once."""
    wide = write.unsqueeze(write.cast(mask, TensorProto.FLOAT), 1, 2)
    return write.op("Mul", write.op("Sub", write.floats(1), wide), write.floats(value))


def expanded_mask(write: Writer, mask: str, value: float) -> str:
    """PyTorch, SDPA: expand to [batch, 1, sequence, sequence], then masked_fill.

    `expand` is exported with a Where for sizes of -1, though none is -1 here.
    """
    batch, length = write.dimension(mask, 0), write.dimension(mask, 1)
    wide = write.unsqueeze(write.unsqueeze(mask, 1), 2)
    sizes = write.shape(batch, 1, length, length)
    ones = write.op("ConstantOfShape", write.ints(4), value=_one())
    open_end = write.op("Equal", sizes, write.op("Mul", ones, write.int_scalar(-1)))
    wide = write.op("Expand", wide, write.op("Where", open_end, ones, sizes))
    inverse = write.op("Sub", write.floats(1), write.cast(wide, TensorProto.FLOAT))
    return write.op("Where", write.cast(inverse, TensorProto.BOOL), write.floats(value), inverse)


def boolean_mask(write: Writer, mask: str, _value: float) -> str:
    """For the operator Attention: true where a token may be looked at.

    Expanded to [batch, 1, sequence, sequence]: onnxruntime refuses to broadcast the queries.
    """
    batch, length = write.dimension(mask, 0), write.dimension(mask, 1)
    wide = write.unsqueeze(write.cast(mask, TensorProto.BOOL), 1, 2)
    return write.op("Expand", wide, write.shape(batch, 1, length, length))


def eager(net: Net, x: str, mask: str) -> str:
    """PyTorch: three linear layers, shapes by arithmetic, scores divided by sqrt d."""
    write = net.write
    query = split_heads(net, net.linear(x, "query"), (0, 2, 1, 3))
    key = split_heads(net, net.linear(x, "key"), (0, 2, 3, 1))
    value = split_heads(net, net.linear(x, "value"), (0, 2, 1, 3))
    scores = write.op("Div", write.op("MatMul", query, key), write.floats(math.sqrt(net.size.head)))
    shares = write.op("Softmax", write.op("Add", scores, mask), axis=-1)
    return join_heads(net, write.op("MatMul", shares, value))


def scaled_dot_product(net: Net, x: str, mask: str) -> str:
    """PyTorch's SDPA: queries and keys each times sqrt(1 / sqrt d), d taken from Shape."""
    write = net.write
    query = split_heads(net, net.linear(x, "query"), (0, 2, 1, 3))
    key = split_heads(net, net.linear(x, "key"), (0, 2, 1, 3))
    value = split_heads(net, net.linear(x, "value"), (0, 2, 1, 3))
    shape = write.op("Shape", query)
    last = write.op("Slice", shape, write.ints(-1), write.ints(INT64_MAX))
    root = write.op("Sqrt", write.cast(last, TensorProto.FLOAT))
    scale = write.op("Div", write.floats(1), root)
    turned = write.op("Transpose", key, perm=[0, 1, 3, 2])
    query = write.op("Mul", query, write.op("Sqrt", scale))
    turned = write.op("Mul", turned, write.op("Sqrt", scale))
    scores = write.op("Add", write.op("MatMul", query, turned), mask)
    shares = write.op("Softmax", scores, axis=-1)
    return join_heads(net, write.op("MatMul", shares, value))


def split_projection(net: Net, x: str, mask: str) -> str:
    """By hand: one MatMul for queries, keys and values, Split, Reshapes by constants with 0."""
    write, size, names = net.write, net.size, ("query", "key", "value")
    w = np.concatenate([net.weights[f"{net.prefix}{n}.weight"] for n in names]).T
    b = np.concatenate([net.weights[f"{net.prefix}{n}.bias"] for n in names])
    product = write.op("MatMul", x, write.weight(f"{net.prefix}qkv.weight", w))
    joint = write.op("Add", product, write.weight(f"{net.prefix}qkv.bias", b))
    perms = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    query, key, value = (
        write.op(
            "Transpose", write.op("Reshape", part, write.ints(0, 0, size.heads, size.head)), perm=p
        )
        for part, p in zip(write.split(joint, 2, [size.hidden] * 3), perms, strict=True)
    )
    product = write.op("MatMul", query, key)
    scores = write.op("Mul", product, write.floats(1 / math.sqrt(size.head)))
    shares = write.op("Softmax", write.op("Add", scores, mask), axis=3)
    context = write.op("Transpose", write.op("MatMul", shares, value), perm=[0, 2, 1, 3])
    return write.op("Reshape", context, write.ints(0, 0, size.hidden))


def one_operator(net: Net, x: str, mask: str) -> str:
    """Opset 23's Attention on [batch, sequence, hidden]; its scale is 1 / sqrt d by default."""
    query, key, value = (net.linear(x, name) for name in ("query", "key", "value"))
    heads = net.size.heads
    return net.write.op("Attention", query, key, value, mask, q_num_heads=heads, kv_num_heads=heads)


def split_heads(net: Net, x: str, perm: Sequence[int]) -> str:
    """[batch, sequence, hidden] -> [batch, sequence, heads, head], then transposed by `perm`."""
    write, size = net.write, net.size
    batch, length = write.dimension(x, 0), write.dimension(x, 1)
    shape = write.shape(batch, length, size.heads, size.head)
    return write.op("Transpose", write.op("Reshape", x, shape), perm=list(perm))


def join_heads(net: Net, x: str) -> str:
    """[batch, heads, sequence, head] -> [batch, sequence, hidden]"""
    write = net.write
    x = write.op("Transpose", x, perm=[0, 2, 1, 3])
    shape = write.shape(write.dimension(x, 0), write.dimension(x, 1), net.size.hidden)
    return write.op("Reshape", x, shape)


def _one() -> TensorProto:
    return TensorProto(dims=[1], data_type=TensorProto.INT64, int64_data=[1])
