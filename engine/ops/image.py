"""What the operators on images mean, in numpy.

Conv        y = activations(conv(x, W) + b + r): x [N, C, H, W] or [N, C, L],
            W [M, C/group, kh, kw], b [M] or nothing, r like y or nothing;
            pads are (top, left, bottom, right) and zero
Channels    y[:, i] = x[:, order[i]]
DepthToSpace  y[:, m, i, j] = x[:, (m * bh + i % bh) * bw + j % bw, i // bh, j // bw] for a block
            (bh, bw), and for i and j below size (height, width)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.graph import Node
from engine.ops.products import Product
from engine.ops.unary import UNARY

Array = np.ndarray[Any, np.dtype[Any]]

BAND_NBYTES = 8 * 2**20
"""About how much the patches of a band of rows take: each pixel is in kh * kw of them."""


def conv(
    node: Node,
    x: Array,
    weights: Array,
    bias: Array | None = None,
    rest: Array | None = None,
    multiply: Product = np.matmul,
) -> Array:
    """Image by image and band by band, so that an image has the same bytes in any batch."""
    top, left, bottom, right = node.attributes["pads"]
    images = x if x.ndim == 4 else x[:, :, None]
    padded = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = _windows(padded, weights.shape[2:], node)
    height, width = windows.shape[2:4]
    y = np.empty((len(x), len(weights), height, width), x.dtype)
    step = max(1, BAND_NBYTES // max(1, windows[:1, :, :1].nbytes))
    for image, first in np.ndindex(len(x), -(-height // step)):
        band = slice(first * step, (first + 1) * step)
        y[image, :, band] = _product(windows[image, :, band], weights, node, multiply)
    if x.ndim == 3:
        y = y[:, :, 0]
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * (x.ndim - 2))
    if rest is not None:
        y = y + rest
    for op, a, b in node.attributes["activations"]:
        y = UNARY[op].numpy(y, a, b)
    return y


def _windows(padded: Array, kernel: tuple[int, ...], node: Node) -> Array:
    """What each output pixel sees, as a view [N, C, height, width, kh, kw]."""
    steps, gaps = node.attributes["strides"], node.attributes["dilations"]
    spans = tuple((k - 1) * gap + 1 for k, gap in zip(kernel, gaps, strict=True))
    every = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    return every[:, :, :: steps[0], :: steps[1], :: gaps[0], :: gaps[1]]


def _product(windows: Array, weights: Array, node: Node, multiply: Product) -> Array:
    """[C, height, width, kh, kw] times the weights of each group: [M, height, width]."""
    group, (outputs, *each) = node.attributes["group"], weights.shape
    pixels = windows.shape[1:3]
    taps = int(np.prod(each))
    patches = windows.transpose(0, 3, 4, 1, 2).reshape(group, taps, -1)
    y = multiply(weights.reshape(group, outputs // group, taps), patches)
    return y.reshape(outputs, *pixels)


def channels(node: Node, x: Array) -> Array:
    return x[:, list(node.attributes["order"])]


def depth_to_space(node: Node, x: Array) -> Array:
    (high, wide), (height, width) = node.attributes["block"], node.attributes["size"]
    images = x if x.ndim == 4 else x[:, :, None]
    rows, _, *each = images.shape
    apart = images.reshape(rows, -1, high, wide, *each).transpose(0, 1, 4, 2, 5, 3)
    y = apart.reshape(rows, -1, each[0] * high, each[1] * wide)[:, :, :height, :width]
    return np.ascontiguousarray(y if x.ndim == 4 else y[:, :, 0])


IMAGE: dict[str, Callable[..., Array]] = {
    "Channels": channels,
    "Conv": conv,
    "DepthToSpace": depth_to_space,
}
