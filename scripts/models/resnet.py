"""ResNet-50 v1.5: bottlenecks of 1x1, 3x3 and 1x1, where the 3x3 carries the stride."""

from __future__ import annotations

import onnx

from scripts.models.picture_net import Filter, PictureNet, Pictures, finish, start

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Inner channels at width 1, bottlenecks, and the stride of the first."""

EXPANSION = 4
"""Outputs of a bottleneck to its inner channels."""

GAIN = 0.3
"""Of the last normalisation of a bottleneck, so that sixteen sums do not overflow."""


def resnet50(asked: Pictures = Pictures()) -> onnx.ModelProto:  # noqa: B008 (frozen)
    """`input`[N, 3, H, W] -> `logits`[N, classes]."""
    net = start(asked)
    x = net.conv("input", "conv1", Filter(asked.channels(64), 7, 2), dense=True)
    x = net.same("Relu", x)
    x = net.same("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    for number, (inner, bottlenecks, stride) in enumerate(STAGES, start=1):
        for place in range(bottlenecks):
            block = net.within(f"layer{number}.{place}")
            x = _bottleneck(block, x, asked.channels(inner), 1 if place else stride)
    net.classify(x, "logits")
    return finish(net, "resnet50")


def _bottleneck(net: PictureNet, x: str, inner: int, stride: int) -> str:
    y = net.same("Relu", net.conv(x, "conv1", Filter(inner)))
    y = net.same("Relu", net.conv(y, "conv2", Filter(inner, 3, stride)))
    y = net.conv(y, "conv3", Filter(EXPANSION * inner, gain=GAIN))
    if stride > 1 or net.channels[x] != net.channels[y]:
        x = net.conv(x, "downsample", Filter(EXPANSION * inner, stride=stride))
    return net.same("Relu", net.same("Add", y, x))
