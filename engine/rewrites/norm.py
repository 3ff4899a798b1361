"""A BatchNormalization that no weights could take in becomes arithmetic that has kernels.

    s * x + t   =   conv(x, W) + t        of images: W[C, 1, 1, 1] = s, in C groups
    s * x + t   =   Add(Mul(x, s), t)     of a table x[N, C]

Networks that normalize before they convolve are full of these; as Convs they take in the
activation behind them. A scale of 0 multiplies like any other, so that NaN stays NaN.
"""

from __future__ import annotations

import numpy as np

from engine.graph import NATIVE, Node, Value
from engine.rewrites.affine import AFFINE_AFTER, Affine, affine_of
from engine.rewrites.conv import conv_attributes
from engine.rewrites.geometry import is_image
from engine.rewrites.rewrite import Array, Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    x, affine = view.value(node.inputs[0]), affine_of(node, view, zeros=True)
    if x is None or x.shape is None or len(node.writes) != 1 or not x.has_rows:
        return None
    table = len(x.shape) == 2 and x.dtype == np.float32 and isinstance(x.shape[1], int)
    if not table and not is_image(x, view):
        return None
    if not isinstance(affine, Affine):
        return affine
    if isinstance(AFFINE_AFTER.at(node, view), Edit):
        return None  # the next sweep folds it
    channels = int(x.shape[1])
    with np.errstate(all="ignore"):
        scale, shift = (
            np.ascontiguousarray(np.broadcast_to(a, channels), np.float32)
            for a in (affine.scale, affine.shift)
        )
    if not np.isfinite(scale).all() or not np.isfinite(shift).all():
        return "its scale or shift would leave the range of float32"
    make = _of_features if table else _of_channels
    return make(node, x, scale, shift, view)


def _of_channels(node: Node, x: Value, scale: Array, shift: Array, view: View) -> Edit:
    names = [view.fresh(f"{node.name}.{what}") for what in ("weights", "bias")]
    attributes = conv_attributes(group=len(scale))
    new = Node(node.name, "Conv", (x.name, *names, ""), node.outputs, NATIVE, attributes)
    constants = dict(zip(names, (scale.reshape(-1, 1, 1, 1), shift), strict=True))
    reason = f"{len(scale)} channels on their own"
    return Edit((node,), (new,), initializers=constants, reason=reason)


def _of_features(node: Node, x: Value, scale: Array, shift: Array, view: View) -> Edit:
    names = [view.fresh(f"{node.name}.{what}") for what in ("scale", "shift", "scaled")]
    mul = Node(view.fresh_node(names[2]), "Mul", (x.name, names[0]), (names[2],))
    add = Node(node.name, "Add", (names[2], names[1]), node.outputs)
    constants = dict(zip(names, (scale, shift), strict=False))
    values = {names[2]: Value(names[2], x.dtype, x.shape)}
    return Edit((node,), (mul, add), values, constants, reason=f"{len(scale)} features")


NORM = Rewrite(
    "norm",
    "turns a BatchNormalization that stands alone into a Conv of each channel, or Mul and Add",
    _at,
    frozenset({"BatchNormalization"}),
)
