"""Models in float16: on kernels for float32, their borders as declared, near to onnxruntime."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_nets
import ml_dtypes
import numpy as np
import onnx
import pytest
from exporters import SIZE, WEIGHTS, batch
from onnx import TensorProto, helper, numpy_helper
from rewritten import fired, floats, reasons
from small_models import Array, info, model, node, onnxruntime_run

import engine
from engine.program import Program
from engine.reader import graph_of
from engine.rewrites import rewrite
from engine.segments import Fallback
from engine.stages import compile_stage, cut, cut_at
from scripts.models.bert import bert

NEAR = 2e-3
"""Of the largest number: float16 has eleven bits, and every operator of onnxruntime rounds."""
HALVES = {TensorProto.FLOAT16: np.dtype(np.float16), TensorProto.BFLOAT16: ml_dtypes.bfloat16}


def halved(proto: onnx.ModelProto, borders: bool, to: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    """All that is float32 as exporters write it in halves; without `borders` its inputs and
    outputs stay float32, and casts stand there."""
    half = onnx.ModelProto()
    half.CopyFrom(proto)
    graph = half.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            kept = numpy_helper.to_array(tensor)
            limit = np.float32(65504)
            kept = np.clip(kept, -limit, limit).astype(HALVES[to])
            tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
    for each in graph.node:
        for attribute in each.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = to
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                array = numpy_helper.to_array(attribute.t).astype(HALVES[to])
                attribute.t.CopyFrom(numpy_helper.from_array(array))
    for infos, reads in ((graph.input, True), (graph.output, False)):
        for value in infos:
            if value.type.tensor_type.elem_type != TensorProto.FLOAT:
                continue
            if borders:
                value.type.tensor_type.elem_type = to
            else:
                _cast(graph, value.name, reads, to)
    return half


def _cast(graph: onnx.GraphProto, name: str, reads: bool, to: int) -> None:
    for each in graph.node:
        names = each.input if reads else each.output
        names[:] = [f"{name}_half" if n == name else n for n in names]
    if reads:
        graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}_half"], to=to))
    else:
        graph.node.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))


def mlp() -> onnx.ModelProto:
    """Two products, of which the first is 80 % zeros."""
    nodes = [
        node("Gemm", "x w b", "h", transB=1, name="first"),
        node("Relu", "h", "r"),
        node("MatMul", "r v", "y", name="second"),
    ]
    w = floats(24, 16)
    w = np.where(np.abs(w) > np.quantile(np.abs(w), 0.8), w, np.float32(0))
    constants = {"w": w, "b": floats(24), "v": floats(24, 5)}
    return model(nodes, {"x": ["n", 16]}, {"y": ["n", 5]}, constants)


def layer() -> onnx.ModelProto:
    """BERT, whose mask is float16's least number."""
    return bert(SIZE, WEIGHTS, "torch", mask_value=-65504.0)


def run(program: Program, feeds: dict[str, Array]) -> dict[str, Any]:
    with engine.Session(program, cpus=range(1)) as session:
        return session.run(feeds)


def feeds_of(program: Program, rows: int = 5) -> dict[str, Array]:
    if program.inputs[0].has_tokens:
        return batch((40, 7, 1))
    (x,) = program.inputs
    return {x.name: floats(rows, *(int(d) for d in (x.shape or ())[1:])).astype(x.dtype)}


def compare(got: dict[str, Any], want: dict[str, Array], feeds: dict[str, Array]) -> None:
    """Types and numbers, but for what padding says."""
    real = feeds["attention_mask"] == 1 if "attention_mask" in feeds else ...
    for name, array in want.items():
        have, array = got[name][real], array[real]
        assert have.dtype == array.dtype
        wide = array.astype(np.float32)
        near = NEAR * float(np.abs(wide).max())
        np.testing.assert_allclose(have.astype(np.float32), wide, rtol=NEAR, atol=near)


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": mlp,
    "cnn": image_nets.resnet,
    "cnn, channels last": image_nets.channels_last,
    "bert": layer,
}


