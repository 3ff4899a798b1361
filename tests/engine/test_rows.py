"""engine.rows: which nodes keep the rows of a batch apart; the tables are checked by running."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from small_models import Array, model, node

from engine import reference
from engine.graph import Graph
from engine.reader import graph_of
from engine.rows import mixes_rows

RNG = np.random.default_rng(0)
X = {"x": ["batch", 3, 4]}
XY = {**X, "z": ["batch", 3, 4]}
IMAGE = {"x": ["batch", 4, 6, 6]}


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


CONSTANTS: dict[str, Any] = {
    "w": floats(4, 5),
    "wide": floats(1, 4, 5),
    "two": floats(2, 4, 5),
    "v": floats(4),
    "ten": floats(10, 4),
    "m": floats(3, 3),
    "five": floats(5, 1, 1),
    "one": floats(1, 1, 1),
    "kernel": floats(2, 4, 3, 3),
    "c4": np.abs(floats(4)),
    "i": [0, 2],
    "i0": [[1], [0]],
    "a0": [0],
    "a1": [1],
    "a2": [2],
    "a12": [1, 2],
    "am1": [-1],
    "am3": [-3],
    "k": [2],
    "end": [2**31 - 1],
    "s0": [0],
    "s1": [1],
    "axis0": 0,
    "axis1": 1,
    "depth": 4,
    "on_off": np.array([0, 1], np.float32),
    "flat": [0, -1],
    "merged": [-1, 4],
    "t": [1, 2, 1],
    "p0": [1, 0, 0, 0, 0, 0],
    "shift": [1, 0, 0, -1, 0, 0],
    "p1": [0, 1, 0, 0, 1, 2],
    "half": 0.5,
    "train": np.array(True),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "e": [3, 1, 1],
    "low": -1.0,
    "scale": 0.1,
    "zero": np.array(3, np.uint8),
    "sizes": [1, 2],
    "roi": np.zeros(0, np.float32),
    "back": [-1],
    "first": [-1000],
}

# Node, inputs; the reason expected, or "" where rows stay apart.
CASES: list[tuple[onnx.NodeProto, dict[str, Any], str]] = [
    (node("Relu", "x", "y"), X, ""),
    (node("Add", "x z", "y"), XY, ""),
    (node("Add", "x v", "y"), X, ""),
    (node("Add", "x one", "y"), X, ""),
    (node("Add", "x z", "y"), {"x": ["batch", 4, 1], "z": ["batch", 3]}, "meet a later dimension"),
    (node("Add", "x five", "y"), {"x": [None, 3, 4]}, "5 in the place of the rows"),
    (node("Where", "c x z", "y"), XY, ""),
    (node("Expand", "x e", "y"), X, "does not have the rows"),
    (node("Clip", "x low half", "y"), X, ""),
    (node("Softmax", "x", "y"), X, ""),
    (node("Softmax", "x", "y", axis=1), X, ""),
    (node("Softmax", "x", "y", axis=0), X, "axis 0"),
    (node("LogSoftmax", "x", "y", axis=-3), X, "axis 0"),
    (node("ArgMax", "x", "y"), X, "axis 0"),
    (node("ArgMax", "x", "y", axis=2, keepdims=0), X, ""),
    (node("CumSum", "x axis0", "y"), X, "axis 0"),
    (node("CumSum", "x axis1", "y"), X, ""),
    (node("TopK", "x k", "y i_"), X, ""),
    (node("TopK", "x k", "y i_", axis=0), X, "axis 0"),
    (node("Concat", "x z", "y", axis=1), XY, ""),
    (node("Concat", "x z", "y", axis=0), XY, "axis 0"),
    (node("Split", "x", "y rest", axis=2), X, ""),
    (node("Split", "x", "y rest"), X, "axis 0"),
    (node("OneHot", "c depth on_off", "y"), {"c": ["batch"]}, ""),
    (node("OneHot", "c depth on_off", "y", axis=0), {"c": ["batch"]}, "axis 0"),
    (node("LayerNormalization", "x v", "y"), X, ""),
    (node("LayerNormalization", "x v", "y", axis=0), X, "axis 0"),
    (node("LpNormalization", "x", "y", axis=0), X, "axis 0"),
    (node("ReduceSum", "x a1", "y"), X, ""),
    (node("ReduceSum", "x a12", "y", keepdims=0), X, ""),
    (node("ReduceSum", "x a0", "y"), X, "axis 0"),
    (node("ReduceSum", "x am3", "y"), X, "axis 0"),
    (node("ReduceSum", "x", "y"), X, "all dimensions"),
    (node("ReduceSum", "x", "y", noop_with_empty_axes=1), X, ""),
    (node("ReduceMax", "x", "y", axes=[2]), X, ""),
    (node("ReduceMean", "x", "y", axes=[0, 1]), X, "axis 0"),
    (node("MeanVarianceNormalization", "x", "y"), IMAGE, "axis 0"),
    (node("MeanVarianceNormalization", "x", "y", axes=[2, 3]), IMAGE, ""),
    (node("Transpose", "x", "y", perm=[0, 2, 1]), X, ""),
    (node("Transpose", "x", "y"), X, "from the front"),
    (node("Flatten", "x", "y"), X, ""),
    (node("Flatten", "x", "y", axis=0), X, "does not have the rows in front"),
    (node("Reshape", "x flat", "y"), X, ""),
    (node("Reshape", "x merged", "y"), X, "does not have the rows in front"),
    (node("Squeeze", "x a1", "y"), {"x": ["batch", 1, 4]}, ""),
    (node("Squeeze", "x", "y"), {"x": ["batch", 1, 4]}, "batch of one"),
    (node("Unsqueeze", "x a1", "y"), X, ""),
    (node("Unsqueeze", "x a0", "y"), X, "does not have the rows in front"),
    (node("Tile", "x t", "y"), X, ""),
    (node("Slice", "x s0 k a1", "y"), X, ""),
    (node("Slice", "x s0 k a0", "y"), X, "some of the rows"),
    (node("Slice", "x s0 k", "y"), X, "some of the rows"),
    (node("Slice", "x s0 end a0", "y"), X, ""),
    (node("Slice", "x s1 end am3", "y"), X, "some of the rows"),
    (node("Slice", "x back first a0 back", "y"), X, "some of the rows"),
    (node("Pad", "x p1", "y"), X, ""),
    (node("Pad", "x p0", "y"), X, "adds or drops rows"),
    (node("Pad", "x shift", "y"), X, "adds or drops rows"),
    (node("Gather", "x i", "y", axis=1), X, ""),
    (node("Gather", "x i", "y"), X, "axis 0"),
    (node("Gather", "ten c", "y"), {"c": ["batch", 2]}, ""),
    (node("Gather", "w c", "y", axis=1), {"c": ["batch", 2]}, "indices move the rows"),
    (node("GatherND", "x i0", "y"), X, "indices choose among rows"),
    (node("GatherND", "ten c", "y"), {"c": ["batch", 1]}, ""),
    (node("MatMul", "x w", "y"), X, ""),
    (node("MatMul", "x wide", "y"), X, ""),
    (node("MatMul", "x two", "y"), {"x": [None, 3, 4]}, "2 in the place of the rows"),
    (node("MatMul", "m x", "y"), X, ""),
    (node("MatMul", "x z", "y"), {"x": ["batch", 3, 4], "z": ["batch", 4, 2]}, ""),
    (node("MatMul", "x z", "y"), {"x": ["a", 4], "z": ["b"]}, "sums over the rows of its second"),
    (node("MatMul", "x w", "y"), {"x": ["batch"]}, "sums over the rows"),
    (node("Gemm", "x w", "y"), {"x": ["batch", 4]}, ""),
    (node("Gemm", "x w", "y", transA=1), {"x": ["batch", 7]}, "transA"),
    (node("Gemm", "w x", "y"), {"x": ["batch", 2]}, "its second input has rows"),
    (node("Einsum", "x w", "y", equation="nij,jk->nik"), X, ""),
    (node("Einsum", "x w", "y", equation="nij,jk->ikn"), X, "in front"),
    (node("Einsum", "x z", "y", equation="nij,nij->ni"), XY, ""),
    (node("Einsum", "x z", "y", equation="nij,mij->nm"), XY, "in front"),
    (node("Conv", "x kernel", "y"), IMAGE, ""),
    (node("MaxPool", "x", "y", kernel_shape=[2, 2]), IMAGE, ""),
    (node("MaxPool", "x", "y i_", kernel_shape=[2, 2]), IMAGE, "count through the whole batch"),
    (node("GlobalAveragePool", "x", "y"), IMAGE, ""),
    (node("Resize", "x - scales", "y"), IMAGE, ""),
    (node("BatchNormalization", "x c4 c4 c4 c4", "y"), IMAGE, ""),
    (
        node("BatchNormalization", "x c4 c4 c4 c4", "y a b", training_mode=1),
        IMAGE,
        "statistics from the batch",
    ),
    (node("InstanceNormalization", "x c4 c4", "y"), IMAGE, ""),
    (node("Dropout", "x half", "y"), X, ""),
    (node("Dropout", "x half train", "y"), X, "random"),
    (node("QuantizeLinear", "x scale zero", "y"), X, ""),
    (node("DynamicQuantizeLinear", "x", "y s z"), X, "quantise the float model with fixed scales"),
    (node("Trilu", "x", "y"), X, ""),
    (node("Trilu", "x", "y"), {"x": ["batch", 4]}, "a side of its matrix"),
    (node("Bernoulli", "x", "y"), X, "not known to keep the rows"),
    (node("NonZero", "x", "y"), X, "not known to keep the rows"),
    (node("Unique", "x", "y"), X, "not known to keep the rows"),
    (node("Shape", "x", "y"), X, "is a result"),
    (node("Size", "x", "y"), X, "not known"),
    (node("Gizmo", "x", "y", domain="acme"), X, "not known to keep the rows"),
    (node("ReverseSequence", "x c", "y", batch_axis=0, time_axis=1), {**X, "c": ["batch"]}, ""),
    (node("ReverseSequence", "x c", "y"), {**X, "c": [3]}, "reverses the rows"),
    (node("Normalizer", "x", "y", domain="ai.onnx.ml"), {"x": ["batch", 4]}, ""),
    (
        node("Scaler", "x", "y", domain="ai.onnx.ml", offset=[1.0], scale=[2.0]),
        {"x": ["batch", 4]},
        "",
    ),
    (
        node("Imputer", "x", "y", domain="ai.onnx.ml", imputed_value_floats=[0.0]),
        {"x": ["batch", 4]},
        "",
    ),
    (node("Normalizer", "x", "y", domain="ai.onnx.ml"), {"x": ["batch"]}, "a vector for one row"),
]


def built(case: onnx.NodeProto, inputs: dict[str, Any]) -> tuple[Graph, dict[str, Array]]:
    """The graph of one node, and a batch of four rows for it; `c` is an index or a condition."""
    used = {n: CONSTANTS[n] for n in case.input if n in CONSTANTS}
    domains = {case.domain.replace(".", "_"): 1} if case.domain else {}
    outputs = " ".join(case.output)
    shapes = {**inputs, "c": inputs["z"]} if case.op_type == "Where" else inputs
    proto = model([case], shapes, outputs, used, **domains)
    feeds = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        dims = [d.dim_value or 4 for d in kind.shape.dim]
        feeds[value.name] = floats(*dims)
        if value.name == "c":
            boolean = case.op_type == "Where"
            kind.elem_type = onnx.TensorProto.BOOL if boolean else onnx.TensorProto.INT64
            feeds["c"] = RNG.integers(0, 2 if boolean else 3, dims).astype(
                bool if boolean else np.int64
            )
    return graph_of(proto), feeds


@pytest.mark.parametrize(
    ("case", "inputs", "reason"),
    CASES,
    ids=[f"{c.op_type}-{i}" for i, (c, _, _) in enumerate(CASES)],
)
def test_rows_are_kept_apart_or_a_reason_is_given(
    case: onnx.NodeProto, inputs: dict[str, Any], reason: str
) -> None:
    graph, feeds = built(case, inputs)
    found = mixes_rows(graph.nodes[0], graph)
    if reason:
        assert found is not None and reason in found
        return
    assert found is None
    # what the tables claim: a batch gives what its rows give one by one
    whole = reference.run(graph, feeds)
    for row in range(4):
        alone = {n: a[row : row + 1] for n, a in feeds.items()}
        for name, array in reference.run(graph, alone).items():
            np.testing.assert_allclose(whole[name][row : row + 1], array, rtol=1e-5, atol=1e-6)


def test_nodes_without_rows_mix_none() -> None:
    graph = graph_of(
        model([node("Softmax", "v", "s", axis=0), node("Add", "x s", "y")], X, "y", CONSTANTS)
    )
    assert [mixes_rows(n, graph) for n in graph.nodes] == [None, None]


def test_the_number_of_rows_may_only_shape() -> None:
    constants = {"zero": 0, "ax": [0], "five": [5]}
    head = [node("Shape", "x", "s"), node("Gather", "s zero", "n")]
    shaping = [
        *head,
        node("Unsqueeze", "n ax", "n1"),
        node("Concat", "n1 five", "t", axis=0),
        node("ConstantOfShape", "t", "y"),
    ]
    graph = graph_of(model(shaping, X, "y", constants))
    assert {mixes_rows(n, graph) for n in graph.nodes} == {None}
    assert graph.outputs[0].has_rows
    counting = [*head, node("Cast", "n", "f", to=1), node("Div", "x f", "y")]
    graph = graph_of(model(counting, X, "y", constants))
    reason = mixes_rows(graph.nodes[0], graph)
    assert reason is not None and "goes into Div_3" in reason


def test_captured_rows_are_not_followed_into_subgraphs() -> None:
    out = onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, None)
    branch = onnx.helper.make_graph([node("Softmax", "x", "b", axis=0)], "branch", [], [out])
    case = node("If", "on", "y", then_branch=branch, else_branch=branch)
    graph = graph_of(model([case], X, "y", {"on": np.array(True)}))
    assert "not known to keep the rows" in (mixes_rows(graph.nodes[0], graph) or "")


def test_an_unknown_shape_is_a_reason() -> None:
    nodes = [node("Gizmo", "x", "h", domain="acme"), node("Relu", "h", "y")]
    graph = graph_of(model(nodes, X, "y", acme=1))
    assert mixes_rows(graph.nodes[1], graph) == "the shape of h is not known"
