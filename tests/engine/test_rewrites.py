"""engine.rewrites: each fires where it should, refuses with its reason, and keeps the meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import Array, model, node, onnxruntime_run

from engine import reference
from engine.errors import EngineError
from engine.graph import Graph
from engine.reader import graph_of
from engine.rewrites import REWRITES, Event, rewrite

RNG = np.random.default_rng(0)
X = {"x": ["batch", 6]}


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def rewritten(proto: onnx.ModelProto, **feeds: Array) -> tuple[Graph, tuple[Event, ...]]:
    """Rewrite, and check the meaning against the graph before and onnxruntime."""
    before = graph_of(proto)
    after, log = rewrite(before)
    for value in before.inputs:
        rest = [d if isinstance(d, int) else 3 for d in (value.shape or ())[1:]]
        feeds.setdefault(value.name, floats(5, *rest))
    expected = onnxruntime_run(proto, feeds)
    for graph in (before, after):
        found = reference.run(graph, feeds)
        for name, array in expected.items():
            small = 2e-6 * float(np.abs(array).max(initial=1.0))  # sums cancel
            np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=small)
    assert [v.name for v in after.outputs] == [v.name for v in before.outputs]
    return after, log


def ops(graph: Graph) -> list[str]:
    return [n.label for n in graph.nodes]


def reasons(log: tuple[Event, ...], name: str) -> list[str]:
    return [e.reason for e in log if e.rewrite == name and not e.fired]


def fired(log: tuple[Event, ...]) -> set[str]:
    return {e.rewrite for e in log if e.fired}


def activations(graph: Graph) -> list[str]:
    return [op for n in graph.nodes for op, *_ in n.attributes.get("activations", ())]


# --- the machinery


def test_names_are_unique_and_each_can_be_turned_off() -> None:
    names = [r.name for r in REWRITES]
    assert len(set(names)) == len(names)
    graph = graph_of(model([node("Gemm", "x w", "y")], X, "y", {"w": floats(6, 2)}))
    same, log = rewrite(graph, frozenset(names))
    assert same.nodes == graph.nodes and log == ()
    with pytest.raises(EngineError, match="expected names among columns, sparse, fold, "):
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
    after, log = rewritten(everything())
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


# --- fold


def test_chains_of_constants_are_computed() -> None:
    nodes = [node("Neg", "c", "d"), node("Exp", "d", "e"), node("Mul", "x e", "y")]
    after, log = rewritten(model(nodes, X, "y", {"c": floats(6)}))
    assert ops(after) == ["Mul"]
    assert [e.node for e in log if e.rewrite == "fold" and e.fired] == ["Neg_0", "Exp_1"]


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        ([node("Expand", "c s", "d"), node("Add", "x d", "y")], {"s": [10**8, 6]}, "bytes"),
        ([node("ConstantOfShape", "s", "d"), node("Add", "x d", "y")], {"s": [2**40, 6]}, "bytes"),
        ([node("RandomNormalLike", "c", "d"), node("Add", "x d", "y")], {}, "random"),
        ([node("Neg", "c", "y")], {}, "graph output"),
    ],
)
def test_constants_that_must_not_be_computed(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], reason: str
) -> None:
    proto = model(nodes, X, "y", {"c": floats(6), **constants})
    after, log = rewrite(graph_of(proto))
    assert len(after.nodes) == len(nodes)
    assert any(reason in r for r in reasons(log, "fold"))


# --- identity and dead code


@pytest.mark.parametrize(
    "nothing",
    [
        node("Identity", "h", "i"),
        node("Dropout", "h", "i mask"),
        node("Cast", "h", "i", to=1),
        node("Reshape", "h same", "i"),
        node("Transpose", "h", "i", perm=[0, 1]),
        node("Concat", "h", "i", axis=1),
        node("Mul", "one h", "i"),
        node("Sub", "h zeros", "i"),
        node("Flatten", "h", "i"),
    ],
    ids=lambda n: n.op_type,
)
def test_nodes_that_do_nothing_go(nothing: onnx.NodeProto) -> None:
    constants = {"same": [0, 6], "one": 1.0, "zeros": np.zeros(6, np.float32)}
    after, _ = rewritten(
        model([node("Neg", "x", "h"), nothing, node("Exp", "i", "y")], X, "y", constants)
    )
    assert ops(after) == ["Neg", "Exp"]


def test_a_graph_output_keeps_its_name() -> None:
    nodes = [node("Neg", "x", "h"), node("Identity", "h", "y"), node("Identity", "h", "z")]
    after, log = rewritten(model(nodes, X, "y z"))
    assert ops(after) == ["Neg", "Identity"]
    assert "another name that must stay" in reasons(log, "identity")[0]
    straight, _ = rewritten(model([node("Identity", "x", "y")], X, "y"))
    assert ops(straight) == ["Identity"]


def test_chains_of_nothing_go_at_once() -> None:
    nodes = [node("Identity", a, b) for a, b in ("xa", "ab", "bc", "cd")]
    after, _ = rewritten(model([*nodes, node("Relu", "d", "y")], X, "y"))
    assert ops(after) == ["Relu"] and after.nodes[0].inputs == ("x",)


def test_what_is_not_nothing_stays() -> None:
    nodes = [
        node("Cast", "x", "a", to=11),
        node("Cast", "a", "b", to=1),
        node("Mul", "b wide", "c"),
        node("Div", "one c", "d"),
        node("Sub", "zero d", "y"),
    ]
    constants = {"wide": np.ones((1, 1, 6), np.float32), "one": 1.0, "zero": 0.0}
    after, _ = rewritten(model(nodes, X, "y", constants))
    assert ops(after) == ["Cast", "Cast", "Mul", "Div", "Sub"]


# --- static_shape


def test_a_computed_reshape_target_becomes_a_constant() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s i0", "n"),
        node("Gather", "s i1", "k"),
        node("Mul", "k k", "kk"),
        node("Div", "kk k", "k2"),
        node("Unsqueeze", "n ax", "n1"),
        node("Unsqueeze", "k2 ax", "k3"),
        node("Concat", "n1 two k3", "t", axis=0),
        node("Concat", "x x", "xx", axis=1),
        node("Reshape", "xx t", "r"),
        node("Neg", "r", "y"),
    ]
    constants = {"i0": 0, "i1": 1, "ax": [0], "two": [2]}
    after, log = rewritten(model(nodes, X, "y", constants))
    assert ops(after) == ["Concat", "Reshape", "Neg"]
    assert after.initializers[after.nodes[1].inputs[1]].tolist() == [0, 2, 6]
    assert {"static_shape", "fold", "dead_code"} <= fired(log)


def test_a_shape_with_more_open_than_the_rows_stays() -> None:
    nodes = [node("Shape", "a", "s"), node("Reshape", "b s", "r"), node("Neg", "r", "y")]
    shapes = {"a": ["batch", 2, "p", "q"], "b": ["batch", "r", 2]}
    after, log = rewrite(graph_of(model(nodes, shapes, "y")))
    assert "Reshape" in ops(after)
    assert any("more open than can be told" in r for r in reasons(log, "static_shape"))


# --- linear


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
    after, _ = rewritten(proto)
    assert ops(after) == ["colonnade.Linear"]
    weights = after.initializers[after.nodes[0].inputs[1]]
    assert weights.shape == (4, 6) and weights.flags.c_contiguous
    assert weights.dtype == np.float32


@pytest.mark.parametrize("shape", [[6], [2, 6], ["seq", 6]])
def test_matmul_becomes_linear_at_any_rank(shape: list[Any]) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Add", "b m", "a"), node("Relu", "a", "y")]
    proto = model(nodes, {"x": ["batch", *shape]}, "y", {"w": floats(6, 4), "b": floats(4)})
    after, _ = rewritten(proto)
    assert ops(after) == ["colonnade.Linear"] and activations(after) == ["Relu"]


def test_a_c_that_is_no_vector_is_added_on_its_own() -> None:
    proto = model([node("Gemm", "x w z", "y")], {**X, "z": ["batch", 4]}, "y", {"w": floats(6, 4)})
    after, _ = rewritten(proto)
    assert ops(after) == ["colonnade.Linear", "Add"]


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
    assert any(reason in r for r in reasons(log, "linear"))


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
    after, _ = rewritten(model(nodes, X, "y", {"w": w, "two": 2.0, "w0": w[:1]}))
    assert ops(after) == ["colonnade.Linear"] * 4


# --- affine


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
    after, log = rewritten(model(nodes, X, "y", constants))
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
    after, _ = rewritten(model(nodes, X, "y", constants))
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
    ],
)
def test_scales_and_shifts_that_must_stay(
    nodes: list[onnx.NodeProto], outputs: str, rewrite_name: str, reason: str
) -> None:
    constants = {"w": floats(6, 6), "v": floats(6), "zero": [0.0, 1, 1, 1, 1, 1], "inf": np.inf}
    constants |= {"tiny": 1e-25, "big": floats(5, 6), "far": 1000.0}
    graph = graph_of(model(nodes, X, outputs, constants))
    after, log = rewrite(graph)
    assert any(reason in r for r in reasons(log, rewrite_name)), log
    x = floats(5, 6)
    expected = reference.run(graph, {"x": x})
    for name, array in reference.run(after, {"x": x}).items():
        np.testing.assert_allclose(array, expected[name], rtol=2e-5, atol=2e-6)


# --- sink


def test_a_scalar_scale_moves_behind_flatten_into_the_linear() -> None:
    nodes = [
        node("Sub", "x half", "a"),
        node("Mul", "a scale", "b"),
        node("Flatten", "b", "c"),
        node("Gemm", "c w", "y"),
    ]
    constants = {"half": 0.5, "scale": 1 / 255, "w": floats(12, 3)}
    after, log = rewritten(model(nodes, {"x": ["batch", 3, 4]}, "y", constants))
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
    after, log = rewritten(proto)
    assert ops(after) == ["Mul", "Flatten", "colonnade.Linear"]
    assert any(reason in r for r in reasons(log, "sink"))


def test_a_normalization_over_positions_stays() -> None:
    nodes = [node("MatMul", "x w", "h"), node("BatchNormalization", "h v v v p", "y")]
    constants = {"w": floats(6, 6), "v": floats(2), "p": np.abs(floats(2))}
    after, log = rewritten(model(nodes, {"x": ["batch", 2, 6]}, "y", constants))
    assert ops(after) == ["colonnade.Linear", "BatchNormalization"]
    assert "differs along dimension 1" in reasons(log, "affine_after")[0]


# --- activation and decomposed


ACTIVATIONS: Mapping[str, tuple[onnx.NodeProto, str]] = {
    "Relu": (node("Relu", "h", "y"), "Relu"),
    "LeakyRelu": (node("LeakyRelu", "h", "y", alpha=0.3), "LeakyRelu"),
    "Sigmoid": (node("Sigmoid", "h", "y"), "Sigmoid"),
    "Tanh": (node("Tanh", "h", "y"), "Tanh"),
    "Erf": (node("Erf", "h", "y"), "Erf"),
    "Gelu": (node("Gelu", "h", "y"), "Gelu"),
    "GeluTanh": (node("Gelu", "h", "y", approximate="tanh"), "GeluTanh"),
    "Clip": (node("Clip", "h low high", "y"), "Clip"),
    "Clip above": (node("Clip", "h - high", "y"), "Clip"),
    "HardSigmoid": (node("HardSigmoid", "h", "y", alpha=0.3, beta=0.4), "HardSigmoid"),
    "HardSwish": (node("HardSwish", "h", "y"), "HardSwish"),
    "Elu": (node("Elu", "h", "y", alpha=0.7), "Elu"),
    "Softplus": (node("Softplus", "h", "y"), "Softplus"),
    "Exp": (node("Exp", "h", "y"), "Exp"),
    "Neg": (node("Neg", "h", "y"), "Neg"),
    "Abs": (node("Abs", "h", "y"), "Abs"),
    "Pow": (node("Pow", "h two", "y"), "Square"),
    "Mul": (node("Mul", "h h", "y"), "Square"),
    "PRelu": (node("PRelu", "h low", "y"), "LeakyRelu"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_join_the_linear(name: str) -> None:
    last, expected = ACTIVATIONS[name]
    constants = {"w": floats(6, 4), "low": -0.5, "high": 0.75, "two": 2.0}
    after, _ = rewritten(model([node("MatMul", "x w", "h"), last], X, "y", constants, opset=20))
    assert ops(after) == ["colonnade.Linear"]
    assert activations(after) == [expected]


def test_several_activations_join_in_order() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("Relu", "t", "y")]
    after, _ = rewritten(model(nodes, X, "y", {"w": floats(6, 4)}))
    assert activations(after) == ["Tanh", "Relu"]


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        ([node("Relu", "h", "y"), node("Neg", "h", "z")], "y z", "h is read by 2 nodes"),
        ([node("Relu", "h", "y")], "y h", "h is a graph output"),
        ([node("Clip", "h bound", "y")], "y", "its bound bound is not one constant number"),
        ([node("PRelu", "h slopes", "y")], "y", "its slopes is not one constant number"),
    ],
)
def test_activations_that_must_stay(nodes: list[onnx.NodeProto], outputs: str, reason: str) -> None:
    first = [node("ReduceMax", "x", "bound", keepdims=0), node("MatMul", "x w", "h")]
    constants = {"w": floats(6, 4), "slopes": floats(4)}
    after, log = rewritten(model([*first, *nodes], X, outputs, constants))
    assert activations(after) == []
    assert any(reason in r for r in reasons(log, "activation"))


def gelu(*last: onnx.NodeProto) -> list[onnx.NodeProto]:
    head = [node("Div", "h rt2", "e0"), node("Erf", "e0", "e1"), node("Add", "e1 one", "e2")]
    return [*head, *last]


CUBE = [node("Mul", "h h", "q"), node("Mul", "q h", "p")]
POW = [node("Pow", "h three", "p")]
TANH = [
    node("Mul", "p c", "t0"),
    node("Add", "h t0", "t1"),
    node("Mul", "root t1", "t2"),
    node("Tanh", "t2", "t3"),
    node("Add", "one t3", "t4"),
    node("Mul", "half h", "t5"),
    node("Mul", "t5 t4", "y"),
]
SPELLED: Mapping[str, tuple[list[onnx.NodeProto], str]] = {
    "gelu, half last": (gelu(node("Mul", "h e2", "m"), node("Mul", "m half", "y")), "Gelu"),
    "gelu, half first": (gelu(node("Mul", "h half", "m"), node("Mul", "e2 m", "y")), "Gelu"),
    "gelu, half beside": (gelu(node("Mul", "half e2", "m"), node("Mul", "h m", "y")), "Gelu"),
    "gelu, divided": (gelu(node("Mul", "e2 h", "m"), node("Div", "m two", "y")), "Gelu"),
    "gelu, tanh of a power": ([*POW, *TANH], "GeluTanh"),
    "gelu, tanh of a cube": ([*CUBE, *TANH], "GeluTanh"),
    "silu": ([node("Sigmoid", "h", "s"), node("Mul", "s h", "y")], "Silu"),
    "hard swish": (
        [node("HardSigmoid", "h", "s", alpha=1 / 6, beta=0.5), node("Mul", "h s", "y")],
        "HardSwish",
    ),
    "hard swish, clipped": (
        [
            node("Add", "h three", "a"),
            node("Clip", "a zero six", "b"),
            node("Mul", "h b", "m"),
            node("Div", "m six", "y"),
        ],
        "HardSwish",
    ),
}
NUMBERS = {"rt2": np.sqrt(2), "one": 1.0, "half": 0.5, "two": 2.0, "three": 3.0, "zero": 0.0}
NUMBERS |= {"six": 6.0, "c": 0.044715, "root": np.sqrt(2 / np.pi)}


@pytest.mark.parametrize("name", SPELLED)
def test_spelled_out_activations_are_recognized(name: str) -> None:
    nodes, expected = SPELLED[name]
    linear = node("MatMul", "x w", "h")
    after, _ = rewritten(model([linear, *nodes], X, "y", {"w": floats(6, 4), **NUMBERS}))
    assert activations(after) == [expected]
    alone, _ = rewritten(model([node("Neg", "x", "h"), *nodes], X, "y", NUMBERS))
    assert ops(alone) == ["Neg", f"colonnade.{expected}"]


@pytest.mark.parametrize(
    "nodes",
    [
        gelu(node("Mul", "h e2", "m"), node("Mul", "m two", "y")),
        gelu(node("Mul", "x e2", "m"), node("Mul", "m half", "y")),
        [node("Sigmoid", "x", "s"), node("Mul", "s h", "y")],
        [node("HardSigmoid", "h", "s"), node("Mul", "h s", "y")],
    ],
)
def test_near_misses_are_not_recognized(nodes: list[onnx.NodeProto]) -> None:
    after, log = rewritten(model([node("Neg", "x", "h"), *nodes], X, "y", NUMBERS))
    assert "decomposed" not in fired(log)
    assert not any(label.startswith("colonnade") for label in ops(after))


# --- anything


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
