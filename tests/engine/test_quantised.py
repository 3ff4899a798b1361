"""Operators on numbers of 8 bits (QOperator), beside onnxruntime, and those that are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small
from onnx import helper, numpy_helper
from rewritten import fallbacks, floats, labels
from small_models import Array, onnxruntime_run

import engine
from engine.compiler import compilation
from engine.errors import EngineError
from engine.reader import graph_of

named = pytest.mark.parametrize
RNG = np.random.default_rng(3)
STEP = 0.0517
"""Of the results."""


def ints(kind: Any, *shape: int) -> Array:
    limits = np.iinfo(kind)
    return RNG.integers(limits.min, limits.max, shape, endpoint=True).astype(kind)


def constants(kind: Any) -> dict[str, Array]:
    """Scales and zero points of inputs of `kind`, weights of int8, and results of `kind`."""
    return {
        "xs": np.float32(0.0213), "xz": kind(3), "ys": np.float32(STEP), "yz": kind(7),
        "as": np.float32(0.013), "az": kind(0),
        "ws": np.float32(0.01), "wz": np.int8(0),
        "ws3": np.array([0.01, 0.02, 0.005], np.float32), "wz3": np.array([0, 3, -2], np.int8),
        "m": ints(np.int8, 6, 3), "mt": ints(np.int8, 3, 6),
        "b3": ints(np.int16, 3).astype(np.int32),
        "k": ints(np.int8, 3, 2, 3, 3),
        "other": ints(kind, 1, 6),
    }  # fmt: skip


ROW, IMAGE = (6,), (2, 5, 5)
Case = tuple[str, str, tuple[int, ...], dict[str, Any]]
OURS = {"domain": "com.microsoft"}
CASES: Mapping[str, Case] = {
    "conv": ("QLinearConv", "q xs xz k ws wz ys yz b3", IMAGE, {"pads": [1, 1, 1, 1]}),
    "conv by channel": ("QLinearConv", "q xs xz k ws3 wz3 ys yz b3", IMAGE, {"strides": [2, 2]}),
    "matmul": ("QLinearMatMul", "q xs xz m ws wz ys yz", ROW, {}),
    "matmul by column": ("QLinearMatMul", "q xs xz m ws3 wz3 ys yz", ROW, {}),
    "gemm": ("QGemm", "q xs xz m ws wz b3 ys yz", ROW, OURS),
    "gemm by row": ("QGemm", "q xs xz mt ws3 wz3 b3 ys yz", ROW, OURS | {"transB": 1}),
    "add": ("QLinearAdd", "q xs xz other as az ys yz", ROW, OURS),
    "mul": ("QLinearMul", "q xs xz other as az ys yz", ROW, OURS),
    "sigmoid": ("QLinearSigmoid", "q xs xz ys yz", ROW, OURS),
    "leaky": ("QLinearLeakyRelu", "q xs xz ys yz", ROW, OURS | {"alpha": 0.2}),
    "softmax": ("QLinearSoftmax", "q xs xz ys yz", ROW, OURS | {"axis": -1, "opset": 17}),
    "mean": ("QLinearGlobalAveragePool", "q xs xz ys yz", IMAGE, OURS),
    "means": ("QLinearAveragePool", "q xs xz ys yz", IMAGE, OURS | {"kernel_shape": [2, 2]}),
    "concat": ("QLinearConcat", "ys yz q xs xz q as az", ROW, OURS | {"axis": 1}),
    "where": ("QLinearWhere", "yes q xs xz other as az ys yz", ROW, OURS),
}


def proto_of(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int], known: Mapping[str, Any]
) -> Any:
    """x float32 -> steps of 8 bits -> the nodes -> y float32."""
    around = [
        small.node("QuantizeLinear", "x xs xz", "q"),
        *nodes,
        small.node("DequantizeLinear", "y8 ys yz", "y"),
    ]
    graph = helper.make_graph(
        around, "quantised",
        [small.info("x", ["batch", *shape])], [small.info("y", None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in known.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@named("kind", [np.uint8, np.int8])
@named("name", CASES)
def test_it_gives_what_onnxruntime_gives_but_for_a_step(name: str, kind: Any) -> None:
    op, inputs, shape, attributes = CASES[name]
    known = constants(kind) | {"yes": np.arange(6) % 2 == 0}
    node = small.node(op, inputs, "y8", **attributes)
    proto = proto_of([node], shape, known)
    x = floats(64, *shape)
    want = onnxruntime_run(proto, {"x": x})["y"]
    found = compilation(graph_of(proto))
    assert found.program is not None
    assert not any(
        label.startswith(("Q", "com.")) for label in set(labels(found)) - {"QuantizeLinear"}
    )
    with engine.Session(found.program, cpus=[0]) as session:
        got = session.run({"x": x})["y"]
    assert got.shape == want.shape and len(np.unique(want)) > 2
    apart = np.abs(got - want) / STEP
    few = 0.1 if name == "softmax" else 0.02  # onnxruntime looks exponentials up
    assert apart.max() < 1.01 and (apart > 0.5).mean() < few


def test_weights_that_are_their_zero_point_are_zeros() -> None:
    known = constants(np.uint8)
    known["m"] = np.where(RNG.random((6, 3)) < 0.5, known["m"], np.int8(4))
    known["wz"] = np.int8(4)
    node = small.node("QLinearMatMul", "q xs xz m ws wz ys yz", "y8")
    found = compilation(graph_of(proto_of([node], ROW, known)))
    (linear,) = (n for n in found.graph.nodes if n.label == "colonnade.Linear")
    weights = found.graph.initializers[linear.inputs[1]]
    assert weights.dtype == np.float32
    assert (weights == 0).sum() == (known["m"] == 4).sum() > 3
    assert "colonnade.Linear" not in fallbacks(found)


@named("inputs", ["q xs xz q xs xz fed yz", "q xs xz q fed xz ys yz", "q xs xz q as az ys -"])
def test_scales_that_are_computed_and_missing_zero_points_stay(inputs: str) -> None:
    names = inputs.split()
    node = small.node("QLinearAdd", inputs, "y8", domain="com.microsoft")
    scale = small.node("ReduceMax", "x", "fed", keepdims=0)
    proto = proto_of([scale, node] if "fed" in names else [node], ROW, constants(np.uint8))
    with pytest.raises(EngineError, match="QLinearAdd"):
        engine.compile(graph_of(proto))


def test_dynamic_scales_are_refused_once_with_what_to_do() -> None:
    nodes = [
        small.node("DynamicQuantizeLinear", "x", "x8 s z"),
        small.node("MatMulInteger", "x8 m z", "i"),
        small.node("Cast", "i", "f", to=1),
        small.node("Mul", "f s", "h"),
        small.node("DynamicQuantizeLinear", "h", "h8 hs hz"),
        small.node("DequantizeLinear", "h8 hs hz", "y"),
    ]
    proto = small.model(nodes, {"x": ["batch", 6]}, "y", {"m": ints(np.int8, 6, 3)})
    with pytest.raises(EngineError, match="quantize_static") as refused:
        engine.compile(graph_of(proto))
    (line,) = (line for line in str(refused.value).splitlines() if "quantize_static" in line)
    assert " and 1 more (DynamicQuantizeLinear) mixes rows: " in line
    assert "depend on the rows beside it" in line


def test_a_constant_number_is_quantised() -> None:
    """As quantize_static writes it around a factor."""
    nodes = [
        small.node("QuantizeLinear", "half xs xz", "h8"),
        small.node("DequantizeLinear", "h8 xs xz", "h"),
        small.node("Mul", "x h", "y"),
    ]
    known = {"half": np.float32(0.5), "xs": np.float32(0.1), "xz": np.uint8(3)}
    proto = small.model(nodes, {"x": ["batch", 6]}, "y", known)
    found = compilation(graph_of(proto))
    assert found.program is not None and not fallbacks(found)
    x = floats(3, 6)
    with engine.Session(found.program, cpus=[0]) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], x * 0.5, rtol=1e-6)


def test_a_gate_that_is_no_image_is_refused_without_a_traceback() -> None:
    """As quantize_dynamic writes convolutions: a product of two scales beside images."""
    nodes = [
        small.node("DynamicQuantizeLinear", "x", "x8 s z"),
        small.node("ConvInteger", "x8 k z", "i"),
        small.node("Cast", "i", "f", to=1),
        small.node("Mul", "s xs", "both"),
        small.node("Mul", "f both", "y"),
    ]
    known = {"k": ints(np.int8, 3, 2, 3, 3), "xs": np.float32(0.1)}
    proto = small.model(nodes, {"x": ["batch", 2, 5, 5]}, "y", known)
    with pytest.raises(EngineError, match="quantize_static"):
        engine.compile(graph_of(proto))
