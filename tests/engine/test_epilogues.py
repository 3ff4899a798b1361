"""What a linear kernel does to its sums while they are in L1: adds a panel, applies functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from rewritten import agreeing, checked, fired, floats, ops, reasons
from small_models import model, node

import engine
from engine.kernels.table import EPILOGUE_NAMES
from engine.reader import graph_of
from engine.segments import Code, Column, Step

named = pytest.mark.parametrize
X = {"x": ["batch", 6]}
FUNCTIONS = {
    "Gelu": node("Gelu", "s", "y"),
    "GeluTanh": node("Gelu", "s", "y", approximate="tanh"),
    "Sigmoid": node("Sigmoid", "s", "y"),
    "Silu": node("Swish", "s", "y"),
    "Tanh": node("Tanh", "s", "y"),
}


def block(*rest: onnx.NodeProto, outputs: str = "y") -> onnx.ModelProto:
    """Two products of x, l and then m, of six features, and whatever follows."""
    nodes = [node("MatMul", "x w", "l", name="left"), node("Gemm", "x w2 b", "m", name="right")]
    constants = {"w": floats(6, 6), "w2": floats(6, 6), "b": floats(6), "c": floats(5, 6)}
    return model([*nodes, *rest], X, outputs, constants, opset=24)


def steps_of(proto: onnx.ModelProto, **switches: Any) -> tuple[Step, ...]:
    (segment,) = engine.compile(graph_of(proto), **switches).segments
    assert isinstance(segment, Column)
    return tuple(s for s in segment.steps if s.node)


def test_every_epilogue_is_tried() -> None:
    assert set(FUNCTIONS) == set(EPILOGUE_NAMES)


@named("name", EPILOGUE_NAMES)
def test_a_function_and_a_sum_take_no_step_of_their_own(name: str) -> None:
    proto = block(node("Add", "m l", "s"), FUNCTIONS[name])
    checked(proto, {"x": floats(37, 6)})
    left, right = steps_of(proto, points=16)
    assert left.detail == "36 of 6x6"
    assert right.detail == f"36 of 6x6, adds l, {name}"
    codes = [word for word in right.operands if isinstance(word, Code)]
    assert codes == [Code(f"epilogue_{name.lower()}_f32_x16")]
    assert right.reads == ("x", "l")


@named("name", EPILOGUE_NAMES)
def test_without_epilogues_each_is_a_pass_and_no_byte_differs(name: str) -> None:
    """Relu after the sum is then no bound of the kernel's either, since it would come too early."""
    proto = block(node("Add", "m l", "a"), node("Relu", "a", "s"), FUNCTIONS[name])
    kernels = [s.kernel for s in steps_of(proto, points=16, epilogues=False)][2:]
    assert kernels == ["add_f32_x16", "relu_f32_x16", f"{name.lower()}_f32_x16"]
    feeds, found = {"x": floats(45, 6)}, []
    for epilogues in (True, False):
        program = engine.compile(graph_of(proto), epilogues=epilogues)
        with engine.Session(program, cpus=[0]) as session:
            found.append(session.run(feeds)["y"].tobytes())
    assert found[0] == found[1]


def test_what_follows_an_epilogue_is_a_pass() -> None:
    nodes = (node("Clip", "m low", "s"), node("Tanh", "s", "t"), node("Gelu", "t", "y"))
    proto = model(
        [node("MatMul", "x w", "m"), *nodes], X, "y", {"w": floats(6, 6), "low": -0.5}, opset=20
    )
    first, *others = steps_of(proto)
    assert first.detail == "36 of 6x6, clamp -0.5..inf, Tanh"
    assert [s.kernel.partition("_")[0] for s in others] == ["gelu"]


def test_positions_of_a_row_add_their_own_part() -> None:
    """A Linear over [rows, positions, K] runs position by position, in slices of four."""
    nodes = [node("MatMul", "x w", "m"), node("Add", "z m", "s"), node("Tanh", "s", "y")]
    inputs = {"x": ["batch", 3, 6], "z": ["batch", 3, 5]}
    proto = model(nodes, inputs, "y", {"w": floats(6, 5)}, opset=20)
    found = checked(proto, {"x": floats(19, 3, 6), "z": floats(19, 3, 5)})
    assert [n.label for n in found.graph.nodes] == ["colonnade.Linear"]


@named("names", ["l m", "m l"])
def test_the_later_of_two_linears_takes_the_other(names: str) -> None:
    after, log = agreeing(block(node("Add", names, "y")))
    assert ops(after) == ["colonnade.Linear"] * 2 and "residual" in fired(log)
    assert [n.inputs[3:] for n in after.nodes] == [(), ("l",)]


def test_scales_behind_a_sum_stay_and_shifts_join() -> None:
    shifted, _ = agreeing(block(node("Add", "m x", "s"), node("Add", "s b", "y")))
    assert ops(shifted) == ["colonnade.Linear"]
    scaled, _ = agreeing(block(node("Add", "m x", "s"), node("Mul", "s b", "y")))
    assert ops(scaled) == ["colonnade.Linear", "Mul"]


@named(
    ("rest", "outputs", "reason"),
    [
        ([node("Add", "m m", "y")], "y l", "to itself"),
        ([node("Add", "m x", "y"), node("Neg", "m", "z")], "y z", "m is read by 2 nodes"),
        ([node("Add", "m x", "y")], "y m", "m is a graph output"),
        ([node("Relu", "m", "r"), node("Add", "r x", "y")], "y", "activation in between"),
        ([node("Add", "m x", "a"), node("Add", "a x", "y")], "y", "right adds x already"),
        (
            [node("ReduceSum", "x one", "p", keepdims=1), node("Add", "m p", "y")],
            "y",
            "are not float32 of one shape",
        ),
    ],
)
def test_sums_that_stay(rest: list[onnx.NodeProto], outputs: str, reason: str) -> None:
    proto = block(*rest, outputs=outputs)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    after, log = agreeing(proto)
    assert "Add" in ops(after)
    assert reason in reasons(log, "residual")


def test_a_constant_of_a_fixed_batch_is_not_added_by_a_linear() -> None:
    proto = model(
        [node("MatMul", "x w", "m"), node("Add", "m c", "y")],
        {"x": [5, 6]},
        "y",
        {"w": floats(6, 6), "c": floats(5, 6)},
    )
    after, log = agreeing(proto)
    assert ops(after) == ["colonnade.Linear", "Add"]
    assert "c is constant" in reasons(log, "residual")
