"""An If whose condition is constant is its branch; one that waits for the data is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper
from rewritten import X, fallbacks, fired, floats, labels
from small_models import Array, constant, info, model, node, onnxruntime_run

import engine
from engine.compiler import Compilation, compilation
from engine.errors import ModelError, UnsupportedError
from engine.graph import NATIVE, Node
from engine.reader import graph_of, load, with_branches
from engine.rewrites import REWRITES, rewrite
from engine.rewrites.branches import take_branches

NEAR = 1e-4
FEEDS = {"x": floats(5, 6)}
WEIGHTS = {"w": floats(6, 6), "b": floats(6)}
GEMM, TANH = [node("Gemm", "x w b", "t")], [node("Tanh", "x", "t")]


def branch(
    nodes: Sequence[NodeProto], outputs: str, constants: Mapping[str, Any] | None = None
) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(constant(v), n) for n, v in (constants or {}).items()]
    return helper.make_graph(
        list(nodes), "branch", [], [info(n, None) for n in outputs.split()], tensors
    )


def choice(
    condition: str, then: onnx.GraphProto, other: onnx.GraphProto, outputs: str = "h"
) -> NodeProto:
    named = {"name": f"choice_{outputs.split()[0]}"}
    return node("If", condition, outputs, then_branch=then, else_branch=other, **named)


def one_of_two(on: bool) -> onnx.ModelProto:
    """A Gemm with weights of the branch, or a Tanh; and a Relu behind."""
    case = choice("on", branch(GEMM, "t", WEIGHTS), branch(TANH, "t"))
    return model([case, node("Relu", "h", "y")], X, "y", {"on": np.array(on)})


def for_onnxruntime(nodes: Sequence[NodeProto]) -> None:
    """What it wants: outputs of branches are written there, each of them once."""
    for graph in (a.g for n in nodes for a in n.attribute if a.HasField("g")):
        for_onnxruntime(graph.node)
        for index, output in enumerate(graph.output):
            name = f"{output.name}.{index}"
            graph.node.append(node("Identity", output.name, name))
            output.name = name


def beside(
    proto: onnx.ModelProto, feeds: Mapping[str, Array], oracle: onnx.ModelProto | None = None
) -> Compilation:
    """The compilation, after running it beside onnxruntime, of an `oracle` that means the same."""
    found = compilation(graph_of(proto))
    assert found.program is not None
    with engine.Session(found.program, cpus=[0]) as session:
        got = session.run(feeds)
    proto = oracle or proto
    for_onnxruntime(proto.graph.node)
    for value in proto.graph.input:  # which would look into the branch that is not taken
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}.{axis}"
    for name, want in onnxruntime_run(proto, feeds).items():
        np.testing.assert_allclose(got[name], want, atol=NEAR, rtol=NEAR, err_msg=name)
    assert "If" not in labels(found)
    return found


def branch_of(proto: onnx.ModelProto, name: str) -> onnx.GraphProto:
    return next(a.g for a in proto.graph.node[0].attribute if a.name == name)


def taken(
    proto: onnx.ModelProto,
    feeds: Mapping[str, Array] = FEEDS,
    oracle: onnx.ModelProto | None = None,
) -> Compilation:
    """The same, with nothing in the reference."""
    found = beside(proto, feeds, oracle)
    assert not fallbacks(found)
    return found


@pytest.mark.parametrize("on", [True, False])
def test_a_constant_condition_takes_its_branch(on: bool) -> None:
    found = taken(one_of_two(on))
    assert ("colonnade.Linear" in labels(found)) == on
    event = next(e for e in found.events if e.rewrite == "branches")
    assert event.fired and event.node == "choice_h"
    assert f"its condition is always {on}" in event.reason


def test_explain_shows_it_and_the_digest_tells_the_branches_apart() -> None:
    assert "branches fired choice_h: " in str(engine.explain(graph_of(one_of_two(True))))
    prints = [engine.compile(graph_of(one_of_two(on))).fingerprint for on in (True, False, True)]
    assert prints[0] == prints[2] != prints[1]


def test_the_condition_may_be_a_node() -> None:
    on = node("Constant", "", "on", value=numpy_helper.from_array(np.array([True]), "on"))
    case = choice("on", branch(GEMM, "t", WEIGHTS), branch(TANH, "t"))
    taken(model([on, case, node("Relu", "h", "y")], X, "y"))


def squeezed(shape: Sequence[int | str], axis: int) -> onnx.ModelProto:
    """torch.squeeze(x, axis) as it is exported, and a layer of six inputs behind."""
    return model(
        [
            node("Shape", "x", "dims"),
            node("Gather", "dims axis", "dim", axis=0),
            node("Equal", "dim one", "on"),
            choice(
                "on",
                branch([node("Squeeze", "x axis", "t")], "t"),
                branch([node("Identity", "x", "t")], "t"),
            ),
            node("MatMul", "h w", "m"),
            node("Relu", "m", "y"),
        ],
        {"x": shape},
        "y",
        {"axis": [axis], "one": [1], "w": floats(6, 4)},
    )


@pytest.mark.parametrize("middle", [1, 3])
def test_the_condition_may_follow_from_a_fixed_dimension(middle: int) -> None:
    proto, feeds = squeezed(["n", middle, 6], 1), {"x": floats(4, middle, 6)}
    found = beside(proto, feeds)
    assert not {"Shape", "Equal"} & set(labels(found))
    features = (4,) if middle == 1 else (3, 4)
    assert found.graph.outputs[0].shape == ("N", *features)
    if middle == 1:
        assert not fallbacks(found)


def test_a_batch_of_one_is_freed_once_the_branch_is_taken() -> None:
    proto = squeezed([1, 1, 6], 1)
    graph = graph_of(proto)
    assert not graph.inputs[0].has_rows
    found = compilation(graph)
    assert found.graph.inputs[0].has_rows and found.graph.outputs[0].has_rows
    assert any("is free now" in n for n in found.graph.notes)
    x = floats(3, 1, 6)
    assert found.program is not None
    with engine.Session(found.program, cpus=[0]) as session:
        got = session.run({"x": x})["y"]
    for row in range(3):
        want = onnxruntime_run(proto, {"x": x[row : row + 1]})["y"]
        np.testing.assert_allclose(got[row : row + 1], want, atol=NEAR, rtol=NEAR)


def test_the_condition_may_be_a_result_of_the_model() -> None:
    proto = squeezed(["n", 1, 6], 1)
    proto.graph.output.append(helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, None))
    after, events = take_branches(graph_of(proto), REWRITES)
    assert "If" not in [n.op for n in after.nodes]
    assert [e.node for e in events] == ["choice_h"]


def test_whether_there_is_one_row_is_no_constant() -> None:
    with pytest.raises(UnsupportedError, match=r"on depends on open dimensions, of x: float32\[N"):
        compilation(graph_of(squeezed(["n", 1, 6], 0)))


def test_branches_in_branches_and_behind_each_other() -> None:
    inner = choice("off", branch(TANH, "t"), branch(GEMM, "t", WEIGHTS), "i")
    outer = [node("Sigmoid", "x", "s"), inner, node("Add", "s i", "z")]
    behind = [
        node("Shape", "h", "dims"),
        node("ReduceProd", "dims_1 axes", "count")
        if False
        else node("Gather", "dims one", "count"),
        node("Equal", "count six", "on_2"),
        choice("on_2", branch([node("Relu", "h", "t")], "t"), branch([], "x"), "y"),
    ]
    constants = {"on": np.array(True), "off": np.array(False), "one": [1], "six": [6]}
    wide = branch([node("Gemm", "x v", "t")], "t", {"v": floats(6, 9)})  # h has no shape at first
    first = choice("on", branch(outer, "z"), wide)
    found = taken(model([first, *behind], X, "y", constants))
    events = [e.node for e in found.events if e.rewrite == "branches"]
    assert events == ["choice_h", "choice_h.choice_i", "choice_y"]


def test_names_of_the_branch_do_not_meet_those_outside() -> None:
    """A `t` and a `w` are other values inside, for which onnxruntime wants other names."""
    inner, outer = floats(6, 6), floats(6, 2)

    def named(t: str, w: str) -> onnx.ModelProto:
        inside = [node("MatMul", f"h0 {w}", t, name="inner"), node("Tanh", t, "u")]
        around = [
            node("Relu", "x", "h0"),
            node("Neg", "x", "t"),
            choice("on", branch(inside, "u", {w: inner}), branch([], "h0")),
            node("Add", "h t", "s"),
            node("MatMul", "s w", "y"),
        ]
        return model(around, X, "y", {"on": np.array([True]), "w": outer})

    found = taken(named("t", "w"), FEEDS, named("t0", "w0"))
    assert "choice_h.inner" in {n.name for n in found.graph.nodes}


def test_subgraphs_in_the_branch_read_renamed_values() -> None:
    inner = choice("deep", branch([node("Add", "t c", "i")], "i"), branch([], "t"), "j")
    deep = node("Constant", "", "deep", value=numpy_helper.from_array(np.array(True), "deep"))
    nodes = [node("Relu", "x", "t"), deep, inner]
    case = choice("on", branch(nodes, "j", {"c": floats(6)}), branch(TANH, "t"))
    taken(model([case, node("Neg", "h", "t")], X, "t", {"on": np.array(True)}))


@pytest.mark.parametrize("outputs", ["x", "c", "d", "k"])
def test_what_a_branch_gives_may_be_of_outside_or_constant(outputs: str) -> None:
    made = node("Constant", "", "k", value=numpy_helper.from_array(floats(6), "k"))
    then = branch([made] if outputs == "k" else [], outputs, {"c": floats(6)})
    case = choice("on", then, branch(TANH, "t"))
    proto = model([case, node("Add", "h x", "y")], X, "y", {"on": np.array(True), "d": floats(6)})
    taken(proto)


def test_several_outputs_that_are_one_value() -> None:
    then = branch([node("Tanh", "x", "t"), node("Relu", "t", "r")], "t t r")
    case = choice("on", then, branch([], "x x x"), "h y z")
    taken(model([case, node("Sigmoid", "h", "s")], X, "s y z", {"on": np.array(True)}))


def test_branches_of_other_shapes() -> None:
    wide = branch([node("Gemm", "x v", "t")], "t", {"v": floats(6, 9)})
    deep = branch([node("Unsqueeze", "x axes", "t")], "t", {"axes": [1]})
    for on, shape in ((True, ("N", 9)), (False, ("N", 1, 6))):
        case = choice("on", wide, deep)
        proto = model([case, node("Relu", "h", "y")], X, "y", {"on": np.array(on)})
        assert beside(proto, FEEDS).graph.outputs[0].shape == shape


def test_weights_of_a_branch_may_lie_outside(tmp_path: Path) -> None:
    proto = one_of_two(True)
    weights = branch_of(proto, "then_branch").initializer
    for tensor in weights:
        (tmp_path / f"{tensor.name}.bin").write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, f"{tensor.name}.bin")
        tensor.ClearField("raw_data")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    outside, inside = load(tmp_path / "m.onnx"), graph_of(one_of_two(True))
    prints = [engine.compile(g).fingerprint for g in (outside, inside)]
    assert prints[0] == prints[1]


def test_a_condition_of_the_data_is_refused_with_what_to_do() -> None:
    head = [node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s zero", "on")]
    case = choice("on", branch(GEMM, "t", WEIGHTS), branch(TANH, "t"))
    graph = graph_of(model([*head, case, node("Relu", "h", "y")], X, "y", {"zero": 0.0}))
    with pytest.raises(UnsupportedError) as found:
        compilation(graph)
    said = str(found.value)
    assert "choice_h (If)" in said
    assert "its condition on depends on the data of x: float32[N, 6]; compute both" in said
    assert "choose by Where" in said
    refused = [e for e in rewrite(graph)[1] if e.rewrite == "branches"]
    assert [e.fired for e in refused] == [False]


def test_it_can_be_turned_off() -> None:
    graph = graph_of(one_of_two(True))
    after, log = rewrite(graph, frozenset({"branches"}))
    assert "If" in [n.op for n in after.nodes] and "branches" not in fired(log)
    with pytest.raises(UnsupportedError, match="condition on is constant; the rewrite branches"):
        compilation(graph, rewrites_off=("branches",))


def test_a_graph_with_operators_of_our_own_stays_as_it_is() -> None:
    before, _ = rewrite(graph_of(one_of_two(True)), frozenset({"branches"}))
    native = Node("own", "Relu", ("x",), ("o",), NATIVE)
    graph = before.with_nodes([native, *before.nodes])
    assert take_branches(graph, REWRITES) == (graph, [])
    assert len(take_branches(before, REWRITES)[1]) == 1


def test_a_branch_that_is_not_sound_is_refused_by_name() -> None:
    wrong = {"w": floats(5, 6), "b": floats(6)}
    proto = one_of_two(False)
    branch_of(proto, "else_branch").CopyFrom(branch(GEMM, "t", wrong))
    with pytest.raises(ModelError, match=r"choice_h\.Gemm \(Gemm\): expected inputs that fit"):
        compilation(graph_of(proto))
    few = choice("on", branch(TANH, "t"), branch(TANH, "t"), "h i")
    with pytest.raises(ModelError, match=r"choice_h \(If\): expected 2 outputs of its branch"):
        compilation(graph_of(model([few], X, "h i", {"on": np.array(True)})))


@pytest.mark.parametrize(
    "told",
    [
        [node("Gizmo", "x", "g", domain="acme")],
        [node("NonZero", "x", "z"), node("Reshape", "z flat", "f"), node("Reshape", "x f", "g")],
    ],
)
def test_what_only_the_file_says_is_kept(told: list[NodeProto]) -> None:
    case = choice("on", branch(GEMM, "t", WEIGHTS), branch(TANH, "t"))
    last = node("Add", "g h", "y")
    constants = {"on": np.array(True), "flat": [-1]}
    proto = model([*told, case, last], X, "y", constants, acme=1)
    proto.graph.value_info.append(info("g", ["batch", 6]))
    before = replace(graph_of(proto), notes=("a note",))
    after = with_branches(before, {"choice_h": True})
    assert [n.op for n in after.nodes] == [*(n.op_type for n in told), "Gemm", "Add"]
    assert after.values["g"] == before.values["g"] and after.values["g"].has_rows
    assert (after.outputs, after.notes) == (before.outputs, before.notes)
    assert not {"choice_h.w", "on"} & after.values.keys()


def test_a_shape_that_only_the_file_told_decides_nothing_against_the_branch() -> None:
    """`h` has no shape while its If stands, so that the 6 is believed; its branch gives 9."""
    wide = branch([node("Gemm", "x v", "t")], "t", {"v": floats(6, 9)})
    deep = branch([node("Unsqueeze", "x axes", "t")], "t", {"axes": [1]})
    nodes = [
        choice("on", wide, deep),
        node("Shape", "h", "dims"),
        node("Gather", "dims one", "count"),
        node("Equal", "count six", "on_2"),
        choice("on_2", branch([node("Tanh", "h", "t")], "t"), branch([], "h"), "z"),
        node("Relu", "z", "y"),
    ]
    constants = {"on": np.array(True), "one": [1], "six": [6]}
    true, lie = (model(nodes, X, "y", constants) for _ in range(2))
    lie.graph.value_info.append(info("h", ["batch", 6]))
    found = taken(lie, FEEDS, true)
    events = [(e.node, "always True" in e.reason) for e in found.events if e.rewrite == "branches"]
    assert events == [("choice_h", True), ("choice_z", False)]
