"""Gemm and MatMul with constant weights become `colonnade.Linear`.

    Gemm:    y = alpha * x @ B + beta * C   ->   W[M, K] = alpha * B.T,  b[M] = beta * C
    MatMul:  y = x[..., K] @ B[K, M]        ->   W[M, K] = B.T

Weights are C-contiguous float32, but for those that lie in a file, which are left there and
looked at across until they are packed. A C that is no vector over the outputs
stays an Add of its own.
"""

from __future__ import annotations

import numpy as np

from engine.graph import NATIVE, Node, Value
from engine.mapped import contiguous
from engine.rewrites.rewrite import Array, Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    if node.op == "MatMul":
        return _matmul(node, view)
    return _gemm(node, view)


def _linear(name: str, inputs: tuple[str, str, str], output: str) -> Node:
    return Node(name, "Linear", inputs, (output,), NATIVE, {"activations": ()})


def weights_refused(x: Value | None, weights: Array | None, name: str) -> str | None:
    """Why x @ weights cannot be a Linear."""
    if weights is None:
        return f"its weights {name} are not constant"
    if weights.ndim != 2:
        return f"its weights {name} have {weights.ndim} dimensions, not 2"
    if 0 in weights.shape:
        return f"its weights {name} are empty"
    if weights.dtype != np.float32:
        return f"its weights {name} are {weights.dtype.name}, not float32"
    if x is None or x.shape is None or len(x.shape) < 2:
        return "its input is not known to have two dimensions or more"
    if x.dtype != np.float32:
        return f"its input is {x.dtype.name}, not float32"
    return None


def _matmul(node: Node, view: View) -> Edit | str | None:
    x, name = node.inputs
    weights = view.constant(name)
    if weights is None and view.constant(x) is not None:
        return f"its constant {x} stands on the left"
    reason = weights_refused(view.value(x), weights, name)
    if reason or weights is None:
        return reason
    w_name = view.fresh(f"{node.name}.weights")
    new = _linear(node.name, (x, w_name, ""), node.outputs[0])
    transposed = contiguous(weights.T)
    return Edit((node,), (new,), initializers={w_name: transposed}, reason=_shape(transposed))


def _gemm(node: Node, view: View) -> Edit | str | None:
    x, name = node.inputs[:2]
    weights = view.constant(name)
    alpha, beta = (float(node.attributes.get(k, 1.0)) for k in ("alpha", "beta"))
    reason = weights_refused(view.value(x), weights, name)
    if reason or weights is None:
        return reason
    if node.attributes.get("transA", 0):
        return f"it transposes its input {x} (transA)"
    if alpha == 0:
        return "alpha is 0, which would lose NaN and infinity"
    rows = weights if node.attributes.get("transB", 0) else weights.T
    scaled = rows if alpha == 1 else rows * np.float32(alpha)
    constants = {view.fresh(f"{node.name}.weights"): contiguous(scaled)}
    if node.attributes.get("transB", 0) and alpha == 1:
        constants = {name: weights} if weights.flags.c_contiguous else constants
    w_name = next(iter(constants))
    c_name = node.inputs[2] if len(node.inputs) > 2 and beta != 0 else ""
    if not c_name:
        new = _linear(node.name, (x, w_name, ""), node.outputs[0])
        return Edit((node,), (new,), initializers=constants, reason=_shape(scaled))
    bias = per_output(view.constant(c_name), len(scaled))
    if bias is None:
        return _with_add(node, view, constants, c_name) if beta == 1 else _odd(c_name, beta)
    plain = beta == 1 and bias.shape == view.graph.initializers[c_name].shape
    b_name = c_name if plain else view.fresh(f"{node.name}.bias")
    constants[b_name] = bias if beta == 1 else bias * np.float32(beta)
    new = _linear(node.name, (x, w_name, b_name), node.outputs[0])
    return Edit((node,), (new,), initializers=constants, reason=_shape(scaled))


def per_output(array: Array | None, outputs: int) -> Array | None:
    """A float32 constant that broadcasts over the last dimension only, as a vector [outputs]."""
    if array is None or array.dtype != np.float32 or array.size not in (1, outputs):
        return None
    if array.ndim and array.size > 1 and array.shape[-1] != outputs:
        return None
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (outputs,)))


def _with_add(node: Node, view: View, constants: dict[str, Array], c_name: str) -> Edit | str:
    """A Linear without bias, and C added after it."""
    result = view.value(node.outputs[0])
    if result is None:
        return "its result has no known type"
    hidden = view.fresh(f"{node.name}.product")
    new = _linear(node.name, (node.inputs[0], next(iter(constants)), ""), hidden)
    add = Node(view.fresh_node(f"{node.name}.add"), "Add", (hidden, c_name), node.outputs)
    value = Value(hidden, result.dtype, result.shape)
    return Edit(
        (node,), (new, add), {hidden: value}, constants, reason=f"{c_name} is added on its own"
    )


def _odd(c_name: str, beta: float) -> str:
    return f"its C ({c_name}) is not a constant over the outputs, and beta is {beta:g}"


def _shape(weights: Array) -> str:
    return f"weights[{weights.shape[0]}, {weights.shape[1]}]"


LINEAR = Rewrite(
    "linear",
    "turns Gemm and MatMul with constant weights into Linear",
    _at,
    frozenset({"Gemm", "MatMul"}),
)
