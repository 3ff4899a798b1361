"""ArgMax, ArgMin and TopK: kernels against plain loops, models against onnxruntime."""

from __future__ import annotations

from typing import Any

import naive
import numpy as np
import pytest
import small_models as small
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import call, offsets_of, panel

import engine
from engine.kernels.row import Kernel
from engine.kernels.table import KERNELS, kernels_of
from engine.reader import graph_of
from engine.segments import Column, Sequences

Array = np.ndarray[Any, Any]
FEW = np.array([0.0, -0.0, 1.0, -1.0, 2.5, np.inf, -np.inf, np.nan], np.float32)
"""Values of which many are equal."""


@st.composite
def rows(draw: st.DrawFn, rank: int = 3, most: int = 12) -> Array:
    """x[rows, ...]: all different, or many equal, with or without NaN."""
    shape = (draw(st.integers(1, 70)), *(draw(st.integers(1, most)) for _ in range(rank - 1)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["different", "equal", "with NaN"]))
    if kind == "different":
        return rng.standard_normal(shape).astype(np.float32)
    return rng.choice(FEW[: 8 if kind == "with NaN" else 7], shape)


@pytest.mark.parametrize("kernel", kernels_of("extreme"), ids=lambda k: k.name)
@settings(max_examples=40, deadline=None)
@given(x=rows(rank=4, most=7), k=st.integers(1, 7))
def test_a_kernel_finds_what_loops_find(kernel: Kernel, x: Array, k: int) -> None:
    points, most = kernel.points, str(kernel.arguments[1])
    x = x[:points]
    live, outer, axis, inner = x.shape
    source, k = panel(outer * axis * inner, x.reshape(live, -1), points), min(k, axis)
    if kernel.name.startswith("top"):
        values, places = (panel(outer * k * inner, None, points) for _ in range(2))
        call(kernel.name, (source, values, places, outer, axis, inner, k), live=live)
        expected, where = naive.top(x, k, largest=most == "max")
        got = values[: outer * k * inner, :live].T.reshape(live, outer, k, inner)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))
        assert (values[outer * k * inner :] == -12345).all(), "beyond the panel"
    else:
        places = panel(outer * inner, None, points)
        call(kernel.name, (source, places, outer, axis, inner), live=live)
        where, k = naive.extreme(x, most, str(kernel.arguments[2])), 1
    found = places[: outer * k * inner, :live].T.reshape(where.shape)
    np.testing.assert_array_equal(found, where)
    assert (places[outer * k * inner :] == -12345).all(), "beyond the panel"


def compiled(proto: Any, wanted: str = "") -> engine.Program:
    """The program, which has no fallback if it runs `wanted`."""
    program = engine.compile(graph_of(proto))
    kernels = [s.kernel for g in program.segments if isinstance(g, Column) for s in g.steps]
    if wanted:
        assert len(program.segments) == 1 and any(k.startswith(wanted) for k in kernels), kernels
    return program


def run(program: engine.Program, x: Array) -> dict[str, Array]:
    with engine.Session(program, cpus=[0]) as session:
        return dict(session.run({"x": x}))


def expect_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array)


@settings(max_examples=60, deadline=None)
@given(
    x=rows(),
    op=st.sampled_from(["ArgMax", "ArgMin"]),
    axis=st.sampled_from([1, 2, -1, -2]),
    keepdims=st.integers(0, 1),
    last=st.integers(0, 1),
)
def test_argmax_and_argmin_are_onnxruntimes(
    x: Array, op: str, axis: int, keepdims: int, last: int
) -> None:
    """To the tie and to the NaN."""
    pytest.importorskip("onnxruntime")
    attributes = {"axis": axis, "keepdims": keepdims, "select_last_index": last}
    proto = small.model([small.node(op, "x", "y", **attributes)], {"x": ["n", *x.shape[1:]]}, {})
    proto.graph.output.append(small.info("y", None, np.int64))
    found = run(compiled(proto, f"{op.lower()}_{'last' if last else 'first'}"), x)
    expect_same(found, small.onnxruntime_run(proto, {"x": x}))


@settings(max_examples=60, deadline=None)
@given(
    x=rows(),
    k=st.integers(1, 12),
    axis=st.sampled_from([1, 2, -1, -2]),
    largest=st.integers(0, 1),
    as_asked=st.booleans(),
)
def test_topk_is_onnxruntimes(x: Array, k: int, axis: int, largest: int, as_asked: bool) -> None:
    """Of what may come in any order, the sorted result is one; onnxruntime's is another."""
    pytest.importorskip("onnxruntime")
    k = min(k, x.shape[axis])
    attributes = {"axis": axis, "largest": largest}
    shapes = {"x": ["n", *x.shape[1:]]}
    asked = small.node("TopK", "x k", "v i", **attributes)
    proto = small.model([asked], shapes, {}, {"k": [k]})
    proto.graph.output.extend([small.info("v", None), small.info("i", None, np.int64)])
    expected = small.onnxruntime_run(proto, {"x": x})
    if not as_asked:
        proto.graph.node[0].CopyFrom(small.node("TopK", "x k", "v i", sorted=0, **attributes))
    expect_same(run(compiled(proto, "topmax" if largest else "topmin"), x), expected)


def classifier(tail: list[Any], outputs: dict[str, Any]) -> Any:
    rng = np.random.default_rng(4)
    weights = {"w": rng.standard_normal((6, 10)).astype(np.float32)}
    nodes = [small.node("MatMul", "x w", "z"), *tail]
    more = {"k": [3], "axes": [1], "shape": [0, 1, 1]}
    read = {name for node in nodes for name in node.input}
    constants = {**weights, **{n: v for n, v in more.items() if n in read}}
    proto = small.model(nodes, {"x": ["n", 6]}, {}, constants)
    proto.graph.output.extend(small.info(n, None, dtype) for n, dtype in outputs.items())
    return proto


