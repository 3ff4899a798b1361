"""Small networks of the families that are pruned and run: one or two blocks of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from rewritten import floats
from small_models import Array, model, node

Nodes = list[onnx.NodeProto]


class Net:
    """Nodes one after another, each with constants of its own."""

    def __init__(self, *size: int) -> None:
        self.size, self.channels = size, size[0]
        self.nodes: Nodes = []
        self.constants: dict[str, Any] = {}
        self.at = "x"

    def add(self, op: str, *others: str, of: str = "", **attributes: Any) -> str:
        """A node that reads `of`, or else the last result; its name is its result's."""
        name = f"v{len(self.nodes)}"
        inputs = " ".join((of or self.at, *others))
        self.nodes.append(node(op, inputs, name, name=f"{op}_{name}", **attributes))
        self.at = name
        return name

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def conv(self, outputs: int, kernel: int = 1, bias: bool = False, **attributes: Any) -> str:
        """Padded so that the image keeps its size; a tenth of the weights is zero."""
        group = attributes.get("group", 1)
        shape = (outputs, self.channels // group, kernel, kernel)
        weights = floats(*shape) / np.float32(np.sqrt(np.prod(shape[1:])))
        kept: Array = weights * (np.abs(weights) > np.quantile(np.abs(weights), 0.1))
        names = [self.constant(kept), *([self.constant(floats(outputs))] if bias else [])]
        attributes.setdefault("pads", [kernel // 2] * 4)
        self.channels = outputs
        return self.add("Conv", *names, **attributes)

    def norm(self) -> str:
        many = self.channels
        positive = np.abs(floats(many)) + np.float32(0.5)
        values = (positive, floats(many), floats(many), positive)
        return self.add("BatchNormalization", *map(self.constant, values))

    def conv_norm(self, outputs: int, kernel: int = 1, then: str = "", **attributes: Any) -> str:
        self.conv(outputs, kernel, **attributes)
        self.norm()
        return self.add(then) if then else self.at

    def gate(self, squeezed: int, then: str) -> str:
        """Channels times what a small network makes of their means."""
        x, many = self.at, self.channels
        self.add("GlobalAveragePool")
        self.conv(squeezed, bias=True)
        self.add("Relu")
        self.conv(many, bias=True)
        self.add(then)
        return self.add("Mul", x)

    def head(self, outputs: int) -> onnx.ModelProto:
        self.add("GlobalAveragePool")
        self.add("Flatten")
        weights = self.constant(floats(self.channels, outputs))
        self.add("Gemm", weights, self.constant(floats(outputs)))
        return self.model()

    def model(self, opset: int = 17) -> onnx.ModelProto:
        return model(self.nodes, {"x": ["batch", *self.size]}, self.at, self.constants, opset)


def resnet() -> onnx.ModelProto:
    net = Net(3, 17, 16)
    net.conv_norm(8, 7, "Relu", strides=[2, 2])
    x = net.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    net.conv_norm(4, 1, "Relu")
    net.conv_norm(4, 3, "Relu", strides=[2, 2])
    y = net.conv_norm(16)
    net.at, net.channels = x, 8
    net.conv_norm(16, strides=[2, 2])
    net.add("Add", net.at, of=y)
    net.add("Relu")
    return net.head(5)


def mobilenet() -> onnx.ModelProto:
    """Version 2: wider, depthwise, narrower, added."""
    net = Net(3, 16, 16)
    bounds = [net.constant(0.0), net.constant(6.0)]
    net.conv_norm(8, 3, strides=[2, 2])
    x = net.add("Clip", *bounds)
    for outputs, kernel, group in ((24, 1, 1), (24, 3, 24)):
        net.conv_norm(outputs, kernel, group=group)
        net.add("Clip", *bounds)
    y = net.conv_norm(8)
    net.add("Add", y, of=x)
    return net.head(5)


def mobilenet_3() -> onnx.ModelProto:
    """Hard swishes, one of them in parts, and gates."""
    net = Net(3, 16, 16)
    x = net.conv_norm(8, 3, strides=[2, 2])
    net.add("Add", net.constant(3.0))
    net.add("Clip", net.constant(0.0), net.constant(6.0))
    net.add("Mul", x)
    net.add("Div", net.constant(6.0))
    net.conv_norm(16, 1, "HardSwish")
    net.conv_norm(16, 5, "HardSwish", group=16)
    net.gate(4, "HardSigmoid")
    net.conv_norm(8)
    return net.head(5)


def efficientnet() -> onnx.ModelProto:
    net = Net(3, 16, 16)
    for outputs, kernel, group in ((8, 3, 1), (8, 3, 8)):
        x = net.conv_norm(outputs, kernel, group=group)
        net.add("Sigmoid")
        net.add("Mul", net.at, of=x)
    net.gate(2, "Sigmoid")
    net.conv_norm(8)
    return net.head(5)


def shufflenet() -> onnx.ModelProto:
    net = Net(8, 9, 9)
    left = net.add("Slice", *map(net.constant, ([0], [4], [1])))
    net.add("Slice", *map(net.constant, ([4], [8], [1])), of="x")
    net.channels = 4
    net.conv_norm(4, 1, "Relu")
    net.conv_norm(4, 3, group=4)
    net.conv_norm(4, 1, "Relu")
    net.add("Concat", net.at, of=left, axis=1)
    net.add("Reshape", net.constant([0, 2, 4, 9, 9]))
    net.add("Transpose", perm=[0, 2, 1, 3, 4])
    net.add("Reshape", net.constant([0, -1, 9, 9]))
    net.channels = 8
    net.conv_norm(8, 1, "Relu", group=2)
    return net.head(5)


def densenet() -> onnx.ModelProto:
    """Norms before convolutions, whose results are kept beside what they read."""
    net = Net(4, 9, 9)
    for _ in range(2):
        x, channels = net.at, net.channels
        net.norm()
        net.add("Relu")
        net.conv_norm(8, 1, "Relu")
        y = net.conv(4, 3)
        net.add("Concat", y, of=x, axis=1)
        net.channels = channels + 4
    net.norm()
    net.add("Relu")
    return net.head(5)


def channels_last() -> onnx.ModelProto:
    """A residual block and a gate as TensorFlow's exporters write them."""
    net = Net(3, 16, 16)
    net.size = (16, 16, 3)
    net.add("Sub", net.constant(floats(3)))
    net.add("Mul", net.constant(1 / 127.5))
    _last(net, 8, 3, strides=[2, 2])
    x = net.add("Relu")
    _last(net, 8, 3)
    net.add("Add", x)
    y = net.add("Relu")
    net.add("ReduceMean", axes=[1, 2], keepdims=1)
    _last(net, 8)
    net.add("Sigmoid")
    net.add("Mul", y)
    net.add("ReduceMean", axes=[1, 2], keepdims=0)
    net.add("MatMul", net.constant(floats(8, 5)))
    net.add("Softmax")
    return net.model(13)


def _last(net: Net, outputs: int, kernel: int = 1, **attributes: Any) -> str:
    net.add("Transpose", perm=[0, 3, 1, 2])
    net.conv(outputs, kernel, auto_pad="SAME_UPPER", pads=None, **attributes)
    net.add("Transpose", perm=[0, 2, 3, 1])
    return net.add("Add", net.constant(floats(outputs)))


def line() -> onnx.ModelProto:
    """One dimension: a signal, dilated, gated, pooled."""
    weights = {
        "w": floats(8, 3, 5),
        "w2": floats(16, 8, 3),
        "w3": floats(8, 8, 1),
        "d": floats(8, 4),
    }
    nodes = [
        node("Conv", "x w", "a", pads=[2, 2], strides=[2]),
        node("Relu", "a", "b"),
        node("Conv", "b w2", "c", pads=[2, 2], dilations=[2]),
        node("Split", "c", "f g", axis=1),
        node("Tanh", "f", "h"),
        node("Sigmoid", "g", "i"),
        node("Mul", "h i", "j"),
        node("Conv", "j w3", "k"),
        node("Add", "k b", "l"),
        node("ReduceMean", "l", "m", axes=[2], keepdims=0),
        node("MatMul", "m d", "y"),
    ]
    return model(nodes, {"x": ["batch", 3, 31]}, "y", weights)


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f
    for f in (
        channels_last,
        densenet,
        efficientnet,
        line,
        mobilenet,
        mobilenet_3,
        resnet,
        shufflenet,
    )
}
