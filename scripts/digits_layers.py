"""Layers of small networks in numpy, forward and backward, and how they stand in ONNX.

Pictures are x[rows, height, width, channels] here, because a window's channels then lie side by
side; ONNX's are [rows, channels, height, width], so weights are turned round when written. A layer
keeps what it saw in `forward` until `backward` has used it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from onnx import NodeProto, helper

Array = np.ndarray[Any, np.dtype[np.float32]]

WINDOW = 3
"""Pixels a side of a convolution's window; one row and column of padding keep the size."""


class Layer(Protocol):
    """One operator of a chain."""

    def forward(self, x: Array) -> Array: ...

    def backward(self, slope: Array) -> Array:
        """From the loss's slope over the output to that over the input."""
        ...

    def node(self, x: str, y: str, name: str) -> NodeProto:
        """From the value x to the value y; weights are NAME.weight and NAME.bias."""
        ...


@dataclass(slots=True)
class Weights:
    """W[M, K] and b[M] of a layer, which weights may still live, and Adam's memory of them."""

    w: Array
    b: Array
    prunable: bool = True
    mask: Array = field(init=False)
    gradients: list[Array] = field(init=False)
    """Over w and b, since the last `backward`."""
    moments: list[tuple[Array, Array]] = field(init=False)
    """Adam's running mean and square of the gradients."""

    def __post_init__(self) -> None:
        self.mask = np.ones_like(self.w)
        self.gradients = [np.zeros_like(p) for p in (self.w, self.b)]
        self.moments = [(np.zeros_like(p), np.zeros_like(p)) for p in (self.w, self.b)]

    @classmethod
    def drawn(
        cls, k: int, m: int, random: np.random.Generator, *, prunable: bool = True
    ) -> Weights:
        """He's initialization: variance 2/K for layers that end in ReLU."""
        w = (random.standard_normal((m, k)) * np.sqrt(2 / k)).astype(np.float32)
        return cls(w, np.zeros(m, np.float32), prunable)

    def step(self, scale: np.float32, shrink: np.float32) -> None:
        """One step of Adam over `gradients`; weights that were cut stay zero."""
        for p, g, moments in zip((self.w, self.b), self.gradients, self.moments, strict=True):
            mean, square = moments
            mean += np.float32(0.1) * (g - mean)
            square += np.float32(0.001) * (g * g - square)
            p *= shrink
            p -= scale * mean / (np.sqrt(square) + np.float32(1e-8))
        self.w *= self.mask

    def prune(self, sparsity: float) -> None:
        """Cut the smallest weights, by magnitude, until `sparsity` are zero."""
        if not self.prunable:
            return
        count = int(np.ceil(sparsity * self.w.size))
        smallest = np.argpartition(np.abs(self.w), count - 1, axis=None)[:count]
        self.mask.flat[smallest] = 0  # zeros are the smallest, so what was cut is cut again
        self.w *= self.mask


@dataclass(slots=True)
class Dense:
    """x[rows, K] -> y[rows, M]"""

    weights: Weights
    x: Array = field(init=False)

    def forward(self, x: Array) -> Array:
        self.x = x
        y: Array = x @ self.weights.w.T + self.weights.b
        return y

    def backward(self, slope: Array) -> Array:
        self.weights.gradients = [slope.T @ self.x, slope.sum(axis=0)]
        down: Array = slope @ self.weights.w
        return down

    def node(self, x: str, y: str, name: str) -> NodeProto:
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Gemm", inputs, [y], name, transB=1)

    def onnx_weight(self) -> Array:
        return self.weights.w


@dataclass(slots=True)
class Conv:
    """x[rows, H, W, C] -> y[rows, ceil(H / stride), ceil(W / stride), M], windows of 3x3.

    The K of its weights are (down, across, channel), in this order.
    """

    weights: Weights
    stride: int = 1
    shape: tuple[int, ...] = field(init=False)
    """Of the padded input."""
    windows: Array = field(init=False)
    """[rows * pixels of y, K]"""

    def forward(self, x: Array) -> Array:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        self.shape = padded.shape
        windows = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW), axis=(1, 2))
        windows = windows[:, :: self.stride, :: self.stride].transpose(0, 1, 2, 4, 5, 3)
        self.windows = windows.reshape(-1, self.weights.w.shape[1])
        y = self.windows @ self.weights.w.T + self.weights.b
        return y.reshape(*windows.shape[:3], -1)

    def backward(self, slope: Array) -> Array:
        rows, height, width, m = slope.shape
        flat = slope.reshape(-1, m)
        self.weights.gradients = [flat.T @ self.windows, flat.sum(axis=0)]
        parts = (flat @ self.weights.w).reshape(rows, height, width, WINDOW, WINDOW, -1)
        down = np.zeros(self.shape, np.float32)
        s = self.stride
        for dy, dx in np.ndindex(WINDOW, WINDOW):
            down[:, dy : dy + s * height : s, dx : dx + s * width : s] += parts[:, :, :, dy, dx]
        return down[:, 1:-1, 1:-1]

    def node(self, x: str, y: str, name: str) -> NodeProto:
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        kernel, strides = [WINDOW] * 2, [self.stride] * 2
        return helper.make_node(
            "Conv", inputs, [y], name, kernel_shape=kernel, pads=[1] * 4, strides=strides
        )

    def onnx_weight(self) -> Array:
        """W[M, C, 3, 3]"""
        m = len(self.weights.b)
        return self.weights.w.reshape(m, WINDOW, WINDOW, -1).transpose(0, 3, 1, 2)


@dataclass(slots=True)
class Relu:
    y: Array = field(init=False)

    def forward(self, x: Array) -> Array:
        self.y = np.maximum(x, 0, out=x)
        return self.y

    def backward(self, slope: Array) -> Array:
        down: Array = slope * (self.y > 0)
        return down

    def node(self, x: str, y: str, name: str) -> NodeProto:
        return helper.make_node("Relu", [x], [y], name)


@dataclass(slots=True)
class MaxPool:
    """x[rows, H, W, C] -> y[rows, H / 2, W / 2, C]; a slope goes to each place of the maximum."""

    largest: np.ndarray[Any, np.dtype[np.bool_]] = field(init=False)
    """[rows, H / 2, 2, W / 2, 2, C]"""

    def forward(self, x: Array) -> Array:
        rows, height, width, channels = x.shape
        squares = x.reshape(rows, height // 2, 2, width // 2, 2, channels)
        y: Array = squares.max(axis=(2, 4), keepdims=True)
        self.largest = squares == y
        return y.reshape(rows, height // 2, width // 2, channels)

    def backward(self, slope: Array) -> Array:
        down: Array = slope[:, :, None, :, None] * self.largest
        rows, height, _, width, _, channels = down.shape
        return down.reshape(rows, 2 * height, 2 * width, channels)

    def node(self, x: str, y: str, name: str) -> NodeProto:
        return helper.make_node("MaxPool", [x], [y], name, kernel_shape=[2, 2], strides=[2, 2])


@dataclass(slots=True)
class Flatten:
    """x[rows, H, W, C] -> y[rows, C * H * W], in ONNX's order."""

    shape: tuple[int, ...] = field(init=False)

    def forward(self, x: Array) -> Array:
        turned = x.transpose(0, 3, 1, 2)
        self.shape = turned.shape
        return turned.reshape(len(x), -1)

    def backward(self, slope: Array) -> Array:
        return slope.reshape(self.shape).transpose(0, 2, 3, 1)

    def node(self, x: str, y: str, name: str) -> NodeProto:
        return helper.make_node("Flatten", [x], [y], name, axis=1)
