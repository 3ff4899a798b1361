"""MobileNetV1: a convolution, thirteen pairs of depthwise and pointwise ones, all with ReLU6."""

from __future__ import annotations

import onnx

from scripts.models.picture_net import Filter, PictureNet, Pictures, finish, start

PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5)
PAIRS += ((1024, 2), (1024, 1))
"""Outputs of each pair at width 1, and the stride of its depthwise half."""


def mobilenet(asked: Pictures = Pictures()) -> onnx.ModelProto:  # noqa: B008 (frozen)
    """`input`[N, 3, H, W] -> `logits`[N, classes]."""
    net = start(asked)
    x = _relu6(net, net.conv("input", "conv", Filter(asked.channels(32), 3, 2), dense=True))
    for number, (outputs, stride) in enumerate(PAIRS, start=1):
        pair, width = net.within(f"pair{number}"), net.channels[x]
        x = pair.conv(x, "depthwise", Filter(width, 3, stride, groups=width), dense=True)
        x = _relu6(pair, x)
        x = _relu6(pair, pair.conv(x, "pointwise", Filter(asked.channels(outputs))))
    net.classify(x, "logits")
    return finish(net, "mobilenet")


def _relu6(net: PictureNet, x: str) -> str:
    return net.same("Clip", x, net.write.floats(0), net.write.floats(6))
