"""A BatchNormalization that no weights could take in becomes a Conv of one pixel a channel.

    s * x + t   =   conv(x, W) + t        W[C, 1, 1, 1] = s, in C groups

Networks that normalize before they convolve are full of these; as Convs they take in the
activation behind them.
"""

from __future__ import annotations

import numpy as np

from engine.graph import NATIVE, Node
from engine.rewrites.affine import AFFINE_AFTER, Affine, affine_of
from engine.rewrites.conv import conv_attributes
from engine.rewrites.geometry import is_image
from engine.rewrites.rewrite import Edit, Rewrite, View


def _at(node: Node, view: View) -> Edit | str | None:
    x, affine = view.value(node.inputs[0]), affine_of(node, view)
    if x is None or x.shape is None or not is_image(x, view) or len(node.writes) != 1:
        return None
    if not isinstance(affine, Affine):
        return affine
    if isinstance(AFFINE_AFTER.at(node, view), Edit):
        return None  # the next sweep folds it
    channels = int(x.shape[1])
    scale, shift = (np.broadcast_to(a, channels) for a in (affine.scale, affine.shift))
    with np.errstate(all="ignore"):
        weights, bias = np.float32(scale).reshape(-1, 1, 1, 1), np.float32(shift)
    if not np.isfinite(weights).all() or not np.isfinite(bias).all():
        return "its scale or shift would leave the range of float32"
    names = [view.fresh(f"{node.name}.{what}") for what in ("weights", "bias")]
    attributes = conv_attributes(group=channels)
    new = Node(node.name, "Conv", (x.name, *names, ""), node.outputs, NATIVE, attributes)
    constants = dict(
        zip(names, (np.ascontiguousarray(weights), np.ascontiguousarray(bias)), strict=True)
    )
    return Edit((node,), (new,), initializers=constants, reason=f"{channels} channels on their own")


NORM = Rewrite(
    "norm",
    "turns a BatchNormalization of images that stands alone into a Conv of each channel",
    _at,
    frozenset({"BatchNormalization"}),
)
