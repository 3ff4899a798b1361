"""PLAIN: operators computed in plain numpy, where onnx's evaluator will not do.

`Linear` and the unary functions are our own. Of ONNX's, BatchNormalization and LRN stand here
because onnx 1.23 lets their results depend on the other rows of a batch: the first it runs in
training mode before opset 14, in the second it takes the number of rows for that of channels. Gemm,
MatMul and convolutions stand here because BLAS adds in another order for another number of rows,
and a row must have the same bytes in any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.graph import NATIVE, Node
from engine.ops.unary import UNARY

Array = np.ndarray[Any, np.dtype[Any]]


def product(a: Array, b: Array) -> Array:
    """a @ b, where each row of a[T, K] is multiplied on its own, as [1, K] @ [K, M]."""
    if a.ndim == 2 and b.ndim == 2:
        found: Array = np.matmul(a[:, None, :], b)[:, 0]
        return found
    return np.asarray(np.matmul(a, b))


def matmul(node: Node, a: Array, b: Array) -> Array:
    return product(a, b)


def gemm(node: Node, a: Array, b: Array, c: Array | None = None) -> Array:
    """alpha * a @ b + beta * c, with a and b transposed on demand."""
    alpha, beta = (a.dtype.type(node.attributes.get(k, 1.0)) for k in ("alpha", "beta"))
    left = a.T if node.attributes.get("transA", 0) else a
    right = b.T if node.attributes.get("transB", 0) else b
    y = product(left, right) * alpha
    return y if c is None else np.asarray(y + c * beta)


def linear(node: Node, x: Array, weights: Array, bias: Array | None = None) -> Array:
    """y[..., M] = activations(x[..., K] @ W[M, K].T + b[M])."""
    y = product(x, weights.T)
    if bias is not None:
        y = y + bias
    for op, a, b in node.attributes.get("activations", ()):
        y = UNARY[op].numpy(y, a, b)
    return y


def batch_normalization(
    node: Node, x: Array, scale: Array, shift: Array, mean: Array, var: Array
) -> Array:
    """Inference form, over axis 1 of x[rows, channels, ...]."""
    wide = (-1, *(1 for _ in x.shape[2:]))
    s, t, m, v = (p.reshape(wide) for p in (scale, shift, mean, var))
    epsilon = np.float32(node.attributes.get("epsilon", 1e-5))
    y: Array = s * (x - m) / np.sqrt(v + epsilon) + t
    return y.astype(x.dtype, copy=False)


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
    (NATIVE, "Linear"): linear,
    ("", "BatchNormalization"): batch_normalization,
    ("", "Gemm"): gemm,
    ("", "LRN"): local_response_normalization,
    ("", "MatMul"): matmul,
}
"""By domain and name; each has one output."""

PRODUCTS = frozenset({("", "Gemm"), ("", "MatMul")})
"""Slower here than at once: constants, which have no rows, are left to onnx's evaluator."""

ROW_BY_ROW = frozenset({("", "Conv"), ("", "ConvTranspose")})
"""Run by onnx's evaluator, but one row of the first input at a time."""
