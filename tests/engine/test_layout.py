"""Networks whose images have their channels last, as TensorFlow's exports do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from rewritten import activations, floats, ops, reasons, unchanged
from small_models import model, node

from engine import reference
from engine.reader import graph_of
from engine.rewrites import rewrite

FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]
X = {"x": ["batch", 6, 7, 4]}


def first(x: str, y: str) -> onnx.NodeProto:
    return node("Transpose", x, y, perm=FIRST)


def last(x: str, y: str) -> onnx.NodeProto:
    return node("Transpose", x, y, perm=LAST)


def conv(x: str, w: str, y: str, **attributes: Any) -> list[onnx.NodeProto]:
    """A Conv of images with channels last, as an exporter writes it."""
    given = {"auto_pad": "SAME_UPPER", **attributes}
    return [first(x, f"{y}.a"), node("Conv", f"{y}.a {w}", f"{y}.b", **given), last(f"{y}.b", y)]


W = {"w": floats(4, 4, 3, 3), "w1": floats(4, 4, 1, 1), "v": floats(4), "wide": floats(1, 1, 1, 4)}


def test_a_residual_block_keeps_one_transpose_at_each_end() -> None:
    nodes = [
        *conv("x", "w", "c"),
        node("Add", "c v", "d"),
        node("Relu", "d", "e"),
        *conv("e", "w", "f", strides=[2, 2]),
        node("Mul", "f wide", "g"),
        *conv("e", "w1", "h", strides=[2, 2]),
        node("Add", "g h", "i"),
        node("Relu", "i", "y"),
    ]
    after, _ = unchanged(model(nodes, X, "y", W))
    convs = [n for n in ops(after) if n == "colonnade.Conv"]
    assert ops(after) == ["Transpose", *convs[:2], "Slice", *convs[2:], "Transpose"]
    assert len(convs) == 3
    assert after.nodes[0].inputs == ("x",) and after.nodes[-1].outputs == ("y",)
    assert activations(after) == ["Relu", "Relu"]


def test_scales_of_the_input_move_behind_its_transpose() -> None:
    nodes = [
        node("Sub", "x v", "a"),
        node("Div", "a wide", "b"),
        node("Pad", "b pads", "c"),
        *conv("c", "w", "d", auto_pad="VALID"),
        node("Clip", "d zero six", "y"),
    ]
    constants = {**W, "pads": [0, 1, 2, 0, 0, 1, 0, 0], "zero": 0.0, "six": 6.0}
    after, _ = unchanged(model(nodes, X, "y", constants))
    assert ops(after) == ["Transpose", "Sub", "colonnade.Conv", "Transpose"]
    assert after.nodes[2].attributes["pads"] == (1, 2, 1, 0)


def test_a_gate_of_one_pixel() -> None:
    nodes = [
        *conv("x", "w", "c"),
        node("ReduceMean", "c", "m", axes=[1, 2]),
        *conv("m", "w1", "n"),
        node("Relu", "n", "o"),
        *conv("o", "w1", "p"),
        node("Sigmoid", "p", "s"),
        node("Mul", "c s", "g"),
        node("ReduceMean", "g", "t", axes=[1, 2], keepdims=0),
        node("MatMul", "t dense", "y"),
    ]
    after, _ = unchanged(model(nodes, X, "y", {**W, "dense": floats(4, 3)}))
    convs = ["colonnade.Conv"]
    pools = ["GlobalAveragePool"]
    expected = ["Transpose", *convs, *pools, *convs * 2, "Mul", *pools, "Flatten"]
    assert ops(after) == [*expected, "colonnade.Linear"]


def test_a_gate_that_is_reshaped_to_one_pixel() -> None:
    nodes = [
        *conv("x", "w", "c"),
        node("ReduceMean", "c", "m", axes=[1, 2], keepdims=0),
        node("MatMul", "m dense", "h"),
        node("Reshape", "h pixel", "s"),
        node("Mul", "c s", "y"),
    ]
    constants = {**W, "dense": floats(4, 4), "pixel": [0, 1, 1, 4]}
    after, _ = unchanged(model(nodes, X, "y", constants))
    expected = ["Transpose", "colonnade.Conv", "GlobalAveragePool", "Flatten", "colonnade.Linear"]
    assert ops(after) == [*expected, "Reshape", "Mul", "Transpose"]
    mul = after.nodes[-2]
    assert [after.values[n].shape for n in mul.inputs] == [("N", 4, 6, 7), ("N", 4, 1, 1)]


@pytest.mark.parametrize("shaper", ["Flatten", "Reshape", "Squeeze"])
def test_a_flattened_image_before_a_linear(shaper: str) -> None:
    head = {
        "Flatten": [node("Flatten", "c", "f")],
        "Reshape": [node("Reshape", "c flat", "f")],
        "Squeeze": [
            node("ReduceMax", "c", "m", axes=[1, 2]),
            node("Squeeze", "m axes", "f"),
        ],
    }[shaper]
    nodes = [*conv("x", "w", "c"), *head, node("Gemm", "f dense v", "y")]
    many = 4 if shaper == "Squeeze" else 4 * 6 * 7
    constants = {**W, "dense": floats(many, 4), "flat": [-1, many], "axes": [1, 2]}
    after, _ = unchanged(model(nodes, X, "y", constants))
    assert ops(after)[:2] == ["Transpose", "colonnade.Conv"]
    assert ops(after)[2:].count("Transpose") == 0 and ops(after)[-1] == "colonnade.Linear"


MOVES: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], int]] = {
    "Concat of two": ([node("Concat", "c e", "h", axis=2)], {}, 0),
    "Max": ([node("Max", "c e", "h")], {}, 0),
    "Pad": ([node("Pad", "c pads", "h")], {"pads": [0, 1, 0, 2, 0, 0, 3, 0]}, 0),
    "PRelu": ([node("PRelu", "c v", "h")], {}, 0),
    "Resize": (
        [node("Resize", "c - scales", "h", mode="nearest")],
        {"scales": [1.0, 2.0, 3.0, 1.0]},
        0,
    ),
    "Resize to": (
        [node("Resize", "c - - sizes", "h", mode="linear")],
        {"sizes": [3, 12, 5, 4]},
        0,
    ),
    "Slice": (
        [node("Slice", "c starts ends axes", "h")],
        {"starts": [1, 0], "ends": [5, -1], "axes": [2, -1]},
        0,
    ),
    "Softmax": ([node("Softmax", "c", "h", axis=-1)], {}, 0),
    "Upsample": ([node("Upsample", "c scales", "h")], {"scales": [1.0, 2.0, 1.0, 1.0]}, 9),
    "ReduceMean": ([node("ReduceMean", "c", "h", axes=[2])], {}, 0),
    "ReduceMax of axes": ([node("ReduceMax", "c axes", "h")], {"axes": [-1, 1]}, 18),
    "Where": ([node("Less", "c e", "b"), node("Where", "b c e", "h")], {}, 0),
}


@pytest.mark.parametrize("what", MOVES)
@pytest.mark.parametrize("place", ["below", "above"])
def test_what_stands_between_moves(what: str, place: str) -> None:
    moved, constants, opset = MOVES[what]
    if place == "below":
        nodes = [*conv("x", "w", "c"), *conv("x", "w1", "e"), *moved, first("h", "y")]
    else:
        nodes = [node("Neg", "x", "c"), node("Exp", "x", "e"), *moved, first("h", "k")]
        nodes.append(node("MaxPool", "k", "y", kernel_shape=[1, 1], strides=[2, 2]))
    after, _ = unchanged(model(nodes, X, "y", {**W, **constants}, opset=opset or 17))
    assert [n.inputs[0] for n in after.nodes if n.op == "Transpose"] == ["x"]


def test_pads_of_axes_move() -> None:
    """Compared with the graph before: onnxruntime 1.32 transposes such a Pad itself, and fails."""
    nodes = [*conv("x", "w", "c"), node("Pad", "c pads zero axes", "h", mode="edge")]
    constants = {**W, "pads": [1, 2, 0, 1], "axes": [-3, 2], "zero": 0.0}
    before = graph_of(model([*nodes, first("h", "y")], X, "y", constants, opset=18))
    after, _ = rewrite(before)
    assert ops(after) == ["Transpose", "colonnade.Conv", "Pad"]
    x = floats(3, 6, 7, 4)
    found, expected = (reference.run(graph, {"x": x})["y"] for graph in (after, before))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_constant_image_joins_others() -> None:
    nodes = [*conv("x", "w", "c"), node("Add", "c image", "d"), *conv("d", "w", "y")]
    after, _ = unchanged(model(nodes, X, "y", {**W, "image": floats(6, 7, 1)}))
    assert ops(after) == ["Transpose", "colonnade.Conv", "Add", "colonnade.Conv", "Transpose"]


def test_parts_move_each_on_its_own() -> None:
    nodes = [
        *conv("x", "w", "c"),
        node("Split", "c", "h i", axis=-1),
        first("h", "y"),
        node("Neg", "i", "j"),
        first("j", "z"),
    ]
    after, _ = unchanged(model(nodes, X, "y z", W))
    channels = ["colonnade.Channels"] * 2
    assert sorted(ops(after)) == sorted(["Transpose", "colonnade.Conv", *channels, "Neg"])


def test_what_has_no_rule_stays_between_transposes() -> None:
    nodes = [
        *conv("x", "w", "c"),
        node("CumSum", "c axis", "d"),
        node("Add", "d column", "e"),
        *conv("e", "w", "f"),
        node("Reshape", "f apart", "g"),
        node("MatMul", "g dense", "y"),
    ]
    constants = {**W, "axis": 1, "column": floats(7, 1), "apart": [0, 42, 4], "dense": floats(4, 2)}
    after, log = unchanged(model(nodes, X, "y", constants))
    kept = ["Transpose", "colonnade.Conv", "Transpose"]
    assert ops(after) == [
        *kept,
        "CumSum",
        "Transpose",
        "Add",
        *kept[1:],
        "Reshape",
        "colonnade.Linear",
    ]
    assert "takes the pixels of f apart" in reasons(log, "layout")


def test_graphs_without_convolutions_are_left_alone() -> None:
    nodes = [last("x", "a"), node("Neg", "a", "b"), first("b", "y")]
    after, _ = unchanged(model(nodes, {"x": ["N", 4, 6, 7]}, "y"))
    assert ops(after) == ["Transpose", "Neg", "Transpose"]


def test_a_transpose_that_others_read_stays_for_them() -> None:
    nodes = [*conv("x", "w", "c"), node("Neg", "c", "d"), *conv("d", "w", "y")]
    after, _ = unchanged(model(nodes, X, "y c", W))
    assert ops(after).count("Transpose") == 3 and ops(after).count("Neg") == 1
    assert np.count_nonzero([n.op == "Conv" for n in after.nodes]) == 2
