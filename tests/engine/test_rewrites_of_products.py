"""Products become Linear; scales and shifts are folded into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from rewritten import RNG, X, activations, agreeing, fired, floats, ops, reasons
from small_models import model, node

from engine import reference
from engine.reader import graph_of
from engine.rewrites import rewrite


@pytest.mark.parametrize("transb", [0, 1])
@pytest.mark.parametrize("c", [None, (), (1,), (4,), (1, 1), (1, 4)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)])
def test_gemm_becomes_linear(transb: int, c: Any, alpha: float, beta: float) -> None:
    constants = {"w": floats(4, 6) if transb else floats(6, 4)}
    if c is not None:
        constants["c"] = np.asarray(floats(*c))
    names = "x w" if c is None else "x w c"
    proto = model(
        [node("Gemm", names, "y", transB=transb, alpha=alpha, beta=beta)], X, "y", constants
    )
    after, _ = agreeing(proto)
    assert ops(after) == ["colonnade.Linear"]
    weights = after.initializers[after.nodes[0].inputs[1]]
    assert weights.shape == (4, 6) and weights.flags.c_contiguous
    assert weights.dtype == np.float32


@pytest.mark.parametrize("shape", [[6], [2, 6], ["seq", 6]])
def test_matmul_becomes_linear_at_any_rank(shape: list[Any]) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Add", "b m", "a"), node("Relu", "a", "y")]
    proto = model(nodes, {"x": ["batch", *shape]}, "y", {"w": floats(6, 4), "b": floats(4)})
    after, _ = agreeing(proto)
    assert ops(after) == ["colonnade.Linear"] and activations(after) == ["Relu"]


def test_a_c_that_is_no_vector_is_added_by_the_linear() -> None:
    proto = model([node("Gemm", "x w z", "y")], {**X, "z": ["batch", 4]}, "y", {"w": floats(6, 4)})
    after, _ = agreeing(proto)
    assert ops(after) == ["colonnade.Linear"] and after.nodes[0].inputs[3] == "z"


SQUARE = ["batch", 6]


@pytest.mark.parametrize(
    ("nodes", "inputs", "reason"),
    [
        ([node("MatMul", "x z", "y")], {"x": [6, 6], "z": SQUARE}, "weights z are not constant"),
        ([node("MatMul", "w x", "y")], {"x": ["b", 6, 2]}, "constant w stands on the left"),
        ([node("MatMul", "x w3", "y")], {"x": ["b", 2, 6]}, "weights w3 have 3 dimensions"),
        ([node("MatMul", "x w1", "y")], X, "weights w1 have 1 dimensions"),
        ([node("MatMul", "x w0", "y")], X, "weights w0 are empty"),
        ([node("Gemm", "x w", "y", transA=1)], {"x": [6, 6]}, "it transposes its input x"),
        ([node("Gemm", "x w", "y", alpha=0.0)], X, "alpha is 0, which would lose NaN"),
        ([node("Gemm", "x w x", "y", beta=0.5)], X, "beta is 0.5"),
        (
            [node("Cast", "x", "d", to=11), node("MatMul", "d w64", "y")],
            X,
            "weights w64 are float64, not float32",
        ),
    ],
)
def test_products_that_are_no_linear(
    nodes: list[onnx.NodeProto], inputs: dict[str, Any], reason: str
) -> None:
    constants = {"w": floats(6, 6), "w3": floats(2, 6, 3), "w1": floats(6), "w0": floats(6, 0)}
    proto = model(nodes, inputs, "y", constants)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(6), "w64"))
    after, log = rewrite(graph_of(proto))
    assert "colonnade.Linear" not in ops(after)
    assert reason in reasons(log, "linear")


def test_weights_that_two_nodes_share_are_not_spoiled() -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Mul", "a two", "b"),
        node("MatMul", "b w", "c"),
        node("Gemm", "c w", "d", transB=1),
        node("Mul", "d two", "e"),
        node("Gemm", "e w", "f", transB=1),
        node("Add", "f w0", "y"),
    ]
    w = floats(6, 6)
    after, _ = agreeing(model(nodes, X, "y", {"w": w, "two": 2.0, "w0": w[:1]}))
    assert ops(after) == ["colonnade.Linear"] * 4


AFFINE: Mapping[str, tuple[str, str]] = {
    "bias": ("Add", "h v"),
    "bias on the left": ("Add", "v h"),
    "shift": ("Sub", "h v"),
    "reversed shift": ("Sub", "v h"),
    "scale": ("Mul", "h v"),
    "scalar": ("Mul", "s h"),
    "division": ("Div", "h v"),
    "row of one": ("Add", "h r"),
    "norm": ("BatchNormalization", "h v v v p"),
}


@pytest.mark.parametrize("what", AFFINE)
@pytest.mark.parametrize("place", ["before", "after"])
def test_scales_and_shifts_are_folded(what: str, place: str) -> None:
    op, names = AFFINE[what]
    constants = {"w": floats(6, 6), "v": floats(6), "s": 3.0, "r": floats(1, 6)}
    constants["p"] = np.abs(floats(6))
    if place == "after":
        nodes = [node("MatMul", "x w", "h"), node(op, names, "y")]
    else:
        nodes = [node(op, names.replace("h", "x"), "h"), node("MatMul", "h w", "y")]
    after, log = agreeing(model(nodes, X, "y", constants))
    assert ops(after) == ["colonnade.Linear"]
    assert f"affine_{place}" in fired(log)


def test_zero_weights_stay_zero() -> None:
    w = floats(6, 6) * (RNG.random((6, 6)) < 0.3)
    nodes = [
        node("Sub", "x v", "a"),
        node("Div", "a v", "b"),
        node("MatMul", "b w", "c"),
        node("BatchNormalization", "c v v v p", "y"),
    ]
    constants = {"w": w, "v": floats(6), "p": np.abs(floats(6))}
    after, _ = agreeing(model(nodes, X, "y", constants))
    (linear,) = after.nodes
    np.testing.assert_array_equal(after.initializers[linear.inputs[1]] != 0, w.T != 0)


@pytest.mark.parametrize(
    ("nodes", "outputs", "rewrite_name", "reason"),
    [
        (
            [node("MatMul", "x w", "h"), node("Add", "h v", "y"), node("Neg", "h", "z")],
            "y z",
            "affine_after",
            "h is read by 2 nodes",
        ),
        ([node("MatMul", "x w", "h"), node("Mul", "h v", "y")], "y h", "affine_after", "h is a gr"),
        ([node("MatMul", "x w", "h"), node("Mul", "h zero", "y")], "y", "affine_after", "lose NaN"),
        ([node("MatMul", "x w", "h"), node("Add", "h inf", "y")], "y", "affine_after", "finite"),
        (
            [node("MatMul", "x w", "h"), node("Mul", "h tiny", "g"), node("Mul", "g tiny", "y")],
            "y",
            "affine_after",
            "leave the range of float32",
        ),
        (
            [node("MatMul", "x w", "h"), node("Mul", "h big", "y")],
            "y",
            "affine_after",
            "is no float32 scalar or vector",
        ),
        (
            [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Mul", "r v", "y")],
            "y",
            "affine_after",
            "has an activation in between",
        ),
        (
            [node("Sub", "x far", "h"), node("MatMul", "h w", "y")],
            "y",
            "affine_before",
            "shifted by 1000, which would cost precision",
        ),
        (
            [node("Sub", "x v", "h"), node("MatMul", "h w", "y"), node("Neg", "h", "z")],
            "y z",
            "affine_before",
            "h is read by 2 nodes",
        ),
        ([node("Mul", "x zero", "h"), node("MatMul", "h w", "y")], "y", "affine_before", "NaN"),
        (
            [node("Sub", "x v", "h"), node("MatMul", "h w", "k"), node("Add", "k h", "y")],
            "y",
            "affine_before",
            "adds h, too",
        ),
    ],
)
def test_scales_and_shifts_that_must_stay(
    nodes: list[onnx.NodeProto], outputs: str, rewrite_name: str, reason: str
) -> None:
    constants = {"w": floats(6, 6), "v": floats(6), "zero": [0.0, 1, 1, 1, 1, 1], "inf": np.inf}
    constants |= {"tiny": 1e-25, "big": floats(5, 6), "far": 1000.0}
    graph = graph_of(model(nodes, X, outputs, constants))
    after, log = rewrite(graph)
    assert reason in reasons(log, rewrite_name), log
    x = floats(5, 6)
    expected = reference.run(graph, {"x": x})
    for name, array in reference.run(after, {"x": x}).items():
        np.testing.assert_allclose(array, expected[name], rtol=2e-5, atol=2e-6)


def test_a_scalar_scale_moves_behind_flatten_into_the_linear() -> None:
    nodes = [
        node("Sub", "x half", "a"),
        node("Mul", "a scale", "b"),
        node("Flatten", "b", "c"),
        node("Gemm", "c w", "y"),
    ]
    constants = {"half": 0.5, "scale": 1 / 255, "w": floats(12, 3)}
    after, log = agreeing(model(nodes, {"x": ["batch", 3, 4]}, "y", constants))
    assert ops(after) == ["Flatten", "colonnade.Linear"]
    assert [e.node for e in log if e.rewrite == "sink" and e.fired]


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        ([node("Mul", "x v", "b"), node("Flatten", "b", "c")], "y", "from element to element"),
        ([node("Mul", "x two", "b"), node("Flatten", "b", "c")], "y b", "b is a graph output"),
        ([node("Mul", "x two", "b"), node("Flatten", "b", "c")], "y c", "c is a graph output"),
    ],
)
def test_scales_that_must_stay_before_flatten(
    nodes: list[onnx.NodeProto], outputs: str, reason: str
) -> None:
    constants = {"v": floats(4), "two": 2.0, "w": floats(12, 3)}
    proto = model([*nodes, node("Gemm", "c w", "y")], {"x": ["batch", 3, 4]}, outputs, constants)
    after, log = agreeing(proto)
    assert ops(after) == ["Mul", "Flatten", "colonnade.Linear"]
    assert reason in reasons(log, "sink")


def test_a_normalization_over_positions_stays() -> None:
    nodes = [node("MatMul", "x w", "h"), node("BatchNormalization", "h v v v p", "y")]
    constants = {"w": floats(6, 6), "v": floats(2), "p": np.abs(floats(2))}
    after, log = agreeing(model(nodes, {"x": ["batch", 2, 6]}, "y", constants))
    assert ops(after) == ["colonnade.Linear", "BatchNormalization"]
    assert "differs along dimension 1" in reasons(log, "affine_after")
