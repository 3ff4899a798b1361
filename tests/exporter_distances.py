"""What exporters add to scores by the distance of query and key: see exporters.py."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from scripts.models.bert import FLOAT_MIN
from scripts.models.bert_net import Net


def scaled_after(net: Net, q: str, k: str, mask: str) -> str:
    product = net.write.op("MatMul", q, k)
    return net.write.op("Div", product, net.write.floats(math.sqrt(net.size.head)))


def added(net: Net, q: str, k: str, mask: str) -> str:
    return net.write.op("Add", scaled_after(net, q, k, mask), mask)


def relative(net: Net, q: str, k: str, mask: str) -> str:
    """MPNet: a bias a head and distance, which is looked up in a table."""
    write = net.write
    table = np.random.default_rng(5).standard_normal((2 * 80, net.size.heads)).astype(np.float32)
    length = write.dimension(q, 2)
    places = write.op("Range", write.int_scalar(0), length, write.int_scalar(1))
    distance = write.op("Sub", write.unsqueeze(places, 0), write.unsqueeze(places, 1))
    index = write.op("Add", distance, write.int_scalar(80))
    bias = write.op("Gather", write.weight("relative", table), index)
    bias = write.unsqueeze(write.op("Transpose", bias, perm=[2, 0, 1]), 0)
    return write.op("Add", added(net, q, k, mask), bias)


def _distances(net: Net, q: str) -> str:
    """[S, S]: key - query."""
    write = net.write
    places = write.op("Range", write.int_scalar(0), write.dimension(q, 2), write.int_scalar(1))
    return write.op("Sub", write.unsqueeze(places, 0), write.unsqueeze(places, 1))


def buckets(net: Net, q: str, k: str, mask: str, together: bool = False) -> str:
    """T5: distances in buckets, the wider the farther, and a number a head for each; its mask is
    added to them first, or to the scores."""
    write, float32 = net.write, TensorProto.FLOAT
    table = np.random.default_rng(6).standard_normal((32, net.size.heads)).astype(np.float32)
    distance = _distances(net, q)
    ahead = write.cast(write.op("Greater", distance, write.int_scalar(0)), TensorProto.INT64)
    far = write.op("Abs", distance)
    logs = write.op("Log", write.op("Div", write.cast(far, float32), write.floats(8)))
    steps = write.op("Mul", write.op("Div", logs, write.floats(math.log(16))), write.floats(8))
    large = write.op("Add", write.cast(steps, TensorProto.INT64), write.int_scalar(8))
    large = write.op("Min", large, write.int_scalar(15))
    bucket = write.op("Where", write.op("Less", far, write.int_scalar(8)), far, large)
    bucket = write.op("Add", bucket, write.op("Mul", ahead, write.int_scalar(16)))
    bias = write.op("Gather", write.weight("buckets", table), bucket)
    bias = write.unsqueeze(write.op("Transpose", bias, perm=[2, 0, 1]), 0)
    if together:
        return write.op("Add", scaled_after(net, q, k, mask), write.op("Add", bias, mask))
    return write.op("Add", added(net, q, k, mask), bias)


def slopes(net: Net, q: str, k: str, mask: str, of: str = "signed", hidden: bool = False) -> str:
    """ALiBi: a slope a head, times the distance; `of` its amount, or its square, which is none.
    Keys behind the query may be `hidden`."""
    write = net.write
    each = np.array([0.5, 0.25, 0.0883883, 0.0625], np.float32)[:, None, None]
    distance = write.cast(_distances(net, q), TensorProto.FLOAT)
    if of == "amount":
        distance = write.op("Neg", write.op("Abs", distance))
    if of == "square":
        distance = write.op("Mul", distance, distance)
    bias = write.op("Mul", distance, write.weight("slopes", each))
    scores = (plus_causal if hidden else added)(net, q, k, mask)
    return write.op("Add", scores, write.unsqueeze(bias, 0))


def plus_causal(net: Net, q: str, k: str, mask: str) -> str:
    """A causal mask of its own is added besides the mask of keys."""
    write = net.write
    later = write.op("Greater", _distances(net, q), write.int_scalar(0))
    causal = write.op("Where", later, write.floats(-math.inf), write.floats(0))
    return write.op("Add", added(net, q, k, mask), causal)


def filled_behind(net: Net, q: str, k: str, mask: str) -> str:
    """GPT-2: scores are kept where a triangle says so, then the mask is added."""
    write = net.write
    seen = write.op("LessOrEqual", _distances(net, q), write.int_scalar(0))
    scores = scaled_after(net, q, k, mask)
    filled = write.op("Where", write.unsqueeze(seen, 0, 1), scores, write.floats(FLOAT_MIN))
    return write.op("Add", filled, mask)