TAILS: dict[str, tuple[list[Any], dict[str, Any], bool]] = {
    "label beside probabilities": (
        [small.node("Softmax", "z", "p", axis=1), small.node("ArgMax", "p", "y", axis=1)],
        {"y": np.int64, "p": np.float32},
        True,
    ),
    "places in other shapes": (
        [
            small.node("ArgMax", "z", "a", axis=1),
            small.node("Squeeze", "a axes", "y"),
            small.node("Reshape", "a shape", "cube"),
        ],
        {"y": np.int64, "cube": np.int64, "a": np.int64},
        True,
    ),
    "places as numbers": (
        [
            small.node("ArgMin", "z", "a", axis=1),
            small.node("Cast", "a", "y", to=1),
            small.node("Mul", "y y", "square"),
        ],
        {"square": np.float32},
        True,
    ),
    "places that a fallback reads": (
        [
            small.node("TopK", "z k", "v i", axis=1),
            small.node("Cast", "i", "short", to=6),
            small.node("Add", "v v", "twice"),
        ],
        {"short": np.int32, "twice": np.float32},
        False,
    ),
    "values alone": ([small.node("TopK", "z k", "v i", axis=-1)], {"v": np.float32}, True),
    "places alone": ([small.node("TopK", "z k", "v i", axis=-1)], {"i": np.int64}, True),
}


@pytest.mark.parametrize("case", TAILS)
@pytest.mark.parametrize("count", [1, 31, 64, 77])
def test_places_go_on_through_a_model(case: str, count: int) -> None:
    pytest.importorskip("onnxruntime")
    tail, outputs, whole = TAILS[case]
    proto = classifier(tail, outputs)
    program = compiled(proto)
    assert (len(program.segments) == 1) is whole
    x = np.random.default_rng(count).standard_normal((count, 6)).astype(np.float32)
    found, expected = run(program, x), small.onnxruntime_run(proto, {"x": x})
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


def test_no_rows_give_no_places() -> None:
    proto = classifier([small.node("ArgMax", "z", "y", axis=1, keepdims=0)], {"y": np.int64})
    found = run(compiled(proto), np.empty((0, 6), np.float32))
    assert found["y"].shape == (0,) and found["y"].dtype == np.int64


@pytest.mark.parametrize(
    ("node", "shape", "constants", "dtype", "said"),
    [
        (small.node("ArgMax", "x", "y", axis=3), ["n", 9, 90, 90], {}, np.float32, ""),
        (small.node("ArgMax", "x", "y", axis=1), ["n", 3, 90, 90], {}, np.float32, "more than 16"),
        (small.node("ArgMax", "x", "y", axis=1), ["n", 9], {}, np.int32, "int32"),
        (small.node("TopK", "x k", "y i"), ["n", 90], {"k": [17]}, np.float32, "from 1 to 16"),
        (small.node("TopK", "x k", "y i"), ["n", 9], {"k": [0]}, np.float32, "from 1 to 9"),
    ],
)  # fmt: skip
def test_what_has_no_kernel_says_why(
    node: Any, shape: Any, constants: Any, dtype: Any, said: str
) -> None:
    proto = small.model([node], {}, {}, constants)
    proto.graph.input.append(small.info("x", shape, dtype))
    for name in node.output:
        places = name == "i" or node.op_type == "ArgMax"
        proto.graph.output.append(small.info(name, None, np.int64 if places else dtype))
    report = engine.explain(graph_of(proto)).nodes[0]
    assert (report.kernel == "reference") is bool(said)
    assert said in report.reason


def test_every_width_has_its_kernels() -> None:
    names = {name.rpartition("_x")[0] for name in KERNELS if KERNELS[name].family == "extreme"}
    assert names == {
        *(f"arg{most}_{which}_f32" for most in ("max", "min") for which in ("first", "last")),
        "topmax_f32", "topmin_f32",
    }  # fmt: skip


def test_every_token_has_its_places() -> None:
    """Labels of tokens, of sequences of any length, come back as the tokens went in."""
    pytest.importorskip("onnxruntime")
    table = np.random.default_rng(6).standard_normal((20, 5)).astype(np.float32)
    nodes = [
        small.node("Gather", "table ids", "z"),
        small.node("ArgMax", "z", "label", axis=-1, keepdims=0),
        small.node("TopK", "z k", "best where", axis=-1),
    ]
    proto = small.model(nodes, {}, {}, {"table": table, "k": [2]})
    proto.graph.input.append(small.info("ids", ["n", "s"], np.int64))
    outputs = {"label": np.int64, "best": np.float32, "where": np.int64}
    proto.graph.output.extend(small.info(n, None, dtype) for n, dtype in outputs.items())
    program = engine.compile(graph_of(proto))
    assert [type(s) for s in program.segments] == [Sequences]
    rng = np.random.default_rng(7)
    rows = [rng.integers(0, 20, length) for length in (1, 40, 3, 33, 7)]
    ids = engine.Ragged(np.concatenate(rows), offsets_of([len(row) for row in rows]))
    with engine.Session(program, cpus=[0]) as session:
        found = session.run({"ids": ids})
    for name, dtype in outputs.items():
        parts = [small.onnxruntime_run(proto, {"ids": row[None]})[name][0] for row in rows]
        assert found[name].values.dtype == dtype
        np.testing.assert_array_equal(found[name].values, np.concatenate(parts))
