"""Conv and what joins it: fires, refuses with its reason, and means what onnxruntime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewritten import activations, floats, ops, reasons, unchanged
from small_models import Array, model, node

from engine.reader import graph_of
from engine.rewrites import rewrite
from engine.rows import mixes_rows
from engine.work_share import multiply_adds

RNG = np.random.default_rng(1)
X = {"x": ["batch", 4, 9, 10]}


def channels(count: int) -> dict[str, Array]:
    """What a BatchNormalization of so many channels reads, and vectors to scale and shift with."""
    wide = (1, count, 1, 1)
    return {
        "g": floats(count),
        "b": floats(count),
        "mu": floats(count),
        "va": np.abs(floats(count)) + np.float32(0.5),
        "v": floats(*wide),
        "v3": floats(*wide[1:]),
        "s": floats(),
    }


# --- Conv


@st.composite
def convolutions(draw: st.DrawFn) -> onnx.ModelProto:
    """A Conv of one or two dimensions that has at least one output."""
    rank = draw(st.integers(1, 2))
    few = st.integers(1, 3)
    group, each, outputs = (draw(few) for _ in range(3))
    kernel, strides, dilations = ([draw(few) for _ in range(rank)] for _ in range(3))
    pads = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    attributes: dict[str, Any] = {"group": group, "strides": strides, "dilations": dilations}
    auto = draw(st.sampled_from(["", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto:
        attributes["auto_pad"] = auto
    if auto.startswith("SAME"):  # onnxruntime has no SAME with dilation
        attributes["dilations"] = [1] * rank
    if auto in ("", "NOTSET"):
        attributes["pads"] = pads
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    size = [draw(st.integers(span, span + 4)) for span in spans]
    constants = {"w": floats(group * outputs, each, *kernel)}
    names = "x w"
    if draw(st.booleans()):
        constants["b"], names = floats(group * outputs), "x w b"
    inputs = {"x": ["batch", group * each, *size]}
    return model([node("Conv", names, "y", **attributes)], inputs, "y", constants)


@settings(max_examples=150, deadline=None)
@given(convolutions())
def test_any_conv_means_what_onnxruntime_computes(proto: onnx.ModelProto) -> None:
    after, _ = unchanged(proto)
    *taking, conv = after.nodes
    assert conv.label == "colonnade.Conv" and len(conv.inputs) == 4
    assert [n.op for n in taking] in ([], ["Slice"])
    weights = after.initializers[conv.inputs[1]]
    assert weights.ndim == 4 and weights.flags.c_contiguous
    lengths = {k: len(conv.attributes[k]) for k in ("strides", "pads", "dilations")}
    assert lengths == {"strides": 2, "pads": 4, "dilations": 2}
    assert mixes_rows(conv, after) is None
    before = graph_of(proto)
    work = multiply_adds(before.nodes[0], before, 1)
    assert multiply_adds(conv, after, 1) == work > 0


def test_the_bands_of_a_large_image_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.ops.image.BAND_NBYTES", 4096)
    nodes = [node("Conv", "x w", "y", pads=[1, 1, 1, 1], strides=[2, 1])]
    unchanged(model(nodes, {"x": ["batch", 4, 31, 17]}, "y", {"w": floats(3, 4, 3, 3)}))


@pytest.mark.parametrize(
    ("nodes", "inputs", "reason"),
    [
        ([node("Conv", "x z", "y")], {**X, "z": [2, 4, 3, 3]}, "weights z are not constant"),
        ([node("Conv", "x w z", "y")], {**X, "z": [6]}, "bias z is no float32 constant"),
        ([node("Conv", "x w", "y")], {"x": ["b", 4, "h", 9]}, "size of its images is not known"),
        ([node("Conv", "x w5", "y")], {"x": ["b", 4, 9, 9, 9]}, "not of one or two spatial"),
    ],
)
def test_convolutions_left_to_the_reference(
    nodes: list[onnx.NodeProto], inputs: dict[str, Any], reason: str
) -> None:
    proto = model(nodes, inputs, "y", {"w": floats(6, 4, 3, 3), "w5": floats(6, 4, 3, 3, 3)})
    after, log = rewrite(graph_of(proto))
    assert ops(after) == ["Conv"]
    assert reason in reasons(log, "conv")


# --- scales and shifts


AFFINE = {
    "norm": ("BatchNormalization", "h g b mu va"),
    "scale": ("Mul", "h v"),
    "scale of three dimensions": ("Mul", "h v3"),
    "bias": ("Add", "v h"),
    "reversed shift": ("Sub", "v h"),
    "division": ("Div", "h v"),
    "number": ("Mul", "h s"),
}


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("what", AFFINE)
def test_scales_and_shifts_after_a_conv_are_folded(what: str, group: int) -> None:
    op, names = AFFINE[what]
    w = floats(8, 4 // group, 3, 3) * (RNG.random((8, 4 // group, 3, 3)) < 0.4)
    nodes = [node("Conv", "x w g", "h", group=group, pads=[1, 1, 0, 0]), node(op, names, "y")]
    after, _ = unchanged(model(nodes, X, "y", {"w": w, **channels(8)}))
    assert ops(after) == ["colonnade.Conv"]
    np.testing.assert_array_equal(after.initializers[after.nodes[0].inputs[1]] != 0, w != 0)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("what", AFFINE)
def test_scales_and_shifts_before_a_conv_are_folded(what: str, group: int) -> None:
    op, names = AFFINE[what]
    nodes = [node(op, names.replace("h", "x"), "h"), node("Conv", "h w", "y", group=group)]
    constants = {"w": floats(8, 4 // group, 3, 3), **channels(4)}
    after, _ = unchanged(model(nodes, X, "y", constants))
    assert ops(after) == ["colonnade.Conv"]


def test_only_scales_pass_padding() -> None:
    nodes = [
        node("Sub", "x v", "h"),
        node("Div", "h v", "k"),
        node("Conv", "k w", "y", pads=[0, 1, 0, 0]),
    ]
    after, log = unchanged(model(nodes, X, "y", {"w": floats(3, 4, 2, 2), **channels(4)}))
    assert ops(after) == ["Sub", "colonnade.Conv"]
    assert "pads with zeros, which Sub_0 would shift" in reasons(log, "affine_before")


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Conv", "x w", "h"), node("Mul", "h row", "y")], "along dimension 3"),
        ([node("Conv", "x w", "h"), node("Add", "h image", "y")], "over one dimension of"),
        (
            [node("Conv", "x w", "h"), node("Relu", "h", "r"), node("Mul", "r v", "y")],
            "has an activation in between",
        ),
        (
            [node("Conv", "x w", "h"), node("Add", "h z", "a"), node("Mul", "a v", "y")],
            "Conv_0 adds z in between",
        ),
    ],
)
def test_scales_that_stay(nodes: list[onnx.NodeProto], reason: str) -> None:
    constants = {"w": floats(4, 4, 1, 1), **channels(4)}
    constants |= {"row": floats(10), "image": floats(4, 9, 10)}
    after, log = unchanged(model(nodes, {**X, "z": ["batch", 4, 9, 10]}, "y", constants))
    assert len(after.nodes) == 2
    assert reason in reasons(log, "affine_after")


# --- residuals and activations


def block(*rest: onnx.NodeProto, outputs: str = "y") -> onnx.ModelProto:
    """Two convolutions of x, l and then m, and whatever follows."""
    nodes = [node("Conv", "x w", "l", name="left"), node("Conv", "x w2 b", "m", name="right")]
    return model(
        [*nodes, *rest],
        X,
        outputs,
        {"w": floats(4, 4, 1, 1), "w2": floats(4, 4, 1, 1), "b": floats(4)},
    )


@pytest.mark.parametrize("op", ["Add", "Sum"])
@pytest.mark.parametrize("names", ["l m", "m l"])
def test_the_later_of_two_convolutions_takes_the_other(op: str, names: str) -> None:
    after, _ = unchanged(block(node(op, names, "a"), node("Relu", "a", "y")))
    assert ops(after) == ["colonnade.Conv"] * 2
    assert [n.inputs[3] for n in after.nodes] == ["", "l"]
    assert activations(after) == ["Relu"]


def test_the_one_that_can_takes_the_sum() -> None:
    after, _ = unchanged(block(node("Relu", "m", "r"), node("Add", "r l", "y")))
    assert [n.inputs[3] for n in after.nodes] == ["", "r"]
    assert after.nodes[1].name == "left" and activations(after) == ["Relu"]


def test_a_conv_adds_once_and_applies_in_order() -> None:
    nodes = [node("Add", "m x", "a"), node("Sigmoid", "a", "s"), node("Add", "s l", "c")]
    after, _ = unchanged(block(*nodes, node("HardSwish", "c", "d"), node("Clip", "d", "y")))
    assert ops(after) == ["colonnade.Conv"] * 2
    assert [n.inputs[3] for n in after.nodes] == ["x", "s"]
    assert activations(after) == ["Sigmoid", "HardSwish", "Clip"]


@pytest.mark.parametrize(
    ("rest", "outputs", "reason"),
    [
        ([node("Add", "m m", "y")], "y l", "to itself"),
        ([node("Add", "m x", "y"), node("Neg", "m", "z")], "y z l", "m is read by 2 nodes"),
        ([node("Add", "m x", "y")], "y m l", "m is a graph output"),
        ([node("Relu", "m", "r"), node("Add", "r x", "y")], "y l", "activation in between"),
        (
            [node("GlobalAveragePool", "x", "p"), node("Add", "m p", "y")],
            "y l",
            "are not float32 of one shape",
        ),
        (
            [node("Add", "m x", "a"), node("Add", "a x", "y")],
            "y l",
            "right adds x already",
        ),
    ],
)
def test_sums_that_stay(rest: list[onnx.NodeProto], outputs: str, reason: str) -> None:
    after, log = unchanged(block(*rest, outputs=outputs))
    assert "Add" in ops(after)
    assert reason in reasons(log, "residual")


# --- strides


@pytest.mark.parametrize(
    ("window", "attributes", "fires"),
    [
        ((1, 1), {"strides": [2, 2]}, True),
        ((1, 1), {"strides": [1, 3]}, True),
        ((1, 1), {"strides": [3, 1]}, False),
        ((1, 1), {"strides": [2, 2], "pads": [0, 1, 0, 0]}, False),
        ((1, 2), {"strides": [2, 2]}, False),
    ],
)
def test_the_pixels_that_a_conv_strides_over_are_left_out_first(
    window: tuple[int, int], attributes: dict[str, Any], fires: bool
) -> None:
    constants = {"w": floats(6, 2, *window)}
    proto = model([node("Conv", "x w", "y", group=2, **attributes)], X, "y", constants)
    after, events = unchanged(proto)
    fired = [e for e in events if e.fired and e.rewrite == "strides"]
    assert len(fired) == fires
    assert [n.op for n in after.nodes] == ["Slice"] * fires + ["Conv"]
    strides = after.nodes[-1].attributes["strides"]
    assert tuple(strides) == ((1, 1) if fires else tuple(attributes["strides"]))


def test_a_slice_without_steps_is_not_made() -> None:
    proto = model([node("Conv", "x w", "y", strides=[2, 2])], X, "y", {"w": floats(6, 4, 1, 1)})
    proto.opset_import[0].version = 9
    _, events = rewrite(graph_of(proto))
    assert "no steps before opset 10" in reasons(events, "strides")
