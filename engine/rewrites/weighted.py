"""Linear and Conv seen alike: constant weights W[M, ...], a bias[M], outputs along one dimension.

A Linear's W[M, K] is a Conv's W[M, C/group, kh, kw] of one group and one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.graph import NATIVE, Node, Value
from engine.ops.products import folded_einsum
from engine.rewrites.rewrite import Array, View

LABELS = frozenset({f"{NATIVE}.Conv", f"{NATIVE}.Linear"})


@dataclass(frozen=True, slots=True)
class Weighted:
    """A Linear or a Conv with its constants."""

    node: Node
    weights: Array
    """float32, W[M, K] or W[M, C/group, kh, kw]."""
    bias: Array
    """float64[M]; zeros where there is none."""

    def axis(self, value: Value) -> int:
        """The dimension of x or y along which its inputs or outputs lie."""
        return 1 if self.node.op == "Conv" else len(value.shape or ()) - 1

    def over_outputs(self, vector: Array) -> Array:
        """vector[M], or one number, as it is multiplied with the weights."""
        spread = np.broadcast_to(vector, len(self.weights))
        return spread.reshape(-1, *(1,) * (self.weights.ndim - 1))

    def over_inputs(self, vector: Array) -> Array:
        """vector[C], or one number, as it is multiplied with the weights; groups see their own."""
        group, (outputs, each, *space) = self._group, self.weights.shape
        if group == 1 or vector.size == 1:
            return vector.reshape(1, -1, *(1 for _ in space))
        spread = np.repeat(vector.reshape(group, each), outputs // group, axis=0)
        return spread.reshape(outputs, each, *(1 for _ in space))

    def of_constant(self, vector: Array) -> Array:
        """W @ x for an x that is vector[C], or one number, at every pixel."""
        group, (outputs, each, *_) = self._group, self.weights.shape
        weights = self.weights.reshape(group, outputs // group, each, -1)
        spread = np.broadcast_to(vector, group * each).reshape(group, each)
        return folded_einsum("gmck,gc->gm", weights, spread).reshape(outputs)

    @property
    def _group(self) -> int:
        return int(self.node.attributes.get("group", 1))

    @property
    def padded(self) -> bool:
        """Whether zeros stand around x."""
        return any(self.node.attributes.get("pads", ()))

    @property
    def rest(self) -> str:
        """What is added to the result, beside the bias."""
        return self.node.inputs[3] if len(self.node.inputs) > 3 else ""


def weighted(node: Node | None, view: View) -> Weighted | None:
    """The node with its constants, if it is a Linear or a Conv."""
    if node is None or node.label not in LABELS:
        return None
    weights, bias = view.constant(node.inputs[1]), view.constant(node.inputs[2])
    if weights is None:
        raise AssertionError(f"{node.name}: a {node.op} has constant weights")
    return Weighted(
        node, weights, np.zeros(len(weights)) if bias is None else bias.astype(np.float64)
    )
