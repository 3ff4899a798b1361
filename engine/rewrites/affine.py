"""Constant scales and shifts beside a Linear go into its weights and bias.

    after:   s * (W @ x + b) + t   =  (s * W) @ x + (s * b + t)        s, t over the outputs
    before:  W @ (s * x + t) + b   =  (W * s) @ x + (W @ t + b)        s, t over the inputs

Add, Sub, Mul, Div by a constant and BatchNormalization in inference are such nodes. Zero weights
stay zero, so sparsity is kept. A scale of 0 is refused, because 0 * NaN is NaN and would be lost;
so is a fold that overflows or flushes a weight to 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.graph import NATIVE, Node
from engine.ops.plain import training
from engine.ops.products import folded_einsum
from engine.rewrites.linear import linear_node
from engine.rewrites.rewrite import Array, Edit, Rewrite, View

MAX_SHIFT = 128.0
"""Largest shift, relative to the scaled input, to move before a product.

W @ x - W @ t loses what x - t does not: about this many times float32's 6e-8 of the result."""


@dataclass(frozen=True, slots=True)
class Affine:
    """y = scale * source + shift, over the last dimension (float64 vectors, or of one element)."""

    source: str
    scale: Array
    shift: Array


def affine_of(node: Node, view: View) -> Affine | str | None:
    """The node as an Affine; a reason where it is one that cannot be folded; None otherwise."""
    if node.domain or not node.outputs[0]:
        return None
    if node.op == "BatchNormalization":
        found = _batch_normalization(node, view)
    elif node.op in ("Add", "Sub", "Mul", "Div"):
        found = _arithmetic(node, view)
    else:
        return None
    if not isinstance(found, Affine):
        return found
    if not (np.isfinite(found.scale).all() and np.isfinite(found.shift).all()):
        return "its constants are not finite"
    if not found.scale.all():
        return "its scale has a 0, which would lose NaN and infinity"
    return found


def _arithmetic(node: Node, view: View) -> Affine | str | None:
    left, right = (view.constant(n) for n in node.inputs)
    if (left is None) == (right is None) or (node.op == "Div" and left is not None):
        return None
    source = node.inputs[0] if left is None else node.inputs[1]
    constant = right if left is None else left
    before, after = view.value(source), view.value(node.outputs[0])
    if constant is None or before is None or after is None or not before.shape:
        return "its shapes are not known"
    width = before.shape[-1]
    wide = constant.size > 1 and (constant.shape[-1] != constant.size or constant.size != width)
    if wide or before.shape != after.shape or before.dtype != np.float32:
        return (
            f"its constant {constant.dtype.name}{list(constant.shape)} is no float32 scalar or "
            f"vector over the last dimension of {list(before.shape)}"
        )
    c, one, zero = constant.reshape(-1).astype(np.float64), np.ones(1), np.zeros(1)
    with np.errstate(all="ignore"):
        match node.op:
            case "Add":
                return Affine(source, one, c)
            case "Sub":
                return Affine(source, one, -c) if left is None else Affine(source, -one, c)
            case "Mul":
                return Affine(source, c, zero)
            case _:
                return Affine(source, 1 / c, zero)


def _batch_normalization(node: Node, view: View) -> Affine | str | None:
    if training(node, view.graph.opsets.get("", 1)):
        return "it is in training mode"
    before = view.value(node.inputs[0])
    if before is None or before.shape is None or before.dtype != np.float32:
        return "its input is not known to be float32"
    if len(before.shape) != 2:
        return f"it normalizes dimension 1 of {list(before.shape)}, not the last"
    found = [view.constant(n) for n in node.inputs[1:5]]
    parameters = [a.astype(np.float64) for a in found if a is not None]
    if len(parameters) < 4:
        return "its parameters are not constant"
    gamma, beta, mean, variance = parameters
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + float(np.float32(node.attributes.get("epsilon", 1e-5))))
        return Affine(node.inputs[0], scale, beta - scale * mean)


