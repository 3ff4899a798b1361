"""What sessions with fallbacks allocate stays under the bound that they were priced at."""

from __future__ import annotations

import os
import sys
import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small
from onnx import NodeProto

import engine
from engine.graph import ROWS as ROWS_DIM
from engine.graph import Node, Value
from engine.price import Most, fallback_nbytes
from engine.reader import graph_of
from engine.segments import Fallback

CPUS = tuple(sorted(os.sched_getaffinity(0)))[:1]
ROWS = 300
Case = tuple[list[NodeProto], dict[str, list[int | str | None]], dict[str, Any]]


def one(op: str, shape: list[int], **attributes: Any) -> Case:
    return [small.node(op, "x", "y", **attributes)], {"x": ["N", *shape]}, {}


HEADS: list[int | str | None] = ["N", 2, 64, 8]
CASES: dict[str, Case] = {
    "Erf": one("Erf", [40, 32]),
    "Gelu": one("Gelu", [40, 32]),
    "Mod": ([small.node("Mod", "x x", "y", fmod=1)], {"x": ["N", 40, 32]}, {}),
    "LayerNormalization": (
        [small.node("LayerNormalization", "x s b", "y")],
        {"x": ["N", 40, 32]},
        {"s": np.ones(32), "b": np.ones(32)},
    ),
    "TopK": ([small.node("TopK", "x k", "y i")], {"x": ["N", 40, 32]}, {"k": np.array([30])}),
    "Attention": (
        [small.node("Attention", "q k v", "y")],
        {"q": HEADS, "k": HEADS, "v": HEADS},
        {},
    ),
    "Conv": (
        [small.node("Conv", "x w", "y", pads=[3, 3, 3, 3])],
        {"x": ["N", 8, 12, 12]},
        {"w": np.ones((8, 8, 7, 7))},
    ),
    "a chain": (
        [
            small.node("Transpose", "x", "t", perm=[0, 2, 1]),
            small.node("Mod", "t t", "m", fmod=1),
            small.node("Erf", "m", "e"),
            small.node("TopK", "e k", "y i"),
        ],
        {"x": ["N", 32, 40]},
        {"k": np.array([20])},
    ),
}


def model_of(case: str, dtype: Any) -> onnx.ModelProto:
    nodes, inputs, constants = CASES[case]
    cast = {n: np.asarray(a).astype(dtype) if np.asarray(a).dtype.kind == "f" else a
            for n, a in constants.items()}  # fmt: skip
    proto = small.model(nodes, inputs, "y", {}, opset=23)
    proto.ir_version = 10
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in cast.items())
    for index, (name, shape) in enumerate(inputs.items()):
        proto.graph.input[index].CopyFrom(small.info(name, shape, dtype))
    proto.graph.output[0].CopyFrom(small.info("y", None, dtype))
    return proto


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_a_batch_stays_under_the_bound(case: str, dtype: Any) -> None:
    program = engine.compile(graph_of(model_of(case, dtype)))
    assert any(isinstance(s, Fallback) for s in program.segments) or dtype is np.float32
    assert not program.unpriced
    rng = np.random.default_rng(0)
    feeds = {
        v.name: rng.random((ROWS, *(int(d) for d in (v.shape or ())[1:]))).astype(dtype)
        for v in program.inputs
    }
    bound = program.session_nbytes(1, ROWS)
    with engine.Session(program, cpus=CPUS) as session:
        session.run({n: a[:3] for n, a in feeds.items()})
        tracemalloc.start()
        try:
            outputs = session.run(feeds)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak - sum(a.nbytes for a in outputs.values()) <= bound
    assert bound <= 30 * peak, "a bound that no machine has is no bound"


FLOAT = np.dtype(np.float32)


def priced(node: Node, rows: int, *values: Value) -> int:
    segment = Fallback((node,), ("",), node.reads, node.writes)
    return fallback_nbytes(segment, {v.name: v for v in values}, {}, Most(rows))


def test_values_without_rows_count_as_a_whole() -> None:
    node = Node("n", "Relu", ("x",), ("y",))
    fixed = [Value(n, FLOAT, (64, 512)) for n in "xy"]
    assert priced(node, 1, *fixed) >= 3 * 64 * 512 * 4
    assert priced(node, 1, *fixed) == priced(node, 1000, *fixed)
    rows = [Value(n, FLOAT, (ROWS_DIM, 512)) for n in "xy"]
    assert priced(node, 64, *rows) == priced(node, 1, *fixed)


def test_texts_count_more_than_their_addresses() -> None:
    node = Node("n", "StringConcat", ("x", "x"), ("y",))
    texts = [Value(n, np.dtype(object), (ROWS_DIM, 4)) for n in "xy"]
    assert priced(node, 10, *texts) >= 2 * 10 * 4 * sys.getsizeof("short")


def test_open_dimensions_are_named() -> None:
    nodes = [small.node("Mod", "x three", "y", fmod=1)]
    proto = small.model(nodes, {"x": ["N", 4, None]}, {"y": ["N", 4, None]},
                        {"three": np.float32(3)})  # fmt: skip
    explanation = engine.explain(graph_of(proto))
    (sentence,) = explanation.program.unpriced
    assert sentence.startswith("y: float32[N, ")
    assert "The memory bound leaves out" in str(explanation) and sentence in str(explanation)
    assert explanation.to_json()["unpriced"] == [sentence]
    closed = small.model(nodes, {"x": ["N", 4, 3]}, {"y": ["N", 4, 3]}, {"three": np.float32(3)})
    assert "leaves out" not in str(engine.explain(graph_of(closed)))
