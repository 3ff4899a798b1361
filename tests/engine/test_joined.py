"""Concat, Split and Slice of features, of rows and of tokens: onnxruntime's numbers, natively."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small
from hypothesis import given, settings
from hypothesis import strategies as st
from rewritten import floats

import engine
from engine.errors import UnsupportedError
from engine.reader import graph_of
from engine.segments import Column, Fallback, Sequences


def outputs(proto: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """Ours, after a look that all of it is native and that it is what onnxruntime computes."""
    program = engine.compile(graph_of(proto))
    assert not [s for s in program.segments if isinstance(s, Fallback)], str(program)
    with engine.Session(program, cpus=[0]) as session:
        found = session.run(feeds)
        alone = session.run({name: x[2:3] for name, x in feeds.items()})
    for name, want in small.onnxruntime_run(proto, feeds).items():
        np.testing.assert_allclose(found[name], want, rtol=1e-4, atol=1e-5)
        assert found[name][2:3].tobytes() == alone[name].tobytes()
    return dict(found)


def wide_and_deep() -> onnx.ModelProto:
    """Two parts of a row, one of them through a layer, beside each other and beside the row."""
    nodes = [
        small.node("Slice", "x zero seven one", "front"),
        small.node("Slice", "x five end one", "back"),
        small.node("Gemm", "front w", "hidden"),
        small.node("Relu", "hidden", "deep"),
        small.node("Concat", "deep back x deep", "all", axis=1),
        small.node("Gemm", "all v", "y"),
    ]
    numbers = {"zero": [0], "one": [1], "five": [5], "seven": [7], "end": [2**31 - 1]}
    weights = {"w": floats(7, 9), "v": floats(9 + 15 + 20 + 9, 4)}
    return small.model(
        nodes, {"x": ["N", 20]}, {"y": ["N", 4], "all": ["N", 53]}, numbers | weights
    )


@pytest.mark.parametrize("rows", [3, 33, 70])
def test_parts_of_rows_side_by_side(rows: int) -> None:
    x = floats(rows, 20)
    x[0, 6] = np.nan  # of both parts, and of no other row
    found = outputs(wide_and_deep(), {"x": x})
    assert np.isnan(found["y"][0]).all() and not np.isnan(found["y"][1:]).any()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_what_is_split_is_joined_in_any_order(widths: list[int], random: Any) -> None:
    names = [f"v{i}" for i in range(len(widths))]
    order = [random.choice(names) for _ in range(random.randint(1, 6))]
    nodes = [
        small.node("Split", "x widths", " ".join(names), axis=-1),
        small.node("Concat", " ".join(order), "y", axis=-1),
    ]
    width = sum(widths[names.index(name)] for name in order)
    shapes = {"x": ["N", sum(widths)]}, {"y": ["N", width]}
    proto = small.model(nodes, *shapes, {"widths": widths})
    x = floats(5, sum(widths))
    starts = np.cumsum([0, *widths])
    parts = {n: x[:, a:b] for n, a, b in zip(names, starts, starts[1:], strict=False)}
    found = outputs(proto, {"x": x})["y"]
    assert found.tobytes() == np.concatenate([parts[n] for n in order], axis=1).tobytes()


def test_features_of_tokens_side_by_side() -> None:
    nodes = [
        small.node("MatMul", "x w", "a"),
        small.node("Concat", "a x", "b", axis=2),
        small.node("MatMul", "b v", "y"),
    ]
    shapes = {"x": ["N", "S", 6]}, {"y": ["N", "S", 3]}
    proto = small.model(nodes, *shapes, {"w": floats(6, 5), "v": floats(11, 3)})
    program = engine.compile(graph_of(proto))
    assert [type(s) for s in program.segments] == [Sequences]
    outputs(proto, {"x": floats(4, 9, 6)})


def joined(shape: tuple[int | str, ...], axis: int) -> onnx.ModelProto:
    inputs = {"x": ["N", *shape], "z": ["N", *shape]}
    return small.model([small.node("Concat", "x z", "y", axis=axis)], inputs, "y")


def test_what_lies_apart_is_left_to_the_reference() -> None:
    (segment,) = engine.compile(graph_of(joined(("S", 2, 3), 3))).segments
    assert isinstance(segment, Fallback) and "it joins the axis 3 of" in segment.reasons[0]


def test_rows_are_not_joined() -> None:
    with pytest.raises(UnsupportedError, match="mixes rows"):
        engine.compile(graph_of(joined((6,), 0)))


def test_a_column_holds_them_all() -> None:
    assert [type(s) for s in engine.compile(graph_of(wide_and_deep())).segments] == [Column]
