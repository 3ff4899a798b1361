"""Products of matrices in plain numpy: row by row for batches, and without BLAS for constants.

BLAS adds in another order for another number of rows, and with another number of threads. A row
must have the same bytes in any batch, and a folded constant, which is part of a program's
fingerprint, on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.graph import Node
from engine.ops.unary import UNARY

Array = np.ndarray[Any, np.dtype[Any]]
Product = Callable[[Array, Array], Array]


def product(a: Array, b: Array) -> Array:
    """a @ b, where each row of a[T, K] is multiplied on its own, as [1, K] @ [K, M] or @ [K]."""
    if a.ndim == 2 and b.ndim <= 2:
        found: Array = np.matmul(a[:, None, :], b)[:, 0]
        return found
    return np.asarray(np.matmul(a, b))


def folded_product(a: Array, b: Array) -> Array:
    """a @ b of floating point numbers summed in float64 by one thread, in the order of the file."""
    if a.dtype.kind in "iub" and b.dtype.kind in "iub":
        return np.asarray(np.matmul(a, b))  # exact in any order
    left, right = _letters(a, b)
    y = folded_einsum(f"{left},{right}->{_result(left, right)}", a, b)
    return y.astype(a.dtype, copy=False)


def folded_einsum(equation: str, *operands: Array) -> Array:
    """`np.einsum` in float64 (integers and complex numbers as they are) without BLAS."""
    wide = [a if a.dtype.kind in "iubc" else a.astype(np.float64) for a in operands]
    return np.asarray(np.einsum(equation, *wide, optimize=False))


def _letters(a: Array, b: Array) -> tuple[str, str]:
    """Terms of np.matmul: a vector on the left is a row, on the right a column."""
    left = "k" if a.ndim == 1 else "...ik"
    right = "k" if b.ndim == 1 else "...kj"
    return left, right


def _result(left: str, right: str) -> str:
    both = (left + right).replace("k", "").replace("...", "")
    return ("..." if "." in left + right else "") + both


def matmul(node: Node, a: Array, b: Array, multiply: Product = product) -> Array:
    return multiply(a, b)


def gemm(
    node: Node, a: Array, b: Array, c: Array | None = None, multiply: Product = product
) -> Array:
    """alpha * a @ b + beta * c, with a and b transposed on demand; a beta of 0 is no C."""
    alpha, beta = (a.dtype.type(node.attributes.get(k, 1.0)) for k in ("alpha", "beta"))
    left = a.T if node.attributes.get("transA", 0) else a
    right = b.T if node.attributes.get("transB", 0) else b
    y = multiply(left, right) * alpha
    return y if c is None or beta == 0 else np.asarray(y + c * beta)


def linear(
    node: Node,
    x: Array,
    weights: Array,
    bias: Array | None = None,
    rest: Array | None = None,
    multiply: Product = product,
) -> Array:
    """y[..., M] = activations(x[..., K] @ W[M, K].T + b[M] + rest[..., M])."""
    y = multiply(x, weights.T)
    for addend in (bias, rest):
        y = y if addend is None else y + addend
    for op, a, b in node.attributes.get("activations", ()):
        y = UNARY[op].numpy(y, a, b)
    return y


def einsum(node: Node, *operands: Array) -> Array:
    """For constants only; batches are run row by row."""
    y = folded_einsum(node.attributes["equation"].strip(), *operands)
    return y.astype(operands[0].dtype, copy=False)