def _after(node: Node, view: View) -> Edit | str | None:
    """The node reads a Linear's result."""
    linear = _sole_linear(node, view)
    if linear is None:
        return None
    affine = affine_of(node, view)
    if not isinstance(affine, Affine):
        return affine
    reason = view.shared(affine.source)
    if reason:
        return reason
    if linear.attributes["activations"]:
        return f"{linear.name} has an activation in between"
    weights, bias = _parameters(linear, view)
    scale = np.broadcast_to(affine.scale, len(weights))
    return _folded(
        (linear, node),
        view,
        weights * scale[:, None] if np.any(scale != 1) else weights,
        bias * scale + affine.shift,
    )


def _sole_linear(node: Node, view: View) -> Node | None:
    for name in node.inputs:
        producer = view.producer(name)
        if producer is not None and (producer.domain, producer.op) == (NATIVE, "Linear"):
            return producer
    return None


def _before(node: Node, view: View) -> Edit | str | None:
    """The node is a Linear; scales and shifts before it are folded all at once.

    At once, because whether a shift is large shows only beside the scale that follows it."""
    chain: list[Node] = []
    scale, shift = np.ones(1), np.zeros(1)
    source, refusal = node.inputs[0], None
    while (producer := view.producer(source)) is not None:
        affine = affine_of(producer, view)
        refusal = affine if isinstance(affine, str) else refusal
        if not isinstance(affine, Affine):
            break
        refusal = view.shared(source)
        if refusal:
            break
        scale, shift = affine.scale * scale, shift + scale * affine.shift
        chain.append(producer)
        source = affine.source
    if not chain:
        return refusal
    largest = float(np.abs(shift).max())
    if largest > MAX_SHIFT:
        return f"its input is shifted by {largest:.4g}, which would cost precision in a product"
    weights, bias = _parameters(node, view)
    wide = np.broadcast_to(shift, weights.shape[1])
    shifted = bias + folded_einsum("mk,k->m", weights, wide)
    folded = _folded((*chain, node), view, weights * scale, shifted)
    if isinstance(folded, str):
        return folded
    (new,) = folded.inserts
    moved = linear_node(new.name, (source, new.inputs[1], new.inputs[2]), new.outputs[0], node)
    return Edit(folded.removes, (moved,), {}, folded.initializers, {}, folded.reason)


def _parameters(linear: Node, view: View) -> tuple[Array, Array]:
    """W[M, K] as it is, b[M] in float64 (zeros where there is none)."""
    weights, bias = view.constant(linear.inputs[1]), view.constant(linear.inputs[2])
    if weights is None:
        raise AssertionError(f"{linear.name}: a Linear has constant weights")
    return weights, np.zeros(len(weights)) if bias is None else bias.astype(np.float64)


def _folded(removes: tuple[Node, ...], view: View, weights: Array, bias: Array) -> Edit | str:
    """The Linear among `removes` with other weights and bias, if float32 can hold them."""
    linear = next(n for n in removes if n.op == "Linear")
    old = view.graph.initializers[linear.inputs[1]]
    with np.errstate(all="ignore"):
        new, b = np.ascontiguousarray(weights, np.float32), bias.astype(np.float32)
    lossless = np.count_nonzero(new) == np.count_nonzero(old)
    if not lossless or not np.isfinite(b).all() or not np.isfinite(new).all():
        return "its weights or bias would leave the range of float32"
    names = [linear.inputs[1], _own(linear, "bias", view)]
    initializers = {names[1]: b}
    if new is not old:
        names[0] = _own(linear, "weights", view)
        initializers[names[0]] = new
    node = linear_node(
        linear.name, (linear.inputs[0], names[0], names[1]), removes[-1].outputs[0], linear
    )
    others = ", ".join(n.name for n in removes if n is not linear)
    return Edit(removes, (node,), initializers=initializers, reason=f"took in {others}")


def _own(linear: Node, what: str, view: View) -> str:
    """The name for a constant of this node alone: its own from an earlier fold, or a new one."""
    name = f"{linear.name}.{what}"
    return name if name in linear.inputs and not view.shared(name) else view.fresh(name)


AFFINE_AFTER = Rewrite(
    "affine_after",
    "folds a bias, scale or BatchNormalization after a Linear into it",
    _after,
    frozenset({"Add", "Sub", "Mul", "Div", "BatchNormalization"}),
)
AFFINE_BEFORE = Rewrite(
    "affine_before",
    "folds scales and shifts before a Linear into it",
    _before,
    frozenset({f"{NATIVE}.Linear"}),
)
