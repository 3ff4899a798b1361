"""What stands between the convolutions of a network: pads, pools, norms, channels, gates."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from rewritten import activations, floats, ops, reasons, unchanged
from small_models import model, node

from engine.reader import graph_of
from engine.rewrites import rewrite

X = {"x": ["batch", 4, 6, 7]}
PADS = [0, 0, 1, 2, 0, 0, 2, 1]


def weights(*shape: int) -> dict[str, Any]:
    return {"w": floats(*shape), "pads": PADS}


# --- zeros around images


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_zeros_before_a_conv_are_its_pads(opset: int) -> None:
    given = {"pads": PADS} if opset < 11 else {}
    pad = node("Pad", "x" if given else "x pads", "h", **given)
    constants = weights(3, 4, 3, 3)
    if opset == 18:
        pad = node("Pad", "x pads zero axes", "h")
        constants |= {"pads": [1, 2, 2, 1], "zero": 0.0, "axes": [-2, 3]}
    nodes = [pad, node("Conv", "h w", "y", pads=[1, 0, 0, 0])]
    after, _ = unchanged(model(nodes, X, "y", constants, opset=opset))
    assert ops(after) == ["colonnade.Conv"]
    assert after.nodes[0].attributes["pads"] == (2, 2, 2, 1)


def test_every_conv_takes_the_zeros_in_and_others_still_read_them() -> None:
    nodes = [
        node("Pad", "x pads", "h"),
        node("Conv", "h w", "y"),
        node("Conv", "h w", "z", strides=[2, 2]),
    ]
    constants = weights(3, 4, 3, 3)
    after, _ = unchanged(model(nodes, X, "y z", constants))
    assert ops(after) == ["colonnade.Conv"] * 2
    kept, _ = unchanged(model([*nodes, node("Neg", "h", "n")], X, "y z n", constants))
    assert ops(kept) == ["Pad", "colonnade.Conv", "colonnade.Conv", "Neg"]
    assert [n.inputs[0] for n in kept.nodes] == ["x", "x", "x", "h"]


@pytest.mark.parametrize("counted", [0, 1])
def test_zeros_before_an_average_are_pads_that_count(counted: int) -> None:
    kernel = {"kernel_shape": [4, 3], "count_include_pad": counted}
    own = [1, 0, 0, 1] if counted else [0, 0, 0, 0]
    nodes = [node("Pad", "x pads", "h"), node("AveragePool", "h", "y", pads=own, **kernel)]
    after, _ = unchanged(model(nodes, X, "y", {"pads": PADS}))
    assert ops(after) == ["AveragePool"]
    assert after.nodes[0].attributes["pads"] == [1 + own[0], 2, 2, 1 + own[3]]


def test_zeros_before_a_maximum_of_what_is_never_below() -> None:
    pool = node("MaxPool", "h", "y", kernel_shape=[3, 3], strides=[2, 2])
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Pad", "r pads", "h"), pool]
    after, _ = unchanged(model(nodes, X, "y", weights(3, 4, 1, 1)))
    assert ops(after) == ["colonnade.Conv", "MaxPool"]
    signed, log = unchanged(model([node("Pad", "x pads", "h"), pool], X, "y", {"pads": PADS}))
    assert ops(signed) == ["Pad", "MaxPool"]
    assert "x may be below zero" in reasons(log, "padding")


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Pad", "x pads", "h", mode="edge"), node("Conv", "h w", "y")], "not pad with zeros"),
        ([node("Pad", "x pads one", "h"), node("Conv", "h w", "y")], "does not pad with zeros"),
        ([node("Pad", "x wide", "h"), node("Conv", "h w5", "y")], "pads other dimensions"),
        (
            [node("Pad", "x pads", "h"), node("AveragePool", "h", "y", kernel_shape=[2, 3])],
            "as large as its kernel [2, 3]",
        ),
        (
            [
                node("Pad", "x pads", "h"),
                node("AveragePool", "h", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            ],
            "pads of its own, which it does not count",
        ),
        (
            [
                node("Pad", "x pads", "h"),
                node("AveragePool", "h", "y", kernel_shape=[4, 4], strides=[2, 2], ceil_mode=1),
            ],
            "rounds the number of its windows up",
        ),
    ],
)
def test_pads_that_stay(nodes: list[onnx.NodeProto], reason: str) -> None:
    constants = {**weights(3, 4, 3, 3), "one": 1.0, "w5": floats(3, 5, 3, 3)}
    constants |= {"wide": [0, 0, 0, 0, 0, 1, 0, 0]}
    after, log = unchanged(model(nodes, X, "y", constants))
    assert "Pad" in ops(after)
    assert reason in reasons(log, "padding")


def test_a_pad_before_pads_that_are_not_worked_out_stays() -> None:
    pool = node("AveragePool", "h", "y", kernel_shape=[3, 3], auto_pad="SAME_UPPER")
    before = graph_of(model([node("Pad", "x pads", "h"), pool], X, "y", {"pads": PADS}))
    after, log = rewrite(before, frozenset({"pooling"}))
    assert ops(after) == ["Pad", "AveragePool"]
    assert "its own pads follow its input's size" in reasons(log, "padding")


def test_a_pad_that_cuts_stays() -> None:
    constants = {"w": floats(3, 4, 3, 3), "pads": [0, 0, -1, 0, 0, 0, 0, 0]}
    nodes = [node("Pad", "x pads", "h"), node("Conv", "h w", "y")]
    after, log = rewrite(graph_of(model(nodes, X, "y", constants)))
    assert ops(after) == ["Pad", "colonnade.Conv"]
    assert "or cuts" in reasons(log, "padding")


# --- pools of all pixels, norms that stand alone, spelled out activations


@pytest.mark.parametrize(
    ("pool", "opset"),
    [
        (node("ReduceMean", "x", "h", axes=[2, 3]), 13),
        (node("ReduceMean", "x axes", "h"), 18),
        (node("ReduceMax", "x", "h", axes=[3, -2], keepdims=0), 13),
        (node("ReduceMean", "x axes", "h", keepdims=0), 18),
        (node("AveragePool", "x", "h", kernel_shape=[6, 7]), 13),
        (node("MaxPool", "x", "h", kernel_shape=[6, 7], strides=[6, 7]), 13),
    ],
)
def test_pools_of_all_pixels_have_one_spelling(pool: onnx.NodeProto, opset: int) -> None:
    proto = model([pool, node("Neg", "h", "y")], X, "y", {"axes": [-1, 2]}, opset=opset)
    after, _ = unchanged(proto)
    drops = any(a.name == "keepdims" for a in pool.attribute)
    kind = "Max" if "Max" in pool.op_type else "Average"
    assert ops(after) == [f"Global{kind}Pool", *["Flatten"] * drops, "Neg"]


@pytest.mark.parametrize(
    "pool",
    [
        node("ReduceMean", "x", "y", axes=[3]),
        node("AveragePool", "x", "y", kernel_shape=[6, 6]),
        node("AveragePool", "x", "y", kernel_shape=[6, 7], pads=[0, 0, 1, 0]),
    ],
)
def test_other_pools_stay(pool: onnx.NodeProto) -> None:
    after, _ = unchanged(model([pool], X, "y"))
    assert ops(after) == [pool.op_type]


def test_lines_are_pooled_only_behind_a_conv() -> None:
    mean = node("ReduceMean", "h", "y", axes=[2])
    nodes, x = [node("Conv", "x w", "h"), mean], {"x": ["batch", 4, 9]}
    after, _ = unchanged(model(nodes, x, "y", {"w": floats(3, 4, 2)}))
    assert ops(after) == ["colonnade.Conv", "GlobalAveragePool"]
    other, _ = unchanged(model([node("Neg", "x", "h"), mean], x, "y"))
    assert ops(other) == ["Neg", "ReduceMean"]


def test_a_norm_that_stands_alone_is_a_conv_of_each_channel() -> None:
    """As in networks that normalize before they convolve: x + conv(relu(norm(x)))."""
    nodes = [
        node("BatchNormalization", "x g b m v", "n"),
        node("Relu", "n", "r"),
        node("Conv", "r w", "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c g b m v", "d"),
        node("Add", "d x", "y"),
    ]
    one = {k: np.abs(floats(4)) + np.float32(0.1) for k in "gbmv"}
    after, _ = unchanged(model(nodes, X, "y", {**one, "w": floats(4, 4, 3, 3)}))
    assert ops(after) == ["colonnade.Conv"] * 2
    first, second = after.nodes
    assert first.attributes["group"] == 4 and activations(after) == ["Relu"]
    assert second.inputs[3] == "x"


def test_a_norm_with_a_scale_of_zero_keeps_what_is_not_finite() -> None:
    """Channels that pruning took out."""
    one = {k: np.abs(floats(4)) + np.float32(0.1) for k in "gbmv"}
    one["g"][1] = 0
    nodes = [node("Conv", "x w", "c"), node("BatchNormalization", "c g b m v", "y")]
    after, _ = unchanged(model(nodes, X, "y", {**one, "w": floats(4, 4, 1, 1)}))
    assert ops(after) == ["colonnade.Conv"] * 2


def test_a_norm_of_a_table_is_arithmetic() -> None:
    one = {k: np.abs(floats(4)) + np.float32(0.1) for k in "gbmv"}
    alone = node("BatchNormalization", "x g b m v", "n")
    proto = model([alone, node("Relu", "n", "y")], {"x": ["N", 4]}, "y", one)
    after, _ = unchanged(proto)
    assert ops(after) == ["Mul", "Add", "Relu"]


@pytest.mark.parametrize(
    "spelling",
    [
        [node("Div", "c six", "y")],
        [node("Mul", "c sixth", "y")],
    ],
)
def test_a_hard_sigmoid_spelled_out_joins_the_conv(spelling: list[onnx.NodeProto]) -> None:
    nodes = [
        node("Conv", "x w", "h"),
        node("Add", "h three", "a"),
        node("Clip", "a zero six", "c"),
        *spelling,
    ]
    numbers = {"three": 3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6}
    after, _ = unchanged(model(nodes, X, "y", {**weights(3, 4, 1, 1), **numbers}))
    assert ops(after) == ["colonnade.Conv"] and activations(after) == ["HardSigmoid"]


# --- channels


def orders(proto: onnx.ModelProto) -> list[tuple[int, ...]]:
    after, _ = unchanged(proto)
    assert set(ops(after)) == {"colonnade.Channels"}
    return [n.attributes["order"] for n in after.nodes]


def test_a_split_takes_channels() -> None:
    proto = model([node("Split", "x", "y z", axis=1)], X, "y z")
    assert orders(proto) == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    ("starts", "ends", "steps", "order"),
    [(1, 3, 1, (1, 2)), (-1, -5, -1, (3, 2, 1, 0)), (0, 2**40, 2, (0, 2))],
)
def test_a_slice_takes_channels(starts: int, ends: int, steps: int, order: tuple[int, ...]) -> None:
    constants = {"starts": [starts], "ends": [ends], "axes": [1], "steps": [steps]}
    proto = model([node("Slice", "x starts ends axes steps", "y")], X, "y", constants)
    assert orders(proto) == [order]


def test_a_gather_takes_channels() -> None:
    proto = model([node("Gather", "x i", "y", axis=1)], X, "y", {"i": [2, -1, 0, 0]})
    assert orders(proto) == [(2, 3, 0, 0)]


def shuffle(groups: int, of: int, x: str, y: str) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    nodes = [
        node("Reshape", f"{x} {y}1", f"{y}a"),
        node("Transpose", f"{y}a", f"{y}b", perm=[0, 2, 1, 3, 4]),
        node("Reshape", f"{y}b {y}2", y),
    ]
    return nodes, {f"{y}1": [0, groups, of // groups, 6, 7], f"{y}2": [0, of, 6, 7]}


def test_a_shuffle_and_what_follows_take_channels_once() -> None:
    nodes, constants = shuffle(2, 6, "x", "h")
    proto = model(
        [*nodes, node("Split", "h", "y z", axis=1)], {"x": ["N", 6, 6, 7]}, "y z", constants
    )
    assert orders(proto) == [(0, 3, 1), (4, 2, 5)]


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("axis", [2, -1])
def test_a_split_of_rows_or_pixels_is_slices(axis: int, opset: int) -> None:
    given = {"split": [2, 6]} if opset < 13 else {}
    split = node("Split", "x", "y z", axis=axis, **given)
    after, _ = unchanged(model([split], {"x": ["batch", 4, 8, 8]}, "y z", opset=opset))
    assert ops(after) == ["Slice", "Slice"]


def test_channels_that_are_not_images_stay() -> None:
    flat, _ = unchanged(model([node("Split", "x", "y z", axis=1)], {"x": ["N", 4, 6]}, "y z"))
    assert ops(flat) == ["Split"]


# --- sizes


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_resize_to_sizes_is_one_by_scales(mode: str) -> None:
    """The sizes count the rows of a batch, too, and so are computed."""
    nodes = [
        node("Shape", "x", "s"),
        node("Slice", "s zero two", "rows"),
        node("Concat", "rows sizes", "t", axis=0),
        node("Resize", "x - - t", "y", mode=mode),
    ]
    constants = {"zero": [0], "two": [2], "sizes": [15, 7]}
    after, _ = unchanged(model(nodes, X, "y", constants))
    assert ops(after) == ["Resize"] and len(after.nodes[0].inputs) == 3


def test_a_resize_that_no_scales_give_stays() -> None:
    nodes = [node("Resize", "x - - t", "y", keep_aspect_ratio_policy="not_larger")]
    proto = model(nodes, {"x": [5, 4, 6, 7]}, "y", {"t": [5, 4, 12, 12]}, opset=18)
    after, log = rewrite(graph_of(proto))
    assert len(after.nodes[0].inputs) == 4 and "keeps the aspect" in reasons(log, "static_shape")


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_pads_of_pools_are_worked_out(op: str, auto: str) -> None:
    pool = node(op, "x", "y", kernel_shape=[3, 2], strides=[2, 1], auto_pad=auto)
    after, _ = unchanged(model([pool], X, "y"))
    assert after.nodes[0].attributes["auto_pad"] == "NOTSET"
    upper = auto == "SAME_UPPER"
    assert after.nodes[0].attributes["pads"] == ([0, 0, 1, 1] if upper else [1, 1, 0, 0])


def test_a_sum_of_many_is_added_one_by_one() -> None:
    convs = [node("Conv", f"x w{i}", f"c{i}") for i in range(3)]
    nodes = [*convs, node("Sum", "c0 c1 c2 x", "s"), node("Relu", "s", "y")]
    after, _ = unchanged(model(nodes, X, "y", {f"w{i}": floats(4, 4, 1, 1) for i in range(3)}))
    assert ops(after) == [*["colonnade.Conv"] * 3, "Add", "Relu"]
    broadcast = [node("Sum", "x row", "y")]
    other, log = unchanged(model(broadcast, X, "y", {"row": floats(7)}))
    assert ops(other) == ["Sum"] and "not known to have one shape" in reasons(log, "arithmetic")
