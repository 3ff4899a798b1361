"""Chosen outputs: only what they need is read, and they are what the whole model gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models as small

import engine
from engine.errors import EngineError, ModelError, UnsupportedError

X = np.random.default_rng(1).normal(size=(37, 4)).astype(np.float32)
M = np.random.default_rng(2).normal(size=(37, 3)).astype(np.float32)
W = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
SHAPES = {"x": ["n", 4], "m": ["n", 3]}


def net() -> onnx.ModelProto:
    """Two heads on one layer; only one reads m."""
    nodes = [
        small.node("MatMul", "x w", "h"),
        small.node("Relu", "h", "r"),
        small.node("Add", "r m", "s"),
        small.node("Mul", "s scale", "z"),
        small.node("Softmax", "h", "p"),
    ]
    constants = {"w": W, "scale": np.float32(3)}
    return small.model(nodes, SHAPES, {"z": ["n", 3], "p": ["n", 3]}, constants)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def with_every_output() -> dict[str, np.ndarray]:
    """onnxruntime's, values between the nodes included."""
    whole = net()
    del whole.graph.output[:]
    whole.graph.output.extend(small.info(n, ["n", 3]) for n in ("h", "r", "s", "z", "p"))
    return small.onnxruntime_run(whole, {"x": X, "m": M})


@pytest.mark.parametrize(
    ("wanted", "inputs", "nodes"),
    [
        (("z",), ["x", "m"], 4),
        (("p",), ["x"], 2),
        (("h",), ["x"], 1),
        (("p", "h"), ["x"], 2),
        (("s", "p", "r"), ["x", "m"], 4),
        (("p", "z"), ["x", "m"], 5),
        ((), ["x", "m"], 5),
        (("z", "p"), ["x", "m"], 5),
    ],
)
def test_chosen_outputs_are_those_of_the_whole_model(
    path: Path, wanted: tuple[str, ...], inputs: list[str], nodes: int
) -> None:
    graph = engine.load(path, wanted)
    names = list(wanted or ("z", "p"))
    assert [v.name for v in graph.inputs] == inputs and len(graph.nodes) == nodes
    assert [v.name for v in graph.outputs] == names
    assert ("scale" in graph.initializers) is ("z" in names)
    feeds = {name: array for name, array in {"x": X, "m": M}.items() if name in inputs}
    with engine.Session(engine.compile(graph), cpus=[0]) as session:
        found = session.run(feeds)
    assert list(found) == names
    expected = with_every_output()
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_all_in_their_order_is_the_model_as_it_is(path: Path) -> None:
    """Scorers are told all outputs by name, where a driver was told nothing."""
    whole = engine.compile(engine.load(path))
    assert engine.compile(engine.load(path, ("z", "p"))).fingerprint == whole.fingerprint
    assert engine.compile(engine.load(path, ("p", "z"))).fingerprint != whole.fingerprint


def test_what_is_left_out_is_told(path: Path) -> None:
    assert engine.load(path, ["p"]).notes == (
        "only p asked for; left out: 3 of 5 nodes, outputs z, inputs m",
    )
    assert "only p asked for" in str(engine.explain(engine.load(path, ["p"])))
    assert engine.load(path).notes == ()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("q",), "net.onnx: outputs: expected some of z, p, or values between nodes, got 'q'"),
        (("p", "hh"), "got 'hh'; did you mean 'h'?"),
        (("x",), "got 'x'"),
        (("w",), "got 'w'"),
        (("p", "z", "p"), "expected each once, got 'p' twice"),
    ],
)
def test_what_is_there_is_said(path: Path, wanted: tuple[str, ...], said: str) -> None:
    with pytest.raises(EngineError) as caught:
        engine.load(path, wanted)
    assert said in str(caught.value)


def test_a_value_between_nodes_must_have_the_rows_in_front(tmp_path: Path) -> None:
    nodes = [small.node("Transpose", "x", "t"), small.node("Transpose", "t", "y")]
    proto = small.model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]})
    onnx.save(proto, tmp_path / "turned.onnx")
    with pytest.raises(EngineError, match=r"output t: .* expected a value with the rows in front"):
        engine.load(tmp_path / "turned.onnx", ["t"])


def zipmapped() -> onnx.ModelProto:
    """As skl2onnx exports a classifier: probabilities become a list of maps."""
    nodes = [
        small.node("MatMul", "x w", "h"),
        small.node("Softmax", "h", "probabilities"),
        small.node(
            "ZipMap", "probabilities", "output_probability",
            domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2],
        ),
        small.node("ArgMax", "h", "output_label", axis=1, keepdims=0),
    ]  # fmt: skip
    proto = small.model(nodes, {"x": ["n", 4]}, "output_label", {"w": W}, ai_onnx_ml=1)
    proto.graph.output[0].CopyFrom(small.info("output_label", ["n"], np.int64))
    maps = onnx.helper.make_map_type_proto(
        onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    )
    proto.graph.output.append(
        onnx.helper.make_value_info(
            "output_probability", onnx.helper.make_sequence_type_proto(maps)
        )
    )
    return proto


def test_probabilities_in_front_of_a_zipmap_can_be_had(tmp_path: Path) -> None:
    path = tmp_path / "classifier.onnx"
    onnx.save(zipmapped(), path)
    with pytest.raises(ModelError, match=r"output 'output_probability': .* choose other outputs"):
        engine.load(path)
    wanted = ["output_label", "probabilities"]
    with engine.Session(engine.compile(engine.load(path, wanted)), cpus=[0]) as session:
        found = session.run({"x": X})
    logits = X.astype(np.float64) @ W
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], shares, rtol=1e-5)
    assert (found["output_label"] == logits.argmax(1)).all()
    assert found["output_label"].dtype == np.int64


def test_an_output_that_mixes_rows_does_not_stop_another(tmp_path: Path) -> None:
    nodes = [
        small.node("MatMul", "x w", "y"),
        small.node("ReduceMean", "y", "mean", axes=[0], keepdims=1),
    ]
    proto = small.model(nodes, {"x": ["n", 4]}, {"y": ["n", 3], "mean": [1, 3]}, {"w": W})
    path = tmp_path / "mixed.onnx"
    onnx.save(proto, path)
    with pytest.raises(UnsupportedError, match="mixes rows"):
        engine.compile(engine.load(path))
    assert [v.name for v in engine.compile(engine.load(path, ["y"])).outputs] == ["y"]


def test_inputs_stay_where_no_output_needs_any(tmp_path: Path) -> None:
    """Something must tell how many rows there are."""
    nodes = [small.node("Identity", "w", "c"), small.node("Relu", "x", "y")]
    onnx.save(
        small.model(nodes, {"x": ["n", 4]}, {"y": ["n", 4], "c": [4, 3]}, {"w": W}),
        tmp_path / "constant.onnx",
    )
    assert [v.name for v in engine.load(tmp_path / "constant.onnx", ["c"]).inputs] == ["x"]
