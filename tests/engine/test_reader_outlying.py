"""Weights that stay in the model file: the same graph as when protobuf parses them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models as small
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

import engine
from engine import mapped
from engine.errors import EngineError, ModelError
from engine.lookup import Rows
from engine.mapped import map_of
from engine.reader import graph_of, outlying
from engine.reader.files import read_model
from engine.reader.outlying import lean

named = pytest.mark.parametrize
rng = np.random.default_rng(5)
LARGE = 64


@pytest.fixture(autouse=True)
def _large_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlying, "OUTLYING_NBYTES", LARGE)
    monkeypatch.setattr("engine.reader.files.OUTLYING_NBYTES", LARGE)


def mlp() -> onnx.ModelProto:
    """A large matrix, a small vector, and a large one whose data is no raw bytes."""
    w, v = rng.normal(size=(20, 30)).astype(np.float32), rng.normal(size=(30, 5))
    proto = small.model(
        [small.node("Gemm", "x w b", "h"), small.node("MatMul", "h v", "y")],
        {"x": ["N", 20]},
        {"y": ["N", 5]},
        {"w": w, "b": np.arange(30, dtype=np.float32)[:30], "v": v.astype(np.float32)},
    )
    listed = TensorProto(name="v", data_type=TensorProto.FLOAT, dims=[30, 5])
    listed.float_data.extend(v.astype(np.float32).reshape(-1))
    (old,) = [t for t in proto.graph.initializer if t.name == "v"]
    old.CopyFrom(listed)
    return proto


def test_large_weights_stay_in_the_file(tmp_path: Path) -> None:
    proto = mlp()
    onnx.save(proto, tmp_path / "m.onnx")
    parsed, found = read_model(tmp_path / "m.onnx")
    assert found.keys() == {"w", "b"}
    assert len(parsed.SerializeToString()) < len(proto.SerializeToString()) - 20 * 30 * 4
    graph, want = engine.load(tmp_path / "m.onnx"), graph_of(proto)
    assert str(graph) == str(want)
    for name, array in want.initializers.items():
        have = graph.initializers[name]
        assert (map_of(have) is not None) == (name in found)
        assert not have.flags.writeable
        np.testing.assert_array_equal(have, array)


def test_a_program_is_the_same_and_outlives_its_file(tmp_path: Path) -> None:
    """Nothing of what runs looks into the file any more: it may be overwritten."""
    path, proto = tmp_path / "m.onnx", mlp()
    onnx.save(proto, path)
    program = engine.compile(path)
    whole = engine.compile(graph_of(proto))
    assert program.fingerprint == whole.fingerprint
    session = engine.Session(program, cpus=[0])
    path.write_bytes(b"")
    x = rng.normal(size=(3, 20)).astype(np.float32)
    with session, engine.Session(whole, cpus=[0]) as other:
        assert session.run({"x": x})["y"].tobytes() == other.run({"x": x})["y"].tobytes()


def test_a_large_table_is_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "IN_PLACE_NBYTES", 4000)
    table = rng.normal(size=(100, 16)).astype(np.float32)
    w = rng.normal(size=(16, 4)).astype(np.float32)
    nodes = [small.node("Gather", "t ids", "e"), small.node("MatMul", "e w", "y")]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes, "g",
            [onnx.helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "S"])],
            [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "S", 4])],
            [numpy_helper.from_array(table, "t"), numpy_helper.from_array(w, "w")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )  # fmt: skip
    onnx.save(proto, tmp_path / "m.onnx")
    program = engine.compile(tmp_path / "m.onnx")
    assert program.in_place_nbytes == table.nbytes
    assert program.held_nbytes == program.weights_nbytes - table.nbytes
    whole = engine.compile(graph_of(proto))
    assert whole.in_place_nbytes == 0 and whole.fingerprint == program.fingerprint
    hollow = engine.compile(tmp_path / "m.onnx", hollow=True)
    assert hollow.in_place_nbytes == table.nbytes
    assert hollow.session_nbytes(2, 100, 700) == program.session_nbytes(2, 100, 700)
    ids = rng.integers(-100, 100, (5, 9))
    with engine.Session(program, cpus=[0]) as session, engine.Session(whole, cpus=[0]) as other:
        assert session.run({"ids": ids})["y"].tobytes() == other.run({"ids": ids})["y"].tobytes()
        held = sum(a.nbytes for a in session.memory()["weights"])
        assert held < table.nbytes <= sum(a.nbytes for a in other.memory()["weights"])


@named("odd", ["external", "twice", "int4", "names"])
def test_what_is_not_as_expected_is_left_to_protobuf(odd: str) -> None:
    proto = mlp()
    tensor = proto.graph.initializer[0]
    if odd == "external":
        tensor.external_data.add(key="location", value="w.bin")
    elif odd == "int4":
        tensor.data_type = TensorProto.INT4
    elif odd == "names":
        proto.graph.initializer.append(tensor)
    content = proto.SerializeToString()
    if odd == "twice":
        content += content
    found = lean(np.frombuffer(content, np.uint8))
    name = tensor.name
    assert name not in found.outlying
    again, want = onnx.ModelProto(), onnx.ModelProto()
    again.ParseFromString(found.content)
    want.ParseFromString(content)
    kept = [t for t in again.graph.initializer if t.name == name]
    assert [t.raw_data for t in kept] == [
        t.raw_data for t in want.graph.initializer if t.name == name
    ]


def test_data_of_another_size_is_refused(tmp_path: Path) -> None:
    proto = mlp()
    proto.graph.initializer[0].dims[0] += 1
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"constant 'w': expected \d+ bytes of data"):
        engine.load(tmp_path / "m.onnx")


CONTENT = mlp().SerializeToString()


@given(st.data())
def test_damaged_files_are_taken_as_protobuf_takes_them(data: st.DataObject) -> None:
    """The walk never raises; what it leaves says the same as the whole, or fails as it does."""
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    found = lean(np.frombuffer(bytes(content), np.uint8))
    whole, slim = onnx.ModelProto(), onnx.ModelProto()
    try:
        whole.ParseFromString(bytes(content))
    except Exception:
        return
    slim.ParseFromString(found.content)
    for tensor in slim.graph.initializer:
        if tensor.name in found.outlying:
            tensor.ClearField("data_location")
            tensor.raw_data = found.outlying[tensor.name].tobytes()
    assert slim.SerializeToString() == whole.SerializeToString()


def test_rows_of_a_table_are_read_once_and_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows longer and shorter than a page; negative numbers count from the end."""
    table = rng.normal(size=(500, 700)).astype(np.float32)
    (tmp_path / "t.bin").write_bytes(b"head" + table.tobytes())
    view = mapped.mapped(tmp_path / "t.bin")[4:].view(np.float32).reshape(table.shape)
    rows = Rows(view)
    monkeypatch.setattr("engine.lookup.SEEN_NBYTES", 40 * 8192)
    there = np.frombuffer(rows._memory, np.float32, table.size).reshape(table.shape)
    asked = 0
    for _ in range(5):
        ids = rng.integers(-500, 500, (3, 9))
        rows.fetch(ids)
        asked += 1
        np.testing.assert_array_equal(there[ids], table[ids])
        assert rows.held_nbytes <= (40 + 27) * 8192
    assert np.count_nonzero(there.any(axis=1)) < 27 * asked, "those of early batches are gone"
    held = rows.held_nbytes
    rows.fetch(ids)
    assert rows.held_nbytes in (held, 0) or held > 40 * 8192, "nothing is read twice"


