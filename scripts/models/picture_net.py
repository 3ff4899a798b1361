"""What convolutional networks are written with: convolutions and normalisations, random weights.

All are NCHW and padded alike on both sides, as PyTorch's exporter writes them. Weights are drawn
while the graph is written, so one seed and one size give one model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from scripts.models.writer import Array, Writer
from scripts.models.zeros import zero

OPSET = 17
EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is asked of a network: ImageNet's sizes unless told otherwise."""

    resolution: int = 224
    """Height and width of a picture, in pixels."""
    width: float = 1.0
    """Times the channels of every layer."""
    classes: int = 1000
    sparsity: float = 0.9
    """Share of zeros in every layer but the first and the depthwise ones, 0..1."""
    seed: int = 0
    blocks: bool = False
    """Zeros in row blocks of 4 outputs by 1 input."""
    folded: bool = False
    """Normalisations are part of the convolutions, as exporters of finished models leave them;
    otherwise they are BatchNormalization nodes, as in a model that may train on."""

    def channels(self, channels: int) -> int:
        """Those of a layer that has `channels` at width 1: a multiple of 8, at least 8."""
        return max(8, round(channels * self.width / 8) * 8)


@dataclass(frozen=True, slots=True)
class Filter:
    """A convolution's size."""

    outputs: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    gain: float = 1.0
    """Of the normalisation after it: below 1 where residual sums would grow."""


@dataclass(frozen=True, slots=True)
class PictureNet:
    """One scope of a network that is being written. Values are NCHW."""

    asked: Pictures
    write: Writer
    random: np.random.Generator
    channels: dict[str, int]
    """Of each value so far that a convolution may read."""

    def within(self, name: str) -> PictureNet:
        return replace(self, write=self.write.within(name))

    def conv(self, x: str, name: str, size: Filter, *, dense: bool = False) -> str:
        """Convolution and normalisation; `dense` keeps every weight."""
        inputs = self.channels[x] // size.groups
        w = self._weights((size.outputs, inputs, size.kernel, size.kernel), dense)
        scale, shift, mean, variance = self._statistics(size)
        net = self.within(name)
        constants = {"weight": w}
        if self.asked.folded:
            factor = scale / np.sqrt(variance + np.float32(EPSILON))
            constants = {"weight": w * factor[:, None, None, None], "bias": shift - mean * factor}
        y = net.write.op(
            "Conv",
            x,
            *net.constants(constants),
            dilations=[1, 1],
            group=size.groups,
            kernel_shape=[size.kernel] * 2,
            pads=[size.kernel // 2] * 4,
            strides=[size.stride] * 2,
        )
        if not self.asked.folded:
            statistics = {"scale": scale, "shift": shift, "mean": mean, "variance": variance}
            net = self.within(f"{name}.norm")
            y = net.write.op("BatchNormalization", y, *net.constants(statistics), epsilon=EPSILON)
        self.channels[y] = size.outputs
        return y

    def same(self, kind: str, x: str, *more: str, **attributes: Any) -> str:
        """An operator that keeps the channels of x: activation, pooling, sum."""
        y = self.write.op(kind, x, *more, **attributes)
        self.channels[y] = self.channels[x]
        return y

    def classify(self, x: str, output: str) -> None:
        """Mean of each channel, then one linear layer: x[N, C, H, W] -> output[N, classes]."""
        shape = (self.asked.classes, self.channels[x])
        pooled = self.write.op("Flatten", self.write.op("GlobalAveragePool", x), axis=1)
        net = self.within("fc")
        bias = self.random.standard_normal(shape[0], np.float32) * np.float32(0.1)
        w = net.constants({"weight": self._weights(shape), "bias": bias})
        net.write.op("Gemm", pooled, *w, output=output, transB=1)

    def constants(self, arrays: dict[str, Array]) -> list[str]:
        """Initializers named after this scope, in order."""
        scope = self.write.scope.strip("/").replace("/", ".")
        return [self.write.weight(f"{scope}.{name}", array) for name, array in arrays.items()]

    def _weights(self, shape: tuple[int, ...], dense: bool = False) -> Array:
        """[M, ...] that keep the mean square of activations through a ReLU: exactly
        round(sparsity * size) are zero, at places drawn at random."""
        share, inputs = 0.0 if dense else self.asked.sparsity, int(np.prod(shape[1:]))
        kept = max(1 - share, 1 / inputs)
        w = self.random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / inputs / kept))
        zero(w.reshape(shape[0], inputs), share, self.asked.blocks and not dense, self.random)
        return w

    def _statistics(self, size: Filter) -> list[Array]:
        """Scale, shift, mean and variance[M] of a normalisation that was trained a little."""

        def around(middle: float, spread: float) -> Array:
            drawn = self.random.standard_normal(size.outputs, np.float32) * np.float32(spread)
            return drawn + np.float32(middle)

        drawn = [around(1, 0.1) * np.float32(size.gain), around(0, 0.1), around(0, 0.1)]
        return [*drawn, np.abs(around(1, 0.1))]


def start(asked: Pictures) -> PictureNet:
    """An empty network; its picture is the value `input`[N, 3, H, W]."""
    random = np.random.default_rng(asked.seed)
    return PictureNet(asked, Writer(OPSET), random, {"input": 3})


def finish(net: PictureNet, name: str) -> onnx.ModelProto:
    """`input`[N, 3, H, W] -> `logits`[N, classes], both float32, checked."""
    asked = net.asked
    picture: list[str | int | None] = ["N", 3, asked.resolution, asked.resolution]
    graph = helper.make_graph(
        net.write.nodes,
        f"{name}_s{round(asked.sparsity * 100):02d}",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, picture)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", asked.classes])],
        list(net.write.initializers.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
