"""Constants are computed, nodes that do nothing go, shapes that can be known become constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from rewritten import X, agreeing, fired, floats, ops, reasons
from small_models import model, node

from engine.reader import graph_of
from engine.rewrites import rewrite


def test_chains_of_constants_are_computed() -> None:
    nodes = [node("Neg", "c", "d"), node("Exp", "d", "e"), node("Mul", "x e", "y")]
    after, log = agreeing(model(nodes, X, "y", {"c": floats(6)}))
    assert ops(after) == ["Mul"]
    assert [e.node for e in log if e.rewrite == "fold" and e.fired] == ["Neg_0", "Exp_1"]


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        ([node("Expand", "c s", "d"), node("Add", "x d", "y")], {"s": [10**8, 6]}, "bytes"),
        ([node("ConstantOfShape", "s", "d"), node("Add", "x d", "y")], {"s": [2**40, 6]}, "bytes"),
        ([node("RandomNormalLike", "c", "d"), node("Add", "x d", "y")], {}, "random"),
        ([node("Neg", "c", "y")], {}, "graph output"),
    ],
)
def test_constants_that_must_not_be_computed(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], reason: str
) -> None:
    proto = model(nodes, X, "y", {"c": floats(6), **constants})
    after, log = rewrite(graph_of(proto))
    assert len(after.nodes) == len(nodes)
    assert reason in reasons(log, "fold")


@pytest.mark.parametrize(
    "nothing",
    [
        node("Identity", "h", "i"),
        node("Dropout", "h", "i mask"),
        node("Cast", "h", "i", to=1),
        node("Reshape", "h same", "i"),
        node("Transpose", "h", "i", perm=[0, 1]),
        node("Concat", "h", "i", axis=1),
        node("Mul", "one h", "i"),
        node("Sub", "h zeros", "i"),
        node("Flatten", "h", "i"),
    ],
    ids=lambda n: n.op_type,
)
def test_nodes_that_do_nothing_go(nothing: onnx.NodeProto) -> None:
    constants = {"same": [0, 6], "one": 1.0, "zeros": np.zeros(6, np.float32)}
    after, _ = agreeing(
        model([node("Neg", "x", "h"), nothing, node("Exp", "i", "y")], X, "y", constants)
    )
    assert ops(after) == ["Neg", "Exp"]


def test_a_graph_output_keeps_its_name() -> None:
    nodes = [node("Neg", "x", "h"), node("Identity", "h", "y"), node("Identity", "h", "z")]
    after, log = agreeing(model(nodes, X, "y z"))
    assert ops(after) == ["Neg", "Identity"]
    assert "another name that must stay" in reasons(log, "identity")
    straight, _ = agreeing(model([node("Identity", "x", "y")], X, "y"))
    assert ops(straight) == ["Identity"]


def test_chains_of_nothing_go_at_once() -> None:
    nodes = [node("Identity", a, b) for a, b in ("xa", "ab", "bc", "cd")]
    after, _ = agreeing(model([*nodes, node("Relu", "d", "y")], X, "y"))
    assert ops(after) == ["Relu"] and after.nodes[0].inputs == ("x",)


def test_what_is_not_nothing_stays() -> None:
    nodes = [
        node("Cast", "x", "a", to=11),
        node("Cast", "a", "b", to=1),
        node("Mul", "b wide", "c"),
        node("Div", "one c", "d"),
        node("Sub", "zero d", "y"),
    ]
    constants = {"wide": np.ones((1, 1, 6), np.float32), "one": 1.0, "zero": 0.0}
    after, _ = agreeing(model(nodes, X, "y", constants))
    assert ops(after) == ["Cast", "Cast", "Mul", "Div", "Sub"]


def test_a_computed_reshape_target_becomes_a_constant() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s i0", "n"),
        node("Gather", "s i1", "k"),
        node("Mul", "k k", "kk"),
        node("Div", "kk k", "k2"),
        node("Unsqueeze", "n ax", "n1"),
        node("Unsqueeze", "k2 ax", "k3"),
        node("Concat", "n1 two k3", "t", axis=0),
        node("Concat", "x x", "xx", axis=1),
        node("Reshape", "xx t", "r"),
        node("Neg", "r", "y"),
    ]
    constants = {"i0": 0, "i1": 1, "ax": [0], "two": [2]}
    after, log = agreeing(model(nodes, X, "y", constants))
    assert ops(after) == ["Concat", "Reshape", "Neg"]
    assert after.initializers[after.nodes[1].inputs[1]].tolist() == [0, 2, 6]
    assert {"static_shape", "fold", "dead_code"} <= fired(log)


def test_a_shape_with_more_open_than_the_rows_stays() -> None:
    nodes = [node("Shape", "a", "s"), node("Reshape", "b s", "r"), node("Neg", "r", "y")]
    shapes = {"a": ["batch", 2, "p", "q"], "b": ["batch", "r", 2]}
    after, log = rewrite(graph_of(model(nodes, shapes, "y")))
    assert "Reshape" in ops(after)
    assert "more open than can be told" in reasons(log, "static_shape")