def test_a_table_that_is_written_to_while_in_use_is_refused(tmp_path: Path) -> None:
    """In place, with as many bytes: nothing else would tell rows of two models apart."""
    path = tmp_path / "t.bin"
    path.write_bytes(bytes(4000))
    rows = Rows(mapped.mapped(path).view(np.float32).reshape(10, 100))
    rows.fetch(np.array([1, 2]))
    with path.open("r+b") as file:
        file.write(b"x" * 4000)
    os.utime(path, ns=(0, 0))  # a clock is coarse
    rows.fetch(np.array([1, 2]))  # that are there
    for _ in range(2):
        with pytest.raises(EngineError, match="changed while in use; keep it as it is"):
            rows.fetch(np.array([2, 3]))


@named("change", ["gone", "other", "cut"])
def test_a_table_whose_file_has_changed_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(bytes(4000))
    view = mapped.mapped(path).view(np.float32).reshape(10, 100)
    if change == "gone":
        path.unlink()
    elif change == "other":
        path.rename(tmp_path / "old.bin")
        path.write_bytes(bytes(4000))
    else:
        rows = Rows(view)
        os.truncate(path, 100)
        with pytest.raises(EngineError, match="got a file that ends before"):
            rows.fetch(np.array([9]))
        return
    with pytest.raises(EngineError, match="expected the file that the model was read from"):
        Rows(view)


def test_hollow_programs_are_named_and_priced_and_do_not_run() -> None:
    graph = graph_of(large())
    hollow, whole = (engine.compile(graph, hollow=h) for h in (True, False))
    assert hollow.fingerprint == whole.fingerprint
    assert hollow.session_nbytes(2, 50) == whole.session_nbytes(2, 50)
    assert str(hollow) == str(whole)
    owned = [a for s in hollow.segments for a in s.weights if a.strides and any(a.strides)]
    assert sum(a.nbytes for a in owned) < whole.weights_nbytes // 5
    with pytest.raises(EngineError, match="expected a program with its weights, got a hollow one"):
        engine.Session(hollow, cpus=[0])


def large() -> onnx.ModelProto:
    w = {n: rng.normal(size=(128, 128)).astype(np.float32) for n in ("v", "w")}
    nodes = [small.node("MatMul", "x v", "h"), small.node("MatMul", "h w", "y")]
    return small.model(nodes, {"x": ["N", 128]}, {"y": ["N", 128]}, w)
