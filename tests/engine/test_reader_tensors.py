"""Constants of a model file: element types, external data, sizes that lie."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_models import Array, model, node

from engine.errors import ModelError
from engine.graph import Graph
from engine.mapped import map_of
from engine.reader import graph_of, load

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def with_tensor(tensor: TensorProto) -> onnx.ModelProto:
    tensor.name = "w"
    proto = model([node("Shape", "w", "y")], {"x": ["n", 3]}, "y")
    proto.graph.initializer.append(tensor)
    return proto


def external(location: str, **entries: Any) -> onnx.ModelProto:
    tensor = TensorProto(
        data_type=TensorProto.FLOAT, dims=[3, 4], data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return with_tensor(tensor)


def loaded(proto: onnx.ModelProto, folder: Path) -> Graph:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return load(folder / "m.onnx")


@pytest.mark.parametrize(
    "name",
    [
        *("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "BOOL"),
        *("INT4", "UINT4", "INT8", "UINT8", "INT32", "INT64"),
    ],
)
def test_element_types_survive_inline_and_outside(name: str, tmp_path: Path) -> None:
    kind = TensorProto.DataType.Value(name)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    array = np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype)
    inline = numpy_helper.from_array(array)
    assert inline.data_type == kind
    outside = TensorProto(data_type=kind, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="w.bin")
    outside.external_data.add(key="offset", value="3")
    (tmp_path / "w.bin").write_bytes(b"pad" + inline.raw_data)
    for tensor in (inline, outside):
        found = loaded(with_tensor(tensor), tmp_path).initializers["w"]
        assert found.dtype == dtype and found.shape == (2, 3)
        np.testing.assert_array_equal(found.astype(np.float32), array.astype(np.float32))
        assert not found.flags.writeable


def test_external_data_is_mapped_and_survives_pickling(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(WEIGHTS.tobytes())
    graph = loaded(external("sub/w.bin"), tmp_path)
    found = graph.initializers["w"]
    assert map_of(found) is not None
    np.testing.assert_array_equal(found, WEIGHTS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(graph)).initializers["w"], WEIGHTS)


@pytest.mark.parametrize(
    "location", ["../w.bin", "sub/../../w.bin", "link.bin", "linked/w.bin", ""]
)
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    (inside / "link.bin").symlink_to(tmp_path / "w.bin")
    (inside / "linked").symlink_to(tmp_path)
    with pytest.raises(ModelError, match=r"constant 'w': expected external data below"):
        loaded(external(location), inside)
    with pytest.raises(ModelError, match="below"):
        loaded(external(str(tmp_path / "w.bin")), inside)


@pytest.mark.parametrize(
    ("location", "entries", "match"),
    [
        ("none.bin", {}, "got no such file"),
        ("loop.bin", {}, "below"),
        ("w.bin", {"offset": 1}, "bytes 1 to 49 .* got a file of 48 bytes; it is truncated"),
        ("w.bin", {"offset": -1}, "bytes -1 to"),
        ("w.bin", {"length": 44}, "expected 48 bytes of data, got 44"),
        ("w.bin", {"offset": "many"}, "expected whole numbers"),
    ],
)
def test_external_data_that_does_not_fit(
    location: str, entries: dict[str, Any], match: str, tmp_path: Path
) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "loop.bin").symlink_to(tmp_path / "loop.bin")
    with pytest.raises(ModelError, match=match):
        loaded(external(location, **entries), tmp_path)


def test_external_data_needs_a_folder() -> None:
    with pytest.raises(ModelError, match="load the model from its file"):
        graph_of(external("w.bin"))


def test_external_data_of_attributes_and_subgraphs_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    bad, good = (external(p).graph.initializer[0] for p in ("/etc/hostname", "w.bin"))
    out = helper.make_tensor_value_info("w", TensorProto.FLOAT, None)

    def conditional(tensor: TensorProto) -> onnx.ModelProto:
        branch = helper.make_graph([], "branch", [], [out], [tensor])
        nodes = [node("If", "c", "y", then_branch=branch, else_branch=branch)]
        return model(nodes, {"x": ["n", 3]}, "y", {"c": np.array(True)})

    constant = model([node("Constant", "", "y", value=bad)], {"x": ["n", 3]}, "y")
    for proto in (constant, conditional(bad)):
        with pytest.raises(ModelError, match="below"):
            loaded(proto, tmp_path)
    branch = loaded(conditional(good), tmp_path).nodes[0].attributes["then_branch"]
    np.testing.assert_array_equal(numpy_helper.to_array(branch.initializer[0]), WEIGHTS)


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (
            TensorProto(data_type=1, dims=[3, 4], raw_data=b"1234"),
            "expected 48 bytes of data, got 4",
        ),
        (TensorProto(data_type=1, dims=[10**9, 10**9], raw_data=b"1234"), "expected 4000000000"),
        (TensorProto(data_type=1, dims=[10**9, 10**9], float_data=[1.0]), "does not fit"),
        (TensorProto(data_type=1, dims=[-3, 4]), "a whole tensor of known size"),
        (TensorProto(data_type=77, dims=[1]), "got code 77"),
        (TensorProto(dims=[1]), "got code 0"),
        (TensorProto(data_type=8, dims=[1], string_data=[b"\xff"]), "does not fit"),
    ],
)
def test_tensors_whose_size_or_type_lies(tensor: TensorProto, match: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"m.onnx: constant 'w': .*{match}"):
        loaded(with_tensor(tensor), tmp_path)


def sparse(indices: Array, dims: list[int]) -> onnx.ModelProto:
    proto = model([node("MatMul", "x w", "y")], {"x": ["n", 3]}, "y")
    values = numpy_helper.from_array(np.array([5, 6], np.float32), "w")
    tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "i"), dims)
    proto.graph.sparse_initializer.append(tensor)
    return proto


@pytest.mark.parametrize("indices", [[[0, 1], [2, 3]], [1, 11]])
def test_sparse_constants_become_dense(indices: Any) -> None:
    found = graph_of(sparse(np.array(indices), [3, 4])).initializers["w"]
    expected = np.zeros((3, 4), np.float32)
    expected[0, 1], expected[2, 3] = 5, 6
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("indices", "dims", "match"),
    [
        ([1, 12], [3, 4], "indices inside"),
        ([-1, 2], [3, 4], "indices inside"),
        ([[0, 4], [0, 0]], [3, 4], "indices inside"),
        ([1], [3, 4], "indices inside"),
        ([0, 1], [10**6, 10**6], "once dense"),
        ([0, 1], [-3, -4], "once dense"),
    ],
)
def test_sparse_constants_that_lie(indices: Any, dims: list[int], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        graph_of(sparse(np.array(indices), dims))
