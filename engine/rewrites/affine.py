"""Constant scales and shifts beside a Linear or a Conv go into its weights and bias.

    after:   s * (W @ x + b) + t   =  (s * W) @ x + (s * b + t)        s, t over the outputs
    before:  W @ (s * x + t) + b   =  (W * s) @ x + (W @ t + b)        s, t over the inputs

Add, Sub, Mul, Div by a constant and BatchNormalization in inference are such nodes. Zero weights
stay zero, so sparsity is kept. A scale of 0 is refused, because 0 * NaN is NaN and would be lost;
so is a fold that overflows or flushes a weight to 0. A Conv pads with zeros behind the shift, so
that a shift before it is folded only where it has no padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.graph import Node, Shape
from engine.mapped import release
from engine.ops.plain import training
from engine.rewrites.rewrite import Array, Edit, Rewrite, View
from engine.rewrites.weighted import LABELS, Weighted, weighted

MAX_SHIFT = 128.0
"""Largest shift, relative to the scaled input, to move before a product.

W @ x - W @ t loses what x - t does not: about this many times float32's 6e-8 of the result."""


@dataclass(frozen=True, slots=True)
class Affine:
    """y = scale * source + shift, over one dimension (float64 vectors, or of one element)."""

    source: str
    scale: Array
    shift: Array
    axis: int | None
    """The dimension of source that the vectors follow; None where they are single numbers."""


def affine_of(node: Node, view: View, *, zeros: bool = False) -> Affine | str | None:
    """The node as an Affine; a reason where it is one that cannot be folded; None otherwise.

    Scales of 0 only for whoever will multiply by them (`zeros`)."""
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
    if not zeros and not found.scale.all():
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
    axes = _axes(constant.shape, before.shape)
    if len(axes) > 1 or before.shape != after.shape or before.dtype != np.float32:
        return (
            f"its constant {constant.dtype.name}{list(constant.shape)} is no float32 scalar or "
            f"vector over one dimension of {list(before.shape)}"
        )
    c, one, zero = constant.reshape(-1).astype(np.float64), np.ones(1), np.zeros(1)
    axis = axes[0] if axes else None
    with np.errstate(all="ignore"):
        match node.op:
            case "Add":
                return Affine(source, one, c, axis)
            case "Sub" if left is None:
                return Affine(source, one, -c, axis)
            case "Sub":
                return Affine(source, -one, c, axis)
            case "Mul":
                return Affine(source, c, zero, axis)
            case _:
                return Affine(source, 1 / c, zero, axis)


def _axes(shape: tuple[int, ...], beside: Shape) -> list[int]:
    """The dimensions of `beside` that a constant of this shape follows, broadcast from behind."""
    front = len(beside) - len(shape)
    return [front + i for i, size in enumerate(shape) if size != 1]


def _batch_normalization(node: Node, view: View) -> Affine | str | None:
    if training(node, view.graph.opsets.get("", 1)):
        return "it is in training mode"
    before = view.value(node.inputs[0])
    if before is None or before.shape is None or before.dtype != np.float32:
        return "its input is not known to be float32"
    if len(before.shape) < 2:
        return f"it normalizes dimension 1 of {list(before.shape)}"
    found = [view.constant(n) for n in node.inputs[1:5]]
    parameters = [a.astype(np.float64) for a in found if a is not None]
    if len(parameters) < 4:
        return "its parameters are not constant"
    gamma, beta, mean, variance = parameters
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + float(np.float32(node.attributes.get("epsilon", 1e-5))))
        return Affine(node.inputs[0], scale, beta - scale * mean, 1)


