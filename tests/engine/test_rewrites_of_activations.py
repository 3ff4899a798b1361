"""Activations join the Linear before them; those that are spelled out are put together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from rewritten import X, activations, agreeing, fired, floats, ops, reasons
from small_models import model, node

ACTIVATIONS: Mapping[str, tuple[onnx.NodeProto, str]] = {
    "Relu": (node("Relu", "h", "y"), "Relu"),
    "LeakyRelu": (node("LeakyRelu", "h", "y", alpha=0.3), "LeakyRelu"),
    "Sigmoid": (node("Sigmoid", "h", "y"), "Sigmoid"),
    "Tanh": (node("Tanh", "h", "y"), "Tanh"),
    "Erf": (node("Erf", "h", "y"), "Erf"),
    "Gelu": (node("Gelu", "h", "y"), "Gelu"),
    "GeluTanh": (node("Gelu", "h", "y", approximate="tanh"), "GeluTanh"),
    "Clip": (node("Clip", "h low high", "y"), "Clip"),
    "Clip above": (node("Clip", "h - high", "y"), "Clip"),
    "HardSigmoid": (node("HardSigmoid", "h", "y", alpha=0.3, beta=0.4), "HardSigmoid"),
    "HardSwish": (node("HardSwish", "h", "y"), "HardSwish"),
    "Elu": (node("Elu", "h", "y", alpha=0.7), "Elu"),
    "Softplus": (node("Softplus", "h", "y"), "Softplus"),
    "Exp": (node("Exp", "h", "y"), "Exp"),
    "Neg": (node("Neg", "h", "y"), "Neg"),
    "Abs": (node("Abs", "h", "y"), "Abs"),
    "Pow": (node("Pow", "h two", "y"), "Square"),
    "Mul": (node("Mul", "h h", "y"), "Square"),
    "PRelu": (node("PRelu", "h low", "y"), "LeakyRelu"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_join_the_linear(name: str) -> None:
    last, expected = ACTIVATIONS[name]
    constants = {"w": floats(6, 4), "low": -0.5, "high": 0.75, "two": 2.0}
    after, _ = agreeing(model([node("MatMul", "x w", "h"), last], X, "y", constants, opset=20))
    assert ops(after) == ["colonnade.Linear"]
    assert activations(after) == [expected]


def test_several_activations_join_in_order() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("Relu", "t", "y")]
    after, _ = agreeing(model(nodes, X, "y", {"w": floats(6, 4)}))
    assert activations(after) == ["Tanh", "Relu"]


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        ([node("Relu", "h", "y"), node("Neg", "h", "z")], "y z", "h is read by 2 nodes"),
        ([node("Relu", "h", "y")], "y h", "h is a graph output"),
        ([node("Clip", "h bound", "y")], "y", "its bound bound is not one constant number"),
        ([node("PRelu", "h slopes", "y")], "y", "its slopes is not one constant number"),
    ],
)
def test_activations_that_must_stay(nodes: list[onnx.NodeProto], outputs: str, reason: str) -> None:
    first = [node("ReduceMax", "x", "bound", keepdims=0), node("MatMul", "x w", "h")]
    constants = {"w": floats(6, 4), "slopes": floats(4)}
    after, log = agreeing(model([*first, *nodes], X, outputs, constants))
    assert activations(after) == []
    assert reason in reasons(log, "activation")


def gelu(*last: onnx.NodeProto) -> list[onnx.NodeProto]:
    head = [node("Div", "h rt2", "e0"), node("Erf", "e0", "e1"), node("Add", "e1 one", "e2")]
    return [*head, *last]


CUBE = [node("Mul", "h h", "q"), node("Mul", "q h", "p")]
POW = [node("Pow", "h three", "p")]
TANH = [
    node("Mul", "p c", "t0"),
    node("Add", "h t0", "t1"),
    node("Mul", "root t1", "t2"),
    node("Tanh", "t2", "t3"),
    node("Add", "one t3", "t4"),
    node("Mul", "half h", "t5"),
    node("Mul", "t5 t4", "y"),
]
SPELLED: Mapping[str, tuple[list[onnx.NodeProto], str]] = {
    "gelu, half last": (gelu(node("Mul", "h e2", "m"), node("Mul", "m half", "y")), "Gelu"),
    "gelu, half first": (gelu(node("Mul", "h half", "m"), node("Mul", "e2 m", "y")), "Gelu"),
    "gelu, half beside": (gelu(node("Mul", "half e2", "m"), node("Mul", "h m", "y")), "Gelu"),
    "gelu, divided": (gelu(node("Mul", "e2 h", "m"), node("Div", "m two", "y")), "Gelu"),
    "gelu, tanh of a power": ([*POW, *TANH], "GeluTanh"),
    "gelu, tanh of a cube": ([*CUBE, *TANH], "GeluTanh"),
    "silu": ([node("Sigmoid", "h", "s"), node("Mul", "s h", "y")], "Silu"),
    "hard swish": (
        [node("HardSigmoid", "h", "s", alpha=1 / 6, beta=0.5), node("Mul", "h s", "y")],
        "HardSwish",
    ),
    "hard swish, clipped": (
        [
            node("Add", "h three", "a"),
            node("Clip", "a zero six", "b"),
            node("Mul", "h b", "m"),
            node("Div", "m six", "y"),
        ],
        "HardSwish",
    ),
}
NUMBERS = {"rt2": np.sqrt(2), "one": 1.0, "half": 0.5, "two": 2.0, "three": 3.0, "zero": 0.0}
NUMBERS |= {"six": 6.0, "c": 0.044715, "root": np.sqrt(2 / np.pi)}


@pytest.mark.parametrize("name", SPELLED)
def test_spelled_out_activations_are_recognized(name: str) -> None:
    nodes, expected = SPELLED[name]
    linear = node("MatMul", "x w", "h")
    after, _ = agreeing(model([linear, *nodes], X, "y", {"w": floats(6, 4), **NUMBERS}))
    assert activations(after) == [expected]
    alone, _ = agreeing(model([node("Neg", "x", "h"), *nodes], X, "y", NUMBERS))
    assert ops(alone) == ["Neg", f"colonnade.{expected}"]


@pytest.mark.parametrize(
    "nodes",
    [
        gelu(node("Mul", "h e2", "m"), node("Mul", "m two", "y")),
        gelu(node("Mul", "x e2", "m"), node("Mul", "m half", "y")),
        [node("Sigmoid", "x", "s"), node("Mul", "s h", "y")],
        [node("HardSigmoid", "h", "s"), node("Mul", "h s", "y")],
    ],
)
def test_near_misses_are_not_recognized(nodes: list[onnx.NodeProto]) -> None:
    after, log = agreeing(model([node("Neg", "x", "h"), *nodes], X, "y", NUMBERS))
    assert "decomposed" not in fired(log)
    assert not any(label.startswith("colonnade") for label in ops(after))
