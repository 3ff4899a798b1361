"""What a session does with feeds of odd layout, order and content, and whose memory outputs are."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small

import engine
from engine.errors import FeedError
from engine.reader import graph_of
from engine.segments import Fallback

Array = np.ndarray[Any, Any]
CPUS = tuple(sorted(os.sched_getaffinity(0)))[:1]


def session_of(proto: onnx.ModelProto, **switches: Any) -> engine.Session:
    return engine.Session(engine.compile(graph_of(proto), **switches), cpus=CPUS)


def layouts(x: Array) -> dict[str, Array]:
    """The same numbers in other memory."""
    strided = np.zeros((*x.shape[:-1], x.shape[-1] * 2), x.dtype)
    strided[..., ::2] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    return {
        "fortran": np.asfortranarray(x),
        "strided": strided[..., ::2],
        "unaligned": unaligned,
        "reversed": x[::-1].copy()[::-1],
    }


REDUCTIONS = {
    "ReduceProd": small.node("ReduceProd", "x", "y", axes=[1, 2], keepdims=0),
    "ReduceLogSumExp": small.node("ReduceLogSumExp", "x", "y", axes=[1, 2], keepdims=0),
}


@pytest.mark.parametrize("op", REDUCTIONS)
def test_layout_does_not_change_the_bytes_of_a_fallback(op: str) -> None:
    shapes = {"x": ["N", 37, 41]}, {"y": ["N"]}
    proto = small.model([REDUCTIONS[op]], *shapes)
    x = np.random.default_rng(0).standard_normal((50, 37, 41)).astype(np.float32)
    with session_of(proto) as session:
        assert isinstance(session.program.segments[0], Fallback)
        expected = session.run({"x": x})["y"].tobytes()
        for name, other in layouts(x).items():
            assert session.run({"x": other})["y"].tobytes() == expected, name


def test_unaligned_feeds_enter_columns() -> None:
    nodes = [small.node("Relu", "x", "y")]
    x = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    with session_of(small.model(nodes, {"x": ["N", 7]}, {"y": ["N", 7]})) as session:
        for name, other in layouts(x).items():
            np.testing.assert_array_equal(session.run({"x": other})["y"], np.maximum(x, 0), name)


VIEWS = {
    "of a feed": ([small.node("Transpose", "x", "y", perm=[0, 4, 3, 2, 1])], ["y"]),
    "of each other": (
        [
            small.node("CumSum", "x axis", "c"),
            small.node("Transpose", "c", "y", perm=[0, 2, 1]),
            small.node("Slice", "c zero one one", "z"),
        ],
        ["c", "y", "z"],
    ),
    "of itself": ([small.node("Expand", "x shape", "y")], ["y"]),
}


@pytest.mark.parametrize("case", VIEWS)
def test_outputs_share_memory_with_nothing(case: str) -> None:
    nodes, outputs = VIEWS[case]
    constants = {
        "axis": np.array(1),
        "zero": np.array([0]),
        "one": np.array([1]),
        "shape": np.array([1, 4, 4]),
    }
    shape = (2, 2, 2, 2) if case == "of a feed" else (4, 4)  # of so many dimensions, no kernel's
    proto = small.model(nodes, {"x": ["N", *shape]}, " ".join(outputs), constants)
    x = np.random.default_rng(0).standard_normal((5, *shape)).astype(np.float32)
    kept = x.copy()
    with session_of(proto) as session:
        assert any(isinstance(s, Fallback) for s in session.program.segments)
        first = session.run({"x": x})
        expected = {n: a.copy() for n, a in first.items()}
        for name, array in first.items():
            array[...] = -1  # fails on what is read only
            for other in set(first) - {name}:
                np.testing.assert_array_equal(first[other], expected[other])
            array[...] = expected[name]
        for array in first.values():
            array[...] = -1
        np.testing.assert_array_equal(x, kept)
        again = session.run({"x": x})
        assert {n: a.tobytes() for n, a in again.items()} == {
            n: a.tobytes() for n, a in expected.items()
        }


def test_a_constant_as_output_is_a_copy() -> None:
    nodes = [small.node("Relu", "x", "y"), small.node("Identity", "c", "z")]
    proto = small.model(nodes, {"x": ["N", 3]}, {"y": ["N", 3], "z": [3]}, {"c": np.ones(3)})
    with session_of(proto) as session:
        for _ in range(2):
            z = session.run({"x": np.zeros((2, 3), np.float32)})["z"]
            np.testing.assert_array_equal(z, [1, 1, 1])
            z[...] = 7


def test_the_other_byte_order_is_named() -> None:
    nodes = [small.node("Relu", "x", "y")]
    with session_of(small.model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]})) as session:
        x = np.zeros((2, 3), np.dtype(np.float32).newbyteorder())
        with pytest.raises(FeedError, match=r"float32 in \w+-endian byte order"):
            session.run({"x": x})
        session.run({"x": x.astype(x.dtype.newbyteorder("="))})


@pytest.mark.parametrize("dense", [True, False])
def test_any_byte_of_a_boolean_is_true(dense: bool) -> None:
    """Bytes other than 0 and 1 come from a view of someone else's memory."""
    nodes = [small.node("Cast", "x", "y", to=1)] if dense else [small.node("Not", "x", "y")]
    proto = small.model(nodes, {"x": ["N", 4]}, {"y": ["N", 4]})
    proto.graph.input[0].CopyFrom(small.info("x", ["N", 4], np.bool_))
    if not dense:
        proto.graph.output[0].CopyFrom(small.info("y", ["N", 4], np.bool_))
    x = np.array([[0, 1, 2, 255]], np.uint8).view(np.bool_)
    with session_of(proto) as session:
        got = session.run({"x": x})["y"].view(np.uint8 if not dense else np.float32)
    np.testing.assert_array_equal(got, [[0, 1, 1, 1]] if dense else [[1, 0, 0, 0]])