@pytest.mark.parametrize("borders", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_only_casts_at_the_borders_have_no_kernel(net: str, borders: bool) -> None:
    proto = halved(NETS[net](), borders)
    program = engine.compile(graph_of(proto))
    left = [n for s in program.segments if isinstance(s, Fallback) for n in s.nodes]
    moved = {"Transpose"} if "last" in net else set()
    assert {n.op for n in left} <= ({"Cast"} | moved if borders else set())
    declared = np.float16 if borders else np.float32
    assert {v.dtype for v in program.outputs} == {np.dtype(declared)}
    feeds = feeds_of(program)
    got = run(program, feeds)
    compare(got, onnxruntime_run(proto, feeds), feeds)
    slow = engine.compile(graph_of(proto), rewrites_off=("halves",))
    assert slow.outputs == program.outputs and slow.inputs == program.inputs
    compare(got, run(slow, feeds), feeds)


def test_onnxruntimes_converter() -> None:
    """It adds casts and constants of its own."""
    convert = pytest.importorskip("onnxruntime.transformers.float16").convert_float_to_float16
    for keep in (True, False):
        proto = convert(layer(), keep_io_types=keep)
        program = engine.compile(graph_of(proto))
        left = [n.op for s in program.segments if isinstance(s, Fallback) for n in s.nodes]
        assert left == ([] if keep else ["Cast"])
        feeds = feeds_of(program)
        compare(run(program, feeds), onnxruntime_run(proto, feeds), feeds)


def test_bfloat16() -> None:
    """onnxruntime has no kernels for it here; what its numbers say in float32 is told by ours."""
    proto = halved(mlp(), False, TensorProto.BFLOAT16)
    program = engine.compile(graph_of(proto))
    assert not any(isinstance(s, Fallback) for s in program.segments)
    wide = mlp()
    for tensor, half in zip(wide.graph.initializer, proto.graph.initializer, strict=True):
        array = numpy_helper.to_array(half).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    feeds = feeds_of(program)
    want = onnxruntime_run(wide, feeds)["y"]
    np.testing.assert_allclose(run(program, feeds)["y"], want, rtol=1e-4, atol=1e-4)


def test_zeros_stay_zeros_and_are_skipped() -> None:
    found = engine.explain(graph_of(halved(mlp(), True)))
    (first, *_) = [n for n in found.nodes if n.sparsity]
    assert first.sparsity is not None and first.sparsity.nonzeros == round(24 * 16 * 0.2 + 0.2)
    assert found.fallback_share == 0


def test_what_is_only_rounded_stays_rounded() -> None:
    nodes = [node("Cast", "x", "h", to=10), node("Cast", "h", "y", to=1)]
    graph, log = rewrite(graph_of(model(nodes, {"x": ["n", 3]}, "y")))
    assert "halves" not in fired(log) and len(graph.nodes) == 2


def test_attributes_that_name_a_type() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("ConstantOfShape", "s", "c", value=numpy_helper.from_array(np.float16([2.5]))),
        node("Cast", "ids", "f", to=10),
        node("EyeLike", "x", "e", dtype=10),
        node("Add", "x c", "a"),
        node("Add", "a e", "b"),
        node("Add", "b f", "y"),
    ]
    proto = model(nodes, {}, {})
    proto.graph.input.extend([info("x", [3, 3], np.float16), info("ids", [3, 3], np.int64)])
    proto.graph.output.append(info("y", [3, 3], np.float16))
    graph, log = rewrite(graph_of(proto))
    assert sum(e.fired and e.rewrite == "halves" for e in log) == 1, "all of it at once"
    inside = [graph.values[o].dtype for n in graph.nodes[:-1] for o in n.writes]
    assert np.float16 not in (*inside, *(a.dtype for a in graph.initializers.values()))
    x, ids = floats(3, 3).astype(np.float16), np.arange(9).reshape(3, 3)
    got = engine.reference.run(graph, {"x": x, "ids": ids})["y"]
    want = onnxruntime_run(proto, {"x": x, "ids": ids})["y"]
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, want, rtol=NEAR)


def test_outputs_that_nothing_computes() -> None:
    """A constant and an input that are outputs keep their type and their bytes."""
    proto = halved(model([node("Add", "x c", "y")], {"x": ["n", 3]}, "y", {"c": floats(3)}), True)
    proto.graph.output.append(info("c", [3], np.float16))
    proto.graph.output.append(info("x", ["n", 3], np.float16))
    graph, log = rewrite(graph_of(proto))
    x = floats(2, 3).astype(np.float16)
    got, want = engine.reference.run(graph, {"x": x}), onnxruntime_run(proto, {"x": x})
    assert "halves" in fired(log) and [n.op for n in graph.nodes] == ["Cast", "Add", "Cast"]
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("told", [True, False])
def test_a_subgraph_is_left_alone_and_a_branch_is_not(told: bool) -> None:
    branch = [
        helper.make_graph([node(op, "x", "z")], op, [], [info("z", ["n", 3], np.float16)])
        for op in ("Relu", "Neg")
    ]
    nodes = [node("If", "which", "y", then_branch=branch[0], else_branch=branch[1])]
    proto = model(nodes, {}, {}, {"which": np.array(True)} if told else {})
    if not told:
        proto.graph.input.append(info("which", [], np.bool_))
    proto.graph.input.append(info("x", ["n", 3], np.float16))
    proto.graph.output.append(info("y", ["n", 3], np.float16))
    _, log = rewrite(graph_of(proto))
    assert ("halves" in fired(log)) == told
    assert ("has a subgraph with types of its own" in reasons(log, "halves")) != told


def test_stages_are_the_whole() -> None:
    graph = graph_of(halved(mlp(), True))
    whole, stages = engine.compile(graph), cut(graph, 2)
    assert [s.begin for s in cut_at(graph, [s.begin for s in stages])] == [s.begin for s in stages]
    known: dict[str, Any] = feeds_of(whole)
    want = run(whole, known)["y"]
    for stage in stages:
        program = compile_stage(stage, whole.choices)
        known |= run(program, {v.name: known[v.name] for v in program.inputs})
    assert known["y"].tobytes() == want.tobytes()


@pytest.mark.parametrize("width", [512, 1024])
def test_copies_are_priced(tmp_path: Path, width: int) -> None:
    """A constant in float32 lies in its file no longer; a hollow program has the same name."""
    layers, in_file = 6, width == 1024  # from one megabyte on
    names = [f"a{n}" for n in range(layers)] + ["y"]
    nodes = [node("MatMul", f"{names[n]} w{n}", names[n + 1]) for n in range(layers)]
    constants = {f"w{n}": floats(width, width) for n in range(layers)}
    proto = model(nodes, {"a0": ["n", width]}, {"y": ["n", width]}, constants)
    onnx.save(halved(proto, True), tmp_path / "m.onnx")
    whole = engine.compile(tmp_path / "m.onnx")
    tracemalloc.start()
    try:
        hollow = engine.compile(tmp_path / "m.onnx", hollow=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert hollow.fingerprint == whole.fingerprint
    halves = 2 * layers * width * width
    assert hollow.compiling_nbytes == 2 * 2 * halves + (0 if in_file else halves)
    assert peak < hollow.compiling_nbytes + (1 << 20)
