"""What comes after the last layer: the pooler, or a sentence's mean scaled to length 1."""

from __future__ import annotations

from onnx import TensorProto

from scripts.models.bert_net import Net

SMALLEST_COUNT = 1e-9
SMALLEST_NORM = 1e-12
"""What sentence-transformers and PyTorch clamp their divisors to."""


def pooler(net: Net, hidden: str, output: str) -> str:
    """tanh(W h + b) of the first token's h; two axes, so PyTorch's exporter writes Gemm."""
    write, inner = net.write.within("pooler"), net.within("pooler.dense")
    first = write.op("Gather", hidden, write.int_scalar(0), axis=1)
    weight, bias = inner.parameter("weight"), inner.parameter("bias")
    dense = inner.write.op("Gemm", first, weight, bias, transB=1)
    return write.op("Tanh", dense, output=output)


def decomposed_sentence(net: Net, hidden: str, mask: str, output: str) -> str:
    """As sentence-transformers says it to PyTorch's exporter: the mask expanded to
    [batch, sequence, hidden], sums and Clip, ReduceL2 and Clip, Expand, Div."""
    write = net.write.within("pooling")
    like = write.op("Shape", hidden)
    wide = write.op("Expand", write.unsqueeze(mask, -1), like)
    wide = write.cast(wide, TensorProto.FLOAT)
    total = write.reduce("ReduceSum", write.op("Mul", hidden, wide), 1, keepdims=0)
    count = write.reduce("ReduceSum", wide, 1, keepdims=0)
    mean = write.op("Div", total, write.op("Clip", count, write.floats(SMALLEST_COUNT)))
    write = net.write.within("normalize")
    norm = write.op("Clip", write.reduce("ReduceL2", mean, -1), write.floats(SMALLEST_NORM))
    return write.op("Div", mean, write.op("Expand", norm, write.op("Shape", mean)), output=output)


def fused_sentence(net: Net, hidden: str, mask: str, output: str) -> str:
    """The same in few operators: the mask broadcast, LpNormalization."""
    write = net.write.within("pooling")
    wide = write.unsqueeze(write.cast(mask, TensorProto.FLOAT), -1)
    total = write.reduce("ReduceSum", write.op("Mul", hidden, wide), 1, keepdims=0)
    count = write.reduce("ReduceSum", wide, 1, keepdims=0)
    mean = write.op("Div", total, write.op("Max", count, write.floats(SMALLEST_COUNT)))
    return write.op("LpNormalization", mean, output=output, axis=-1, p=2)
