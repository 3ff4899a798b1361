"""engine.rewrites as a table: names, switches, everything at once, and that the meaning stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewritten import X, agreeing, fired, floats
from small_models import model, node, onnxruntime_run

from engine import reference
from engine.errors import EngineError
from engine.reader import graph_of
from engine.rewrites import REWRITES, rewrite


def test_names_are_unique_and_each_can_be_turned_off() -> None:
    names = [r.name for r in REWRITES]
    assert len(set(names)) == len(names)
    graph = graph_of(model([node("Gemm", "x w", "y")], X, "y", {"w": floats(6, 2)}))
    same, log = rewrite(graph, frozenset(names))
    assert same.nodes == graph.nodes and log == ()
    wanted = "columns, sparse, epilogues, confirm, pages, groups, branches, halves, fold, "
    with pytest.raises(EngineError, match=f"expected names among {wanted}"):
        rewrite(graph, frozenset({"nonesuch"}))


def everything() -> onnx.ModelProto:
    """One of each thing that a rewrite looks for."""
    return model(
        [
            node("Add", "c1 c1", "c2", name="constant"),
            node("Sub", "x mean", "s", name="shift"),
            node("Div", "s c2", "d", name="scale"),
            node("MatMul", "d w1", "m", name="first"),
            node("Add", "m b1", "a", name="bias"),
            node("BatchNormalization", "a g b mu va", "n", name="norm"),
            node("Relu", "n", "r", name="relu"),
            node("Dropout", "r", "o", name="dropout"),
            node("Shape", "o", "sh", name="shape"),
            node("Gather", "sh i0", "n0", name="rows"),
            node("Unsqueeze", "n0 i0v", "n1", name="rows1"),
            node("Concat", "n1 two", "t", axis=0, name="target"),
            node("Reshape", "o t", "re", name="reshape"),
            node("Gemm", "o w2 b2", "h", transB=1, name="second"),
            node("Sigmoid", "h", "hs", name="gate"),
            node("Mul", "h hs", "y", name="silu"),
            node("Exp", "y", "z", name="unused"),
            node("Neg", "re", "y2", name="neg"),
        ],
        X,
        "y y2",
        {
            "c1": 2.0,
            "mean": floats(6),
            "w1": floats(6, 4),
            "b1": floats(4),
            "g": floats(4),
            "b": floats(4),
            "mu": floats(4),
            "va": np.abs(floats(4)),
            "i0": 0,
            "i0v": [0],
            "two": [2, 2],
            "w2": floats(3, 4),
            "b2": floats(3),
        },
    )


def test_everything_at_once(golden: Callable[[str, str], None]) -> None:
    after, log = agreeing(everything())
    golden("rewrites", "\n".join([str(after), *map(str, log)]))


@pytest.mark.parametrize("off", [r.name for r in REWRITES])
def test_the_meaning_is_the_same_with_any_rewrite_off(off: str) -> None:
    proto = everything()
    graph, log = rewrite(graph_of(proto), frozenset({off}))
    assert off not in fired(log)
    x = floats(3, 6)
    expected = onnxruntime_run(proto, {"x": x})
    for name, array in reference.run(graph, {"x": x}).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-5)


def test_the_graph_before_is_left_alone() -> None:
    graph = graph_of(everything())
    text, weights = str(graph), graph.initializers["w1"].copy()
    rewrite(graph)
    assert str(graph) == text
    np.testing.assert_array_equal(graph.initializers["w1"], weights)


KINDS = ["MatMul", "Add", "Sub", "Mul", "Div", "Relu", "Sigmoid", "Tanh", "Clip", "Fork"]


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """A chain of layers, scales, shifts and activations with some values read twice."""
    width, nodes, constants, outputs = 5, [], {}, []
    value, shape = "x", ["batch", *draw(st.sampled_from([[], [2]])), width]
    for index in range(draw(st.integers(1, 8))):
        out, c = f"v{index}", f"c{index}"
        kind = draw(st.sampled_from(KINDS))
        seed = np.random.default_rng(draw(st.integers(0, 99)))
        if kind == "MatMul":
            constants[c] = (seed.standard_normal((width, width)) * 0.4).astype(np.float32)
        elif kind in ("Add", "Sub", "Mul", "Div"):
            size = draw(st.sampled_from([(), (1,), (width,), (1, width)]))
            sign = seed.choice([-1, 1], size)
            constants[c] = (sign * seed.uniform(0.5, 2, size)).astype(np.float32)
        if kind == "Fork":
            nodes.append(node("Add", f"{value} {draw(st.sampled_from([value, 'x']))}", out))
        elif kind == "Clip":
            constants |= {"lo": np.float32(-1), "hi": np.float32(1)}
            nodes.append(node("Clip", f"{value} lo hi", out))
        elif c in constants:
            left = kind in ("Add", "Sub", "Mul") and draw(st.booleans())
            nodes.append(node(kind, f"{c} {value}" if left else f"{value} {c}", out))
        else:
            nodes.append(node(kind, value, out))
        if draw(st.booleans()) and index % 3 == 0:
            outputs.append(out)
        value = out
    outputs = list(dict.fromkeys([*outputs, value]))
    return model(nodes, {"x": shape}, " ".join(outputs), constants)


@settings(max_examples=150, deadline=None)
@given(chains(), st.integers(0, 20))
def test_rewrites_keep_the_meaning(proto: onnx.ModelProto, rows: int) -> None:
    before = graph_of(proto)
    after, _ = rewrite(before)
    dims = [rows, *(before.inputs[0].shape or ())[1:]]
    x = np.random.default_rng(rows).standard_normal([int(d) for d in dims]).astype(np.float32)
    expected = onnxruntime_run(proto, {"x": x})
    oracle, found = reference.run(before, {"x": x}), reference.run(after, {"x": x})
    for name, array in expected.items():
        np.testing.assert_allclose(oracle[name], array, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[name], oracle[name], rtol=1e-4, atol=2e-5)
