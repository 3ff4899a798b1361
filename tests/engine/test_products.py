"""Sums of products: the same bytes for a row in any batch, for a constant with any BLAS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from small_models import Array, info, model, node, onnxruntime_run

import engine
from engine import reference
from engine.ops.products import folded_product
from engine.reader import graph_of
from engine.rewrites import rewrite

RNG = np.random.default_rng(0)
ROWS, K, H = 33, 333, 21


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def recurrent(op: str, gates: int) -> onnx.ModelProto:
    """layout=1, with lengths and initial states, which have rows too."""
    states = ["h0", "c0"] if op == "LSTM" else ["h0"]
    nodes = [node(op, " ".join(["x w r b n", *states]), "y h", layout=1, hidden_size=H)]
    inputs = {"x": ["N", 5, 7], "n": ["N"], **{s: ["N", 1, H] for s in states}}
    sizes = {"w": (1, gates * H, 7), "r": (1, gates * H, H), "b": (1, 2 * gates * H)}
    proto = model(nodes, inputs, "y h", {n: floats(*s) for n, s in sizes.items()})
    proto.graph.input[1].CopyFrom(info("n", ["N"], np.int32))
    return proto


def learned(op: str, **attributes: Any) -> onnx.ModelProto:
    weights = [float(v) for v in floats(3 * K)]
    outputs = "l y" if op == "LinearClassifier" else "y"
    it = node(
        op, "x", outputs, coefficients=weights, intercepts=[0.1, 0.2, 0.3],
        domain="ai.onnx.ml", **attributes,
    )  # fmt: skip
    return model([it], {"x": ["N", K]}, {"y": ["N", 3]}, ai_onnx_ml=1)


def products() -> dict[str, onnx.ModelProto]:
    x = {"x": ["N", K]}
    both = {"x": ["N", K], "z": ["N", K]}
    image = {"x": ["N", 3, 9, 9]}
    kernel, w = {"w": floats(5, 3, 3, 3)}, {"w": floats(K, 9)}
    sums = [node("Einsum", "x w", "y", equation="nk,km->nm")]
    return {
        "matrix": model([node("MatMul", "x w", "y")], {"x": ["N", 4, K]}, "y", w),
        "vector": model([node("MatMul", "x w", "y")], x, "y", {"w": floats(K)}),
        "einsum": model(sums, x, "y", w),
        "inner": model([node("Einsum", "x z", "y", equation="nk, nk -> n")], both, "y"),
        "conv": model([node("Conv", "x w", "y")], image, "y", kernel),
        "RNN": recurrent("RNN", 1),
        "GRU": recurrent("GRU", 3),
        "LSTM": recurrent("LSTM", 4),
        "regressor": learned("LinearRegressor", targets=3),
        "classifier": learned("LinearClassifier", classlabels_ints=[0, 1, 2]),
    }


PRODUCTS = products()


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_row_has_the_same_bytes_in_any_batch(name: str) -> None:
    proto = PRODUCTS[name]
    graph = graph_of(proto)
    feeds: dict[str, Array] = {}
    for value in graph.inputs:
        rest = [int(d) for d in (value.shape or ())[1:]]
        feeds[value.name] = floats(ROWS, *rest)
        if value.dtype != np.float32:
            feeds[value.name] = RNG.integers(1, 6, ROWS).astype(value.dtype)
    with engine.Session(engine.compile(graph)) as session:
        whole = session.run(feeds)
        for size in (1, 2, 16):
            for first in range(0, ROWS, size):
                part = session.run({n: a[first : first + size] for n, a in feeds.items()})
                for output, array in part.items():
                    assert array.tobytes() == whole[output][first : first + size].tobytes()
    expected = ReferenceEvaluator(proto).run(None, feeds)
    for value, array in zip(graph.outputs, expected, strict=True):
        np.testing.assert_allclose(whole[value.name], array, rtol=1e-4, atol=1e-5)


# --- constants


FOLDABLE = {
    "matmul": [node("MatMul", "a b", "w")],
    "gemm": [node("Gemm", "a b c", "w", alpha=0.5, beta=2.0)],
    "turned": [node("Gemm", "at bt", "w", transA=1, transB=1)],
    "einsum": [node("Einsum", "a b", "w", equation="ij,jk->ik")],
}


def folding(name: str) -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    a, b, c = (rng.standard_normal(s).astype(np.float32) for s in ((40, 70), (70, 30), (30,)))
    constants = {"a": a, "b": b, "c": c, "at": a.T.copy(), "bt": b.T.copy()}
    return model([*FOLDABLE[name], node("MatMul", "x w", "y")], {"x": ["N", 40]}, "y", constants)


@pytest.mark.parametrize("name", FOLDABLE)
def test_folded_products_are_summed_in_float64(name: str) -> None:
    """BLAS, which sums float32 in an order of its own, would differ in the last bits."""
    proto = folding(name)
    after, _ = rewrite(graph_of(proto))
    (it,) = after.nodes
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    a, b = constants["a"].astype(np.float64), constants["b"].astype(np.float64)
    exact = np.float32([[sum(a[i] * b[:, j]) for j in range(30)] for i in range(40)])
    if name == "gemm":
        exact = exact * np.float32(0.5) + constants["c"] * np.float32(2)
    np.testing.assert_array_equal(after.initializers[it.inputs[1]].T, exact)
    feeds = {"x": floats(5, 40)}
    found = reference.run(after, feeds)["y"]
    np.testing.assert_allclose(found, onnxruntime_run(proto, feeds)["y"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("a", "b"),
    [((7,), (7,)), ((7,), (7, 3)), ((5, 7), (7,)), ((2, 5, 7), (7, 3)), ((4, 1, 5, 7), (2, 7, 3)),
     ((2, 5, 7), (7,)), ((7,), (2, 7, 3))],
)  # fmt: skip
def test_folded_products_have_the_shapes_of_matmul(a: Any, b: Any) -> None:
    x, y = floats(*a), floats(*b)
    found = folded_product(x, y)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.matmul(x, y), rtol=1e-4, atol=1e-5, strict=True)


def test_folded_integers_stay_exact() -> None:
    big = np.array([[2**62, 1]], np.int64)
    assert folded_product(big, big.T).dtype == np.int64
    assert folded_product(big, np.array([[1], [3]]))[0, 0] == 2**62 + 3


def test_what_must_go_through_blas_is_not_folded() -> None:
    nodes = [node("ConvTranspose", "a k", "w"), node("Add", "x w", "y")]
    constants = {"a": floats(1, 3, 6, 6), "k": floats(3, 2, 3, 3)}
    after, log = rewrite(graph_of(model(nodes, {"x": ["N", 2, 8, 8]}, "y", constants)))
    assert [n.op for n in after.nodes] == ["ConvTranspose", "Add"]
    assert any("number of BLAS threads" in e.reason for e in log)


def test_a_conv_of_constants_is_folded_without_blas() -> None:
    a, k = floats(1, 3, 6, 6), floats(2, 3, 6, 6)
    nodes = [node("Conv", "a k", "w"), node("Add", "x w", "y")]
    after, _ = rewrite(graph_of(model(nodes, {"x": ["N", 2, 1, 1]}, "y", {"a": a, "k": k})))
    (add,) = after.nodes
    found = after.initializers[add.inputs[1]].reshape(2)
    wide = (a.astype(np.float64) * k).sum((1, 2, 3))
    np.testing.assert_allclose(found, wide, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(os.cpu_count() == 1, reason="BLAS has one thread anyway")
def test_a_fingerprint_does_not_depend_on_the_threads_of_blas(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    constants = {"a": rng.standard_normal((300, 700)), "b": rng.standard_normal((700, 100))}
    nodes = [node("MatMul", "a b", "w"), node("MatMul", "x w", "y")]
    onnx.save(model(nodes, {"x": ["N", 300]}, "y", constants), tmp_path / "m.onnx")
    code = f"import engine; print(engine.compile({str(tmp_path / 'm.onnx')!r}).fingerprint)"
    found = set()
    for threads in ("1", "2"):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        env = {**os.environ, **dict.fromkeys(names, threads)}
        command = [sys.executable, "-c", code]
        found.add(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)
    assert len(found) == 1


# --- bounds


@pytest.mark.parametrize(("low", "high"), [(np.nan, 1.0), (0.0, np.nan), (np.nan, np.nan)])
def test_a_bound_that_is_nan_is_none_as_in_onnxruntime(low: float, high: float) -> None:
    bounds = {"low": np.float32(low), "high": np.float32(high)}
    proto = model([node("Clip", "x low high", "y")], {"x": ["N", 7]}, "y", bounds)
    feeds = {"x": np.tile(np.float32([-1, 0, 2, np.nan, -5, 5, 0.5]), (5, 1))}
    expected = onnxruntime_run(proto, feeds)["y"]
    graph = graph_of(proto)
    with engine.Session(engine.compile(graph)) as session:
        np.testing.assert_array_equal(session.run(feeds)["y"], expected)
    np.testing.assert_array_equal(reference.run(graph, feeds)["y"], expected)


def test_a_bound_that_is_nan_is_none_behind_a_product() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Clip", "h low high", "y")]
    bounds = {"low": np.float32(np.nan), "high": np.float32(0.5)}
    proto = model(nodes, {"x": ["N", 7]}, "y", {"w": floats(7, 4), **bounds})
    after, _ = rewrite(graph_of(proto))
    assert [n.op for n in after.nodes] == ["Linear"]
    feeds = {"x": floats(5, 7)}
    expected = onnxruntime_run(proto, feeds)["y"]
    np.testing.assert_allclose(reference.run(after, feeds)["y"], expected, rtol=1e-4, atol=1e-5)
