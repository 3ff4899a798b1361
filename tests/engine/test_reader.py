"""engine.reader: what it makes of good models, and what it says about bad files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from small_models import Array, model, node, onnxruntime_run

import engine
from engine import reference
from engine.errors import EngineError, ModelError
from engine.graph import ROWS, TOKENS
from engine.reader import graph_of, load

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def mlp() -> onnx.ModelProto:
    return model(
        [node("Gemm", "x w b", "h", transB=1), node("Relu", "h", "y")],
        {"x": ["batch", 4]},
        {"y": ["batch", 3]},
        {"w": floats(3, 4), "b": floats(3)},
    )


def refused(content: bytes | onnx.ModelProto, folder: Path, match: str) -> str:
    """Write the file, expect ModelError naming it; returns the message."""
    path = folder / "bad.onnx"
    if isinstance(content, onnx.ModelProto):
        content = content.SerializeToString()
    path.write_bytes(content)
    with pytest.raises(ModelError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- files that are no models


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx: expected an ONNX file, got nothing there"):
        engine.load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="got a folder; name the"):
        engine.load(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(mlp(), path)
    path.chmod(0)
    with pytest.raises(ModelError, match="permissions"):
        load(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "an empty file"),
        (b"PK\x03\x04rest", "a ZIP archive"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"PAR1....", "a Parquet file"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"not a model at all", "18 bytes"),
        (b"\x08\x08", "it holds no graph"),
        (bytes(100), "100 bytes"),
    ],
    ids=lambda v: v.decode("latin1")[:12] if isinstance(v, bytes) else None,
)
def test_other_kinds_of_file(content: bytes, match: str, tmp_path: Path) -> None:
    refused(content, tmp_path, match)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = mlp().SerializeToString()
    for length in range(len(content)):
        path = tmp_path / "short.onnx"
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"short\.onnx"):
            load(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_else(data: st.DataObject) -> None:
    content = bytearray(mlp().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = onnx.ModelProto()
    try:
        damaged.ParseFromString(bytes(content))
    except Exception:  # load's own business, tested above
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            str(graph_of(damaged))
    except EngineError:
        pass


# --- operator sets and functions


def test_operator_sets(tmp_path: Path) -> None:
    future = mlp()
    future.opset_import[0].version = 999
    refused(future, tmp_path, "expected operator sets up to .* install a newer onnx")
    none = mlp()
    del none.opset_import[:]
    refused(none, tmp_path, "no operator set")
    stranger = model([node("Gizmo", "x", "y", domain="acme")], {"x": ["n", 2]}, "y")
    refused(stranger, tmp_path, r"Gizmo_0 \(acme.Gizmo\): expected the model to import")


def test_an_unknown_operator_loads_and_is_refused_by_name() -> None:
    graph = graph_of(model([node("Gizmo", "x", "y", domain="acme")], {"x": ["n", 2]}, "y", acme=3))
    reason = reference.refuses(graph.nodes[0], graph.opsets)
    assert reason is not None
    assert "Gizmo_0 (acme.Gizmo)" in reason and "opset 3" in reason


def with_functions(*bodies: tuple[str, list[onnx.NodeProto]]) -> onnx.ModelProto:
    """A model that calls the first function."""
    proto = model([node(bodies[0][0], "x", "y", domain="own")], {"x": ["n", 2]}, "y", own=1)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for name, nodes in bodies:
        proto.functions.append(helper.make_function("own", name, ["a"], ["c"], nodes, imports))
    return proto


def test_functions_are_inlined() -> None:
    proto = with_functions(("Twice", [node("Add", "a a", "b"), node("Relu", "b", "c")]))
    graph = graph_of(proto)
    assert [n.op for n in graph.nodes] == ["Add", "Relu"]
    x = floats(3, 2)
    np.testing.assert_array_equal(
        reference.run(graph, {"x": x})["y"], onnxruntime_run(proto, {"x": x})["y"]
    )


def test_functions_that_never_end_or_explode(tmp_path: Path) -> None:
    loop = with_functions(
        ("A", [node("B", "a", "c", domain="own")]), ("B", [node("A", "a", "c", domain="own")])
    )
    refused(loop, tmp_path, "one that calls itself")
    chain = []
    for level in range(30):
        calls = [
            node(f"F{level + 1}", "a", "b", domain="own"),
            node(f"F{level + 1}", "b", "c", domain="own"),
        ]
        chain.append((f"F{level}", calls))
    chain.append(("F30", [node("Relu", "a", "c")]))
    refused(with_functions(*chain), tmp_path, "expected at most 1000000 nodes")


# --- the graph itself


def test_nodes_are_sorted_and_named() -> None:
    graph = graph_of(
        model(
            [
                node("Relu", "h", "y"),
                node("Neg", "x", "h", name="twin"),
                node("Abs", "h", "z", name="twin"),
                node("Exp", "z", "unused"),
            ],
            {"x": ["n", 2]},
            "y z",
        )
    )
    assert [n.name for n in graph.nodes] == ["twin", "Relu_0", "twin_2", "Exp_3"]


@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        ([node("Add", "x b", "a"), node("Neg", "a", "b")], "Add_0 .*without cycles.*'b'"),
        ([node("Add", "x ghost", "y")], "Add_0 .*its input 'ghost'"),
        ([node("Neg", "x", "y"), node("Abs", "x", "y")], "Abs_1 .*'y' which is also there by Neg"),
        ([node("Neg", "x", "x")], "as an input or a constant"),
        ([node("Neg", "x", "other")], "output 'y': expected an input, a constant or a node"),
        ([node("Concat", "x x", "y")], r"Concat_0 \(Concat\): expected a node that fits opset 17"),
        ([node("Relu", "x x x", "y")], r"Relu_0 \(Relu\): expected a node that fits"),
        ([node("Relu", "x", ""), node("Neg", "x", "y")], r"Relu_0 \(Relu\): expected"),
        ([node("Constant", "", "c"), node("Add", "x c", "y")], "Constant_0 .*one value"),
    ],
)
def test_broken_graphs(nodes: list[onnx.NodeProto], match: str, tmp_path: Path) -> None:
    refused(model(nodes, {"x": ["n", 2]}, "y"), tmp_path, match)


def test_inputs_and_outputs_must_be_tensors(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.input[0].type.Clear()
    refused(proto, tmp_path, "input 'x': expected a tensor")
    proto = model([node("SequenceConstruct", "x x", "y")], {"x": ["n", 2]}, "y")
    sequence = helper.make_sequence_type_proto(proto.graph.input[0].type)
    proto.graph.output[0].type.CopyFrom(sequence)
    refused(proto, tmp_path, "output 'y': expected a tensor")


def test_initializers_among_the_inputs_are_constants() -> None:
    proto = mlp()
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    graph = graph_of(proto)
    assert [v.name for v in graph.inputs] == ["x"]
    assert set(graph.initializers) == {"w", "b"}


def test_constants_of_old_files_have_types() -> None:
    """Before version 4 of the format, inference looks for the types of constants among inputs."""
    nodes = [node("Unsqueeze", "b", "c", axes=[0]), node("Mul", "x c", "h"), node("Neg", "h", "y")]
    proto = model(nodes, {"x": ["batch", 4]}, "y", {"b": floats(4)}, opset=9)
    proto.ir_version = 3
    assert graph_of(proto).values["h"].shape == ("N", 4)


def test_constant_nodes_become_initializers() -> None:
    kinds = {
        "value": numpy_helper.from_array(np.arange(3, dtype=np.int32)),
        "value_float": 1.5,
        "value_floats": [1.0, 2.0],
        "value_int": 7,
        "value_ints": [7, 8],
        "value_string": "a",
        "value_strings": ["a", "b"],
    }
    nodes = [node("Constant", "", k, **{k: v}) for k, v in kinds.items()]
    graph = graph_of(model([*nodes, node("Relu", "x", "y")], {"x": ["n", 2]}, "y"))
    found = {k: (a.dtype.kind + str(a.ndim), a.tolist()) for k, a in graph.initializers.items()}
    assert found == {
        "value": ("i1", [0, 1, 2]),
        "value_float": ("f0", 1.5),
        "value_floats": ("f1", [1.0, 2.0]),
        "value_int": ("i0", 7),
        "value_ints": ("i1", [7, 8]),
        "value_string": ("O0", "a"),
        "value_strings": ("O1", ["a", "b"]),
    }
    assert [n.op for n in graph.nodes] == ["Relu"]


def test_subgraphs_tell_what_they_capture() -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph([node(op, "h", f"{name}_y")], name, [], [out])

    proto = model(
        [
            node("Neg", "x", "h"),
            node("If", "c", "y", then_branch=branch("t", "Exp"), else_branch=branch("e", "Abs")),
        ],
        {"x": ["n", 2]},
        "y",
        {"c": np.array(True)},
    )
    graph = graph_of(proto)
    assert graph.nodes[1].captures == ("h",)
    x = floats(2, 2)
    np.testing.assert_allclose(reference.run(graph, {"x": x})["y"], np.exp(-x), rtol=1e-6)


# --- rows


def test_the_free_dimension_is_found_through_shape_arithmetic() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 rest", "target", axis=0),
        node("Reshape", "x target", "flat"),
        node("Transpose", "flat", "moved", perm=[1, 0]),
        node("Reshape", "x merged", "y"),
    ]
    constants = {"zero": 0, "axes": [0], "rest": [-1], "merged": [-1, 4]}
    graph = graph_of(model(nodes, {"x": ["any", 3, 8]}, "y flat moved", constants))
    shapes = {n: v.shape for n, v in graph.values.items()}
    assert shapes["x"] == (ROWS, 3, 8)
    assert shapes["flat"] == (ROWS, 24)
    assert shapes["moved"] == (24, "1*N")
    assert shapes["y"] == ("6*N", 4)


@pytest.mark.parametrize("leading", ["batch", None, 0, "N"])
def test_every_spelling_of_a_free_leading_dimension(leading: str | int | None) -> None:
    graph = graph_of(model([node("Relu", "x", "y")], {"x": [leading, 3]}, "y"))
    assert graph.inputs[0].shape == graph.outputs[0].shape == (ROWS, 3)


def test_other_symbols_keep_their_names() -> None:
    graph = graph_of(model([node("Relu", "x", "y")], {"x": ["batch", 4, "seq", "N", None]}, "y"))
    assert graph.outputs[0].shape == (ROWS, 4, "seq", "N_", "x.4")


def test_the_second_free_dimension_counts_tokens() -> None:
    shapes = {"x": ["batch", "seq", 4], "m": ["batch", "seq", 1]}
    graph = graph_of(model([node("Mul", "x m", "y")], shapes, "y"))
    assert graph.outputs[0].shape == (ROWS, TOKENS, 4)
    assert graph.outputs[0].has_tokens and graph.outputs[0].features == 4
    flat = graph_of(model([node("Flatten", "x", "y")], {"x": ["batch", "seq", 4]}, "y"))
    assert flat.outputs[0].shape == (ROWS, f"4*{TOKENS}")


def test_two_lengths_are_no_tokens() -> None:
    shapes = {"x": ["batch", "seq", 4], "m": ["batch", "other", 4]}
    graph = graph_of(model([node("Concat", "x m", "y", axis=1)], shapes, "y"))
    assert not any(v.has_tokens for v in graph.values.values())


def test_types_of_unknown_operators_are_taken_from_the_file() -> None:
    proto = model(
        [node("Gizmo", "x", "h", domain="acme"), node("Relu", "h", "y")],
        {"x": ["b", 2]},
        "y",
        acme=1,
    )
    told = helper.make_tensor_value_info("h", TensorProto.FLOAT, ["b", 5])
    proto.graph.value_info.append(told)
    assert graph_of(proto).outputs[0].shape == (ROWS, 5)


# --- models made for one row


def one_row(last: onnx.NodeProto) -> onnx.ModelProto:
    return model(
        [
            node("Conv", "x k", "c", kernel_shape=[3, 3]),
            node("Reshape", "c target", "r"),
            node("Gemm", "r w", "g"),
            last,
        ],
        {"x": [1, 1, 6, 6]},
        {"y": None},
        {"k": floats(2, 1, 3, 3), "target": [1, 32], "w": floats(32, 5)},
    )


def test_a_batch_of_one_is_freed() -> None:
    proto = one_row(node("Softmax", "g", "y"))
    graph = graph_of(proto)
    assert graph.inputs[0].shape == (ROWS, 1, 6, 6)
    assert graph.outputs[0].shape == (ROWS, 5)
    assert "free now" in graph.notes[0]
    x = floats(4, 1, 6, 6)
    rows = [onnxruntime_run(proto, {"x": x[i : i + 1]})["y"] for i in range(4)]
    np.testing.assert_allclose(
        reference.run(graph, {"x": x})["y"], np.concatenate(rows), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (node("Softmax", "g", "y", axis=0), "axis 0 is the rows"),
        (node("Squeeze", "g", "y"), "drops the rows of a batch of one"),
        (node("ReduceMax", "g", "y", keepdims=0), "reduces all dimensions"),
        (node("Transpose", "g", "y"), "moves the rows"),
    ],
)
def test_a_batch_of_one_that_must_stay(last: onnx.NodeProto, reason: str) -> None:
    graph = graph_of(one_row(last))
    assert graph.inputs[0].shape == (1, 1, 6, 6)
    assert reason in graph.notes[0]
