"""ConvTranspose as a Conv of phases, DepthToSpace, and what joins them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewritten import activations, floats, ops, reasons, unchanged
from small_models import Array, model, node

from engine import reference
from engine.reader import graph_of
from engine.rewrites import rewrite
from engine.rows import mixes_rows

PAIR = ["colonnade.Conv", "colonnade.DepthToSpace"]
X = {"x": ["batch", 4, 5, 6]}


@st.composite
def transposed(draw: st.DrawFn) -> onnx.ModelProto:
    """A ConvTranspose of one or two dimensions that has at least one output."""
    rank = draw(st.integers(1, 2))
    few = st.integers(1, 3)
    group, each, outputs = (draw(few) for _ in range(3))
    kernel, strides, dilations, size = ([draw(few) for _ in range(rank)] for _ in range(4))
    more = [draw(st.integers(0, s - 1)) for s in strides]  # what onnxruntime takes
    axes = zip(size, strides, kernel, dilations, more, strict=True)
    whole = [(n - 1) * s + (k - 1) * d + 1 + m for n, s, k, d, m in axes]
    before = [draw(st.integers(0, min(3, (w - 1) // 2))) for w in whole]
    after = [draw(st.integers(0, min(3, (w - 1) // 2))) for w in whole]
    attributes: dict[str, Any] = {"group": group, "strides": strides, "dilations": dilations}
    attributes |= {"output_padding": more}
    # else onnxruntime's result is smaller, and onnx is not sure of it
    reached = not any(more) and all(
        w >= n * s for w, n, s in zip(whole, size, strides, strict=True)
    )
    same = ["SAME_UPPER", "SAME_LOWER"] if reached else []
    padding = draw(st.sampled_from(["pads", "pads", "output_shape", *same]))
    if padding == "pads":
        attributes["pads"] = [*before, *after]
    elif padding == "output_shape":
        # of results smaller than x onnx infers no shape
        each_size = zip(size, whole, strict=True)
        attributes["output_shape"] = [draw(st.integers(n, w)) for n, w in each_size]
    else:
        attributes["auto_pad"] = padding
    constants = {"w": floats(group * each, outputs, *kernel)}
    names = "x w"
    if draw(st.booleans()):
        constants["b"], names = floats(group * outputs), "x w b"
    inputs = {"x": ["batch", group * each, *size]}
    return model([node("ConvTranspose", names, "y", **attributes)], inputs, "y", constants)


@settings(max_examples=200, deadline=None)
@given(transposed())
def test_any_conv_transpose_means_what_onnxruntime_computes(proto: onnx.ModelProto) -> None:
    after, _ = unchanged(proto)
    assert ops(after) == PAIR
    assert all(mixes_rows(n, after) is None for n in after.nodes)
    conv, space = after.nodes
    assert min(conv.attributes["pads"]) >= 0 and conv.attributes["strides"] == (1, 1)
    found = reference.run(after, {"x": floats(1, *map(int, after.inputs[0].shape[1:]))})["y"]
    assert found.shape[1:] == after.values["y"].shape[1:]
    block = int(np.prod(space.attributes["block"]))
    before = graph_of(proto).initializers["w"]
    weights: Array = after.initializers[conv.inputs[1]]
    assert len(weights) == block * before.shape[1] * conv.attributes["group"]
    assert np.count_nonzero(weights) <= np.count_nonzero(before)


def test_a_norm_and_an_activation_join_the_conv() -> None:
    """Upsampling as in decoders: kernel 4, stride 2, one pixel of padding."""
    nodes = [
        node("ConvTranspose", "x w", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c g g g g", "n"),
        node("Mul", "n two", "m"),
        node("Clip", "m zero", "y"),
    ]
    constants = {"w": floats(4, 3, 4, 4), "g": np.abs(floats(3)) + np.float32(0.5)}
    after, _ = unchanged(model(nodes, X, "y", {**constants, "two": 2.0, "zero": 0.0}))
    assert ops(after) == PAIR and activations(after) == ["Clip"]


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_both_orders_of_depth_to_space(mode: str) -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("DepthToSpace", "c", "d", blocksize=2, mode=mode),
        node("Relu", "d", "y"),
    ]
    after, _ = unchanged(model(nodes, X, "y", {"w": floats(12, 4, 1, 1)}))
    if mode == "CRD":
        assert ops(after) == PAIR and activations(after) == ["Relu"]
    else:
        assert ops(after) == [PAIR[0], "colonnade.Channels", PAIR[1], "Relu"]


@pytest.mark.parametrize(
    ("conv", "inputs", "reason"),
    [
        (
            node("ConvTranspose", "x w", "c", auto_pad="SAME_UPPER", strides=[1, 3]),
            X,
            "is not of its input's size times",
        ),
        (node("ConvTranspose", "x z", "c"), {**X, "z": [4, 3, 2, 2]}, "no float32 constant"),
        (node("ConvTranspose", "x w z", "c"), {**X, "z": [3]}, "bias z is not constant"),
        (node("ConvTranspose", "x w", "c"), {"x": ["b", 4, "h", 6]}, "size of its images is not"),
    ],
)
def test_what_stays(conv: onnx.NodeProto, inputs: dict[str, Any], reason: str) -> None:
    proto = model([conv, node("Neg", "c", "y")], inputs, "y", {"w": floats(4, 3, 2, 2)})
    after, log = rewrite(graph_of(proto))
    assert ops(after) == ["ConvTranspose", "Neg"]
    assert reason in reasons(log, "conv_transpose")


@pytest.mark.parametrize(
    ("rest", "outputs", "reason"),
    [
        ([node("Relu", "c", "y")], "y c", "c is a graph output"),
        ([node("Relu", "c", "r"), node("Mul", "r v", "y")], "y", "an activation in between"),
        ([node("Mul", "c row", "y")], "y", "not over channels"),
        ([node("Add", "c image", "y")], "y", "over one dimension"),
    ],
)
def test_what_stays_behind(rest: list[onnx.NodeProto], outputs: str, reason: str) -> None:
    constants = {"w": floats(4, 3, 2, 2), "v": floats(3, 1, 1), "row": floats(12)}
    conv = node("ConvTranspose", "x w", "c", strides=[2, 2])
    proto = model([conv, *rest], X, outputs, {**constants, "image": floats(10, 12)})
    after, log = unchanged(proto)
    assert ops(after)[-1] == rest[-1].op_type
    assert reason in reasons(log, "depth_to_space")