def _after(node: Node, view: View) -> Edit | str | None:
    """The node reads the result of a Linear or Conv."""
    producers = (view.producer(name) for name in node.inputs)
    before = next((w for p in producers if (w := weighted(p, view)) is not None), None)
    if before is None:
        return None
    affine = affine_of(node, view)
    if not isinstance(affine, Affine):
        return affine
    reason = view.shared(affine.source) or _misfit(affine, before, view)
    if reason:
        return reason
    if before.node.attributes["activations"]:
        return f"{before.node.name} has an activation in between"
    scaled = bool(np.any(affine.scale != 1))
    if scaled and before.rest:
        return f"{before.node.name} adds {before.rest} in between"
    scale = np.broadcast_to(affine.scale, len(before.weights))
    weights = before.weights * before.over_outputs(scale) if scaled else before.weights
    bias = before.bias * scale + affine.shift
    return _folded(before, (before.node, node), view, before.node.inputs[0], weights, bias)


def _before(node: Node, view: View) -> Edit | str | None:
    """The node is a Linear or Conv; scales and shifts before it are folded all at once.

    At once, because whether a shift is large shows only beside the scale that follows it."""
    after = weighted(node, view)
    assert after is not None
    chain: list[Node] = []
    scale, shift = np.ones(1), np.zeros(1)
    source, refusal = node.inputs[0], None
    while (producer := view.producer(source)) is not None:
        affine = affine_of(producer, view)
        if not isinstance(affine, Affine):
            refusal = affine or refusal
            break
        refusal = view.shared(source) or _misfit(affine, after, view)
        if not refusal and source == after.rest:
            refusal = f"{node.name} adds {source}, too"
        if not refusal and after.padded and np.any(affine.shift):
            refusal = f"{node.name} pads with zeros, which {producer.name} would shift"
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
    bias = after.bias + after.of_constant(shift)
    return _folded(
        after, (*chain, node), view, source, after.weights * after.over_inputs(scale), bias
    )


def _misfit(affine: Affine, beside: Weighted, view: View) -> str | None:
    """Why scales over this dimension are none over the inputs or outputs of the weights."""
    value = view.value(affine.source)
    if value is None or value.shape is None:
        return f"the shape of {affine.source} is not known"
    axis = beside.axis(value)
    if affine.axis in (None, axis):
        return None
    return f"it differs along dimension {affine.axis} of {list(value.shape)}, not along {axis}"


def _folded(
    old: Weighted,
    removes: tuple[Node, ...],
    view: View,
    source: str,
    weights: Array,
    bias: Array,
) -> Edit | str:
    """The Linear or Conv among `removes` with other weights and bias, if float32 can hold them."""
    node = old.node
    with np.errstate(all="ignore"):
        b = bias.astype(np.float32)
    names = [node.inputs[1], _own(node, "bias", view)]
    initializers = {names[1]: b}
    fits = bool(np.isfinite(b).all())
    if weights is not old.weights:  # otherwise nobody looks at them: they may lie in a file
        with np.errstate(all="ignore"):
            new = np.ascontiguousarray(weights, np.float32)
        lossless = np.count_nonzero(new) == np.count_nonzero(old.weights)
        fits = fits and lossless and bool(np.isfinite(new).all())
        release(old.weights)
        names[0] = _own(node, "weights", view)
        initializers[names[0]] = new
    if not fits:
        return "its weights or bias would leave the range of float32"
    inputs = (source, *names, *node.inputs[3:])
    folded = replace(node, inputs=inputs, outputs=removes[-1].outputs)
    others = ", ".join(n.name for n in removes if n is not node)
    return Edit(removes, (folded,), initializers=initializers, reason=f"took in {others}")


def _own(node: Node, what: str, view: View) -> str:
    """The name for a constant of this node alone: its own from an earlier fold, or a new one."""
    name = f"{node.name}.{what}"
    return name if name in node.inputs and not view.shared(name) else view.fresh(name)


AFFINE_AFTER = Rewrite(
    "affine_after",
    "folds a bias, scale or BatchNormalization after a Linear or Conv into it",
    _after,
    frozenset({"Add", "Sub", "Mul", "Div", "BatchNormalization"}),
)
AFFINE_BEFORE = Rewrite(
    "affine_before",
    "folds scales and shifts before a Linear or Conv into it",
    _before,
    LABELS,
)
