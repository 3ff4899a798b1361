"""PLAIN: operators computed in plain numpy, where onnx's evaluator will not do.

What rewrites introduce is our own. Of ONNX's, BatchNormalization and LRN stand here because onnx
1.23 lets their results depend on the other rows of a batch: the first it runs in training mode
before opset 14, in the second it takes the number of rows for that of channels. Clip is
here for bounds that are NaN, and products for the order in which they add (products.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from engine.graph import NATIVE, Node
from engine.ops.image import IMAGE, conv
from engine.ops.products import einsum, folded_product, gemm, linear, matmul
from engine.ops.transformer import TRANSFORMER
from engine.ops.unary import UNARY

Array = np.ndarray[Any, np.dtype[Any]]


def batch_normalization(
    node: Node, x: Array, scale: Array, shift: Array, mean: Array, var: Array
) -> Array:
    """Inference form, over axis 1 of x[rows, channels, ...]."""
    wide = (-1, *(1 for _ in x.shape[2:]))
    s, t, m, v = (p.reshape(wide) for p in (scale, shift, mean, var))
    epsilon = np.float32(node.attributes.get("epsilon", 1e-5))
    y: Array = s * (x - m) / np.sqrt(v + epsilon) + t
    return y.astype(x.dtype, copy=False)


def clip(node: Node, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """Bounds are attributes before opset 11; one that is NaN is none, as in onnxruntime."""
    y = x
    for bound, name, toward in ((low, "min", np.maximum), (high, "max", np.minimum)):
        limit = node.attributes.get(name) if bound is None else bound.reshape(())
        if limit is not None and limit == limit:
            y = toward(y, np.asarray(limit, x.dtype))
    return np.asarray(y)


def quantize(node: Node, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """x / scale to the nearest even integer, plus zero, held within zero's type: NaN is the least,
    as in onnxruntime."""
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    wide, limits = _along(node, x, scale), np.iinfo(kind)
    y = np.asarray(x.astype(np.float32, copy=False) / scale.reshape(wide))  # of 0-d a scalar
    np.rint(y, out=y)
    if zero is not None:
        y += zero.astype(np.float32).reshape(wide)
    np.fmax(y, np.float32(limits.min), out=y)
    np.fmin(y, np.float32(limits.max), out=y)
    return np.asarray(y).astype(kind)


def dequantize(node: Node, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """(x - zero) * scale in float32."""
    wide = _along(node, x, scale)
    y = x.astype(np.float32)
    if zero is not None:
        y = y - zero.astype(np.float32).reshape(wide)
    return np.asarray(y * scale.reshape(wide))


def _along(node: Node, x: Array, scale: Array) -> list[int]:
    """The shape of scales, one or one for each index of an axis, beside x."""
    wide = [1] * x.ndim
    if scale.size > 1:
        wide[node.attributes.get("axis", 1)] = scale.size
    return wide


def local_response_normalization(node: Node, x: Array) -> Array:
    """x / (bias + alpha / size * sum of squares over `size` channels around)^beta."""
    size = int(node.attributes["size"])
    before, after = (size - 1) // 2, size // 2
    padded = np.pad(np.square(x), [(0, 0), (before, after), *([(0, 0)] * (x.ndim - 2))])
    around = sum(padded[:, i : i + x.shape[1]] for i in range(size))
    alpha, beta, bias = (
        np.float32(node.attributes.get(k, d))
        for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    y: Array = x / (bias + alpha / np.float32(size) * around) ** beta
    return y.astype(x.dtype, copy=False)


def unary(node: Node, x: Array) -> Array:
    """A row of UNARY as a node of its own."""
    row = UNARY[node.op]
    return row.numpy(x, *row.parameters(node.attributes))


def training(node: Node, opset: int) -> bool:
    """Whether a BatchNormalization takes its statistics from the batch."""
    if node.attributes.get("training_mode", 0) or len(node.writes) > 1:
        return True
    return opset < 7 and not node.attributes.get("is_test", 0)


PLAIN: dict[tuple[str, str], Callable[..., Array]] = {
    **{(NATIVE, name): unary for name in UNARY},
    **{(NATIVE, name): function for name, function in TRANSFORMER.items()},
    **{(NATIVE, name): function for name, function in IMAGE.items()},
    (NATIVE, "Linear"): linear,
    ("", "BatchNormalization"): batch_normalization,
    ("", "Clip"): clip,
    ("", "Gemm"): gemm,
    ("", "LRN"): local_response_normalization,
    ("", "MatMul"): matmul,
}
"""By domain and name; each has one output."""


def _of_matrix(function: Callable[[Array], Array]) -> Callable[[Node, Array], Array]:
    """`function` over the rows of x as a matrix, whose rows are all dimensions before the axis."""

    def run(node: Node, x: Array) -> Array:
        axis = node.attributes.get("axis", 1) % max(1, x.ndim)
        matrix = x.reshape(math.prod(x.shape[:axis]), -1)
        return function(matrix).reshape(x.shape).astype(x.dtype, copy=False)

    return run


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _hardmax(x: Array) -> Array:
    return np.asarray(np.arange(x.shape[1]) == x.argmax(1)[:, None])


BEFORE: dict[int, dict[tuple[str, str], Callable[..., Array]]] = {
    19: {("", "DequantizeLinear"): dequantize, ("", "QuantizeLinear"): quantize},
    13: {
        ("", "Hardmax"): _of_matrix(_hardmax),
        ("", "LogSoftmax"): _of_matrix(_log_softmax),
        ("", "Softmax"): _of_matrix(_softmax),
    },
}
"""Before an opset, what onnx's evaluator gives a later meaning, has no implementation of, or a slow
one: its QuantizeLinear took 16 microseconds for 512 values, ours 2."""

FOLDED: dict[tuple[str, str], Callable[..., Array]] = {
    (NATIVE, "Conv"): partial(conv, multiply=folded_product),
    (NATIVE, "Linear"): partial(linear, multiply=folded_product),
    ("", "Einsum"): einsum,
    ("", "Gemm"): partial(gemm, multiply=folded_product),
    ("", "MatMul"): partial(matmul, multiply=folded_product),
}
"""For constants: the same bytes whatever number of threads BLAS has here."""


def _first(node: Node) -> list[int]:
    return [0]


def _recurrent(node: Node) -> list[int]:
    """x, and where they are given the lengths and the initial states; layout=1 only."""
    given = [i for i in (4, 5, 6) if i < len(node.inputs) and node.inputs[i]]
    return [0, *given] if node.attributes.get("layout", 0) == 1 else []


def _einsum(node: Node) -> list[int]:
    """Operands with the first letter of the result, if it stands first there and only there."""
    left, _, right = node.attributes["equation"].replace(" ", "").partition("->")
    terms = left.split(",")
    letter = right[:1] or "."
    if letter == "." or any(letter in t[1:] for t in terms):
        return []
    return [i for i, term in enumerate(terms) if term.startswith(letter)]


ROW_BY_ROW: dict[tuple[str, str], Callable[[Node], list[int]]] = {
    ("", "Conv"): _first,
    ("", "ConvTranspose"): _first,
    ("", "Einsum"): _einsum,
    ("", "GRU"): _recurrent,
    ("", "LSTM"): _recurrent,
    ("", "RNN"): _recurrent,
    ("ai.onnx.ml", "LinearClassifier"): _first,
    ("ai.onnx.ml", "LinearRegressor"): _first,
}
"""Run by onnx's evaluator, but one row at a time: which inputs have rows."""

THREADED = frozenset(ROW_BY_ROW.keys() - FOLDED.keys()) | {
    ("", op) for op in ("AffineGrid", "Attention", "DeformConv", "Det")
}
"""They reach BLAS through onnx's evaluator, so their bytes may follow its number of threads."""
