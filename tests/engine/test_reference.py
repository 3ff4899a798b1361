"""engine.reference: the oracle agrees with onnxruntime, and says what it cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from small_models import Array, model, node, onnxruntime_run

from engine import reference
from engine.errors import FeedError, UnsupportedError
from engine.graph import NATIVE, Node
from engine.ops.unary import UNARY, unary_of
from engine.reader import graph_of

RNG = np.random.default_rng(0)
X = {"x": ["batch", 4, 6, 6]}


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


CONSTANTS: Mapping[str, Any] = {
    "k": floats(2, 4, 3, 3),
    "c": floats(4),
    "p": np.abs(floats(4)) + 0.1,
    "w": floats(6, 5),
    "low": -0.5,
    "high": 0.5,
    "axes": [2],
    "scales": np.array([1, 1, 2, 2], np.float32),
    "t": [0, -1],
    "i": [0, 2],
    "pads": [0, 0, 1, 1, 0, 0, 1, 1],
    "two": 2.0,
    "k2": [2],
    "scale": 0.1,
    "zp": np.array(10, np.uint8),
}

# What a fallback is most likely to meet: one line an operator, compared with onnxruntime.
NODES = [
    node("Conv", "x k", "y", pads=[1, 1, 1, 1], strides=[2, 2]),
    node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2, 2]),
    node("AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    node("GlobalAveragePool", "x", "y"),
    node("BatchNormalization", "x c c c p", "y"),
    node("InstanceNormalization", "x c c", "y"),
    node("LayerNormalization", "x w5", "y", axis=-1),
    node("LRN", "x", "y", size=3),
    node("MatMul", "x w", "y"),
    node("Softmax", "x", "y", axis=1),
    node("LogSoftmax", "x", "y"),
    node("ReduceSum", "x axes", "y", keepdims=0),
    node("ReduceMean", "x", "y", axes=[1, 2]),
    node("ArgMax", "x", "y", axis=1),
    node("TopK", "x k2", "y", axis=-1),
    node("Transpose", "x", "y", perm=[0, 2, 3, 1]),
    node("Reshape", "x t", "y"),
    node("Gather", "x i", "y", axis=1),
    node("Pad", "x pads", "y"),
    node("Resize", "x - scales", "y", mode="nearest"),
    node("Clip", "x low high", "y"),
    node("Clip", "x - high", "y"),
    node("HardSigmoid", "x", "y", alpha=0.4, beta=0.1),
    node("Gelu", "x", "y"),
    node("Mish", "x", "y"),
    node("Pow", "x two", "y"),
    node("QuantizeLinear", "x scale zp", "y"),
    node("DepthToSpace", "x", "y", blocksize=2),
    node("Einsum", "x w", "y", equation="abcd,de->abce"),
    node("CumSum", "x i1", "y"),
    node("Split", "x", "y z", axis=2, num_outputs=2),
]


@pytest.mark.parametrize("case", NODES, ids=lambda n: n.op_type)
def test_operators_agree_with_onnxruntime(case: onnx.NodeProto) -> None:
    extra = {"w5": floats(6), "i1": np.array(1)}
    used = {n: a for n, a in {**CONSTANTS, **extra}.items() if n in case.input}
    opset = 17 if case.op_type.startswith("ReduceMean") else 20
    outputs = " ".join(case.output)
    if case.op_type == "TopK":
        case, outputs = node("TopK", "x k2", "y i_", axis=-1), "y i_"
    proto = model([case], X, outputs, used, opset=opset)
    for info in proto.graph.output:  # onnxruntime infers them
        info.type.Clear()
    proto = onnx.shape_inference.infer_shapes(proto)
    x = floats(3, 4, 6, 6)
    found = reference.run(graph_of(proto), {"x": x})
    for name, array in onnxruntime_run(proto, {"x": x}).items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 17])
def test_batch_normalization_is_inference_in_every_operator_set(opset: int) -> None:
    proto = model([node("BatchNormalization", "x c c c p", "y")], X, "y", CONSTANTS, opset=opset)
    x = floats(3, 4, 6, 6)
    found = reference.run(graph_of(proto), {"x": x})["y"]
    np.testing.assert_allclose(found, onnxruntime_run(proto, {"x": x})["y"], rtol=1e-4, atol=1e-5)


# --- unary


STANDARD = {"GeluTanh", "Select", "Silu", "Square"}
"""Rows of UNARY that ONNX spells otherwise."""


@pytest.mark.parametrize("op", ["Hardmax", "LogSoftmax", "Softmax"])
@pytest.mark.parametrize("axis", [{}, {"axis": 1}, {"axis": 2}, {"axis": 0}])
@pytest.mark.parametrize("opset", [9, 11, 13])
def test_softmax_has_the_meaning_of_its_operator_set(
    op: str, axis: dict[str, int], opset: int
) -> None:
    x = floats(3, 4, 2, 5)
    proto = model([node(op, "x", "y", **axis)], {"x": [3, 4, 2, 5]}, "y", opset=opset)
    found = reference.run(graph_of(proto), {"x": x})["y"]
    np.testing.assert_allclose(found, onnxruntime_run(proto, {"x": x})["y"], rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("opset", [10, 13, 17, 19])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_dequantized_in_every_operator_set(dtype: Any, opset: int) -> None:
    """What onnxruntime.quantization writes: one scale, or from opset 13 on one for each channel."""
    q = RNG.integers(0, 100, (3, 4, 5)).astype(dtype)
    zero = np.array([0, 0, 0, 0] if dtype == np.int32 else [1, 50, 0, 99], dtype)
    scale = np.array([0.1, 0.02, 3.0, 0.7], np.float32)
    cases: list[tuple[Array, Array, dict[str, int]]] = [(scale[0], zero[1], {})]
    if opset >= 13:
        cases += [(scale, zero, {}), (scale, zero, {"axis": -2}), (scale[:1], zero[:1], {})]
    for s, z, axis in cases:
        nodes = [node("DequantizeLinear", "q s z", "d", **axis), node("Mul", "x d", "y")]
        constants = {"q": q, "s": s, "z": z}
        proto = model(nodes, {"x": ["N", 4, 5]}, "y", constants, opset=opset)
        feeds = {"x": floats(3, 4, 5)}
        found = reference.run(graph_of(proto), feeds)["y"]
        np.testing.assert_array_equal(found, onnxruntime_run(proto, feeds)["y"])


@pytest.mark.parametrize("opset", [10, 13, 17, 19])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantized_as_onnxruntime_does(dtype: Any, opset: int) -> None:
    """Halves to the even, saturated; per channel from opset 13 on."""
    x = np.arange(-400, 400, dtype=np.float32).reshape(-1, 4, 5) / 2
    x[0, 0] = [np.inf, -np.inf, 1e30, -1e30, np.nan]
    zero = np.array([0, 50, 3, 99], dtype)
    scale = np.array([1, 0.5, 2, 0.3], np.float32)
    cases: list[tuple[Array, Array]] = [(scale[1], zero[1]), (scale[0], zero[0])]
    cases += [(scale, zero)] if opset >= 13 else []
    for s, z in cases:
        nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
        constants = {"s": s, "z": z}
        proto = model(nodes, {"x": ["N", 4, 5]}, "y", constants, opset=opset)
        if opset == 19:
            x[0, 0] = 0  # onnx's evaluator, which runs it then, gives infinity another meaning
        found = reference.run(graph_of(proto), {"x": x})["y"]
        np.testing.assert_array_equal(found, onnxruntime_run(proto, {"x": x})["y"])


@pytest.mark.parametrize("name", sorted(UNARY.keys() - STANDARD))
def test_unary_functions_are_those_of_onnx(name: str) -> None:
    x = np.concatenate([floats(60) * 3, [0, -0.0, 100, -100, np.inf, -np.inf, np.nan]])
    x = x.astype(np.float32)[None]
    proto = model([node(name, "x", "y")], {"x": ["n", x.shape[1]]}, "y", opset=20)
    expected = onnxruntime_run(proto, {"x": x})["y"]
    row = UNARY[name]
    found = row.numpy(x, *row.parameters({}))
    assert found.dtype == np.float32
    finite = np.isfinite(x)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(row.numpy(np.float32([np.nan]), 0.5, 0.5)), [True])


@pytest.mark.parametrize("name", UNARY)
def test_unary_functions_do_not_warn_and_keep_their_type(name: str) -> None:
    x = np.array([-np.inf, -1e30, -1, 0, 1, 1e30, np.inf, np.nan])
    for dtype in (np.float32, np.float64, np.float16):
        with np.errstate(all="ignore"):
            narrow = x.astype(dtype)
        assert UNARY[name].numpy(narrow, 0.1, 0.2).dtype == dtype


def test_the_spelling_of_unary_nodes() -> None:
    constants = {"two": np.float32(2), "six": np.array([6], np.int64), "many": floats(3)}

    def found(op: str, *inputs: str, **attributes: Any) -> Any:
        made = Node("n", op, ("x", *inputs), ("y",), attributes=attributes)
        result = unary_of(made, constants)
        return result[1] if isinstance(result, tuple) else result

    assert found("Relu") == ("Relu", 0.0, 0.0)
    assert found("Clip") == ("Clip", -np.inf, np.inf)
    assert found("Clip", "", "six") == ("Clip", -np.inf, 6.0)
    assert found("Clip", min=-1.0) == ("Clip", -1.0, np.inf)
    assert found("Gelu", approximate="tanh") == ("GeluTanh", 0.0, 0.0)
    assert found("LeakyRelu", alpha=0.25) == ("LeakyRelu", 0.25, 0.0)
    assert found("PRelu", "two") == ("LeakyRelu", 2.0, 0.0)
    assert found("Pow", "two") == ("Square", 0.0, 0.0)
    assert found("Pow", "six") is None
    assert found("Mul", "x") == ("Square", 0.0, 0.0)
    assert found("Mul", "two") is None
    assert found("PRelu", "many") == "its many is not one constant number"
    assert found("Clip", "many") == "its bound many is not one constant number"
    assert found("Softmax") is None


# --- native


def linear(activations: tuple[tuple[str, float, float], ...] = (), bias: str = "b") -> Node:
    attributes = {"activations": activations}
    return Node("l", "Linear", ("x", "w", bias), ("y",), NATIVE, attributes)


@pytest.mark.parametrize("shape", [(5, 4), (0, 4), (2, 3, 4)])
def test_linear(shape: tuple[int, ...]) -> None:
    x, w, b = floats(*shape), floats(3, 4), floats(3)
    chain = (("Tanh", 0.0, 0.0), ("Clip", -0.5, 0.25))
    found = reference.evaluate(linear(chain), {"x": x, "w": w, "b": b}, {"": 17})["y"]
    np.testing.assert_allclose(found, np.clip(np.tanh(x @ w.T + b), -0.5, 0.25), rtol=1e-5)
    plain = reference.evaluate(linear((), ""), {"x": x, "w": w}, {"": 17})["y"]
    np.testing.assert_allclose(plain, x @ w.T, rtol=1e-5, atol=1e-6)


# --- what it cannot do


@pytest.mark.parametrize(
    ("op", "domain", "says"),
    [
        ("Gizmo", "", "ai.onnx"),
        ("Gizmo", "acme", "'acme', opset 2"),
        ("Relu", "lost", "not import"),
    ],
)
def test_an_operator_that_nothing_runs_is_refused(op: str, domain: str, says: str) -> None:
    made = Node("here", op, ("x",), ("y",), domain)
    reason = reference.refuses(made, {"": 17, "acme": 2})
    assert reason is not None and reason.startswith("here (") and says in reason
    assert "export the model with standard operators" in reason
    with pytest.raises(UnsupportedError, match="here"):
        reference.evaluate(made, {"x": floats(2)}, {"": 17, "acme": 2})


def test_inputs_that_a_node_cannot_take_are_named() -> None:
    made = Node("here", "MatMul", ("x", "w"), ("y",))
    with pytest.raises(UnsupportedError, match=r"here \(MatMul\): .*x\[2, 3\], w\[2, 3\]"):
        reference.evaluate(made, {"x": floats(2, 3), "w": floats(2, 3)}, {"": 17})


def test_a_missing_feed_is_named() -> None:
    graph = graph_of(model([node("Relu", "x", "y")], {"x": ["n", 2]}, "y"))
    with pytest.raises(FeedError, match=r"none for \['x'\]"):
        reference.run(graph, {})


def test_outputs_that_are_inputs_or_constants() -> None:
    graph = graph_of(model([node("Relu", "x", "y")], {"x": ["n", 2]}, "y x c", {"c": floats(2)}))
    x = floats(3, 2)
    found = reference.run(graph, {"x": x})
    np.testing.assert_array_equal(found["x"], x)
    assert found["c"].shape == (2,)


def test_a_runner_serves_many_batches() -> None:
    graph = graph_of(model([node("Exp", "x", "h"), node("Neg", "h", "y")], {"x": ["n", 2]}, "y"))
    ready = reference.Reference(graph)
    for rows in (0, 1, 5):
        x = floats(rows, 2)
        np.testing.assert_allclose(ready.run({"x": x})["y"], -np.exp(x), rtol=1e-6)


def test_empty_lists_and_subgraphs_survive_the_way_back() -> None:
    made = Node("r", "ReduceSum", ("x",), ("y",), attributes={"keepdims": 1})
    old = Node("s", "Squeeze", ("x",), ("y",), attributes={"axes": []})
    assert len(reference.proto_of(made, {"": 13}).attribute) == 1
    assert reference.proto_of(old, {"": 11}).attribute[0].type == onnx.AttributeProto.INTS


@pytest.mark.parametrize(
    ("case", "shape"),
    [
        (node("Gemm", "x wide", "y"), ["n", 300]),
        (node("MatMul", "x wide", "y"), ["n", 300]),
        (node("MatMul", "x wide", "y"), ["n", 9, 300]),
        (node("Conv", "x k", "y"), ["n", 4, 12, 12]),
        (node("ConvTranspose", "x kt", "y"), ["n", 4, 12, 12]),
        (node("Softmax", "x", "y"), ["n", 300]),
        (node("LayerNormalization", "x w300", "y"), ["n", 300]),
        (node("ReduceMean", "x", "y", axes=[1]), ["n", 300]),
    ],
    ids=lambda v: v.op_type if isinstance(v, onnx.NodeProto) else str(len(v)),
)
def test_a_row_has_the_same_bytes_in_any_batch(case: onnx.NodeProto, shape: list[Any]) -> None:
    extra = {"wide": floats(300, 70), "kt": floats(4, 8, 3, 3), "w300": floats(300)}
    ready = reference.Reference(graph_of(model([case], {"x": shape}, "y", {**CONSTANTS, **extra})))
    x = floats(23, *shape[1:])
    whole = ready.run({"x": x})["y"]
    for rows in (1, 2, 7, 16):
        parts = [ready.run({"x": x[i : i + rows]})["y"] for i in range(0, 23, rows)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
