"""Models whose parts contradict each other are refused by name, before a kernel believes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_models import Array, info, model, node

import engine
from engine.errors import EngineError, ModelError
from engine.graph import Graph, Node, Value
from engine.ops.native import lower
from engine.ops.work import Refusal
from engine.reader import graph_of

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def refused(proto: onnx.ModelProto, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        graph_of(proto)


def small(op: str, width: int, result: int | None, given: Any = None, **attributes: Any) -> Any:
    """y[N, result] = op(x[N, width], ...), with the constants that the name lists."""
    constants = dict(given or {})
    names = " ".join(["x", *constants])
    opset = attributes.pop("opset", 17)
    outputs: Any = "y" if result is None else {"y": ["N", result]}
    nodes = [node(op, names, "y", **attributes)]
    return model(nodes, {"x": ["N", width]}, outputs, constants, opset=opset)


# --- shapes


@pytest.mark.parametrize(
    ("proto", "match"),
    [
        (small("Softmax", 4, 1, axis=7), r"Softmax_0 \(Softmax\): expected inputs that fit, got x"),
        (small("MatMul", 4, 90_000, {"w": floats(5, 3)}), r"got x: float32\[N, 4\], w: float32\[5"),
        (small("Gemm", 4, 3, {"w": floats(400, 3)}), "mismatch"),
        (small("Add", 14, 14, {"c": floats(3)}), "Incompatible dimensions"),
        (small("Softmax", 1, 4, axis=1), r"expected its result y: .*, 4\] .*, got .*\[N, 1\]"),
        (small("MatMul", 4, 90_000, {"w": floats(4, 3)}), "as declared, got"),
        (small("Relu", 4000, 3), "as declared, got"),
    ],
)
def test_a_declaration_that_lies_is_refused(proto: onnx.ModelProto, match: str) -> None:
    refused(proto, match)


def test_a_lie_about_a_value_in_between_is_refused_too() -> None:
    nodes = [node("Softmax", "x", "h", axis=7), node("Relu", "h", "y")]
    proto = model(nodes, {"x": ["N", 4]}, {"y": ["N", 1]})
    proto.graph.value_info.append(info("h", ["N", 1]))
    refused(proto, "Softmax_0")


def test_a_batch_size_left_over_from_the_export_is_no_lie() -> None:
    proto = model([node("Relu", "x", "y")], {"x": ["N", 4]}, {"y": [32, 4]})
    assert str(graph_of(proto).outputs[0]) == "y: float32[N, 4]"


# --- types


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_inputs_of_two_element_types_are_refused(op: str) -> None:
    proto = small(op, 4, 3, {})
    proto.graph.node[0].input.append("w")
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((4, 3)), "w"))
    refused(proto, rf"{op}_0 .*one element type \(T\).*x: float32.* and w: float64\[4, 3\]")


def test_a_type_that_an_operator_fixes_is_checked() -> None:
    proto = small("Reshape", 4, 4, {"t": np.array([0, 4], np.int32)})
    refused(proto, r"Reshape_0 \(Reshape\): expected tensor\(int64\) for t, got t: int32\[2\]")


# --- parameters that inference does not look at

STATISTICS = {n: np.abs(floats(3)) for n in ("s", "b", "m", "v")}
OLD = {"s": floats(3), "b": floats(3), "m": floats(3), "v": np.abs(floats(3))}


@pytest.mark.parametrize(
    ("proto", "match"),
    [
        (small("Clip", 4, None, {"low": floats(2), "high": 1.0}), "one number as a bound, got low"),
        (small("BatchNormalization", 14, 14, STATISTICS), r"a parameter \[14\].*got s: float32\[3"),
        (small("BatchNormalization", 14, 14, STATISTICS, opset=8), r"a parameter \[14\]"),
        (
            small("Gemm", 14, 2, {"w": floats(14, 2), "c": floats(3)}),
            r"broadcast to \[N, 2\], got c",
        ),
        (small("PRelu", 4, 4, {"slope": floats(3)}), r"a slope that fits .*, got slope"),
        (small("Add", 14, 14, {"c": floats(3)}, opset=6, broadcast=1), "an input that fits"),
    ],
)
def test_parameters_of_another_length_are_refused(proto: onnx.ModelProto, match: str) -> None:
    refused(proto, match)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow"])
def test_dimensions_laid_along_an_axis_are_refused_before_opset_7(op: str) -> None:
    """numpy would match [4] with the last dimension of [N, 4, 4], the model means the middle."""
    for axis, good in ((1, False), (2, True), (None, True)):
        attributes: dict[str, Any] = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
        nodes = [node(op, "x c", "y", **attributes)]
        proto = model(nodes, {"x": ["N", 4, 4]}, "y", {"c": floats(4)}, opset=6)
        if good:
            graph_of(proto)
        else:
            refused(proto, "since operator set 7, got axis=1 .*; convert the model to a later")


def test_an_old_slope_over_channels_is_refused() -> None:
    nodes = [node("PRelu", "x c", "y")]
    refused(model(nodes, {"x": ["N", 4, 4]}, "y", {"c": floats(4)}, opset=6), "over the channels")
    graph_of(model(nodes, {"x": ["N", 4]}, "y", {"c": floats(4)}, opset=6))


def test_statistics_for_each_position_are_refused() -> None:
    nodes = [node("BatchNormalization", "x s b m v", "y", spatial=0)]
    constants = {n: np.abs(floats(3, 4)) for n in ("s", "b", "m", "v")}
    refused(model(nodes, {"x": ["N", 3, 4]}, "y", constants, opset=8), "spatial=0 .*set 9 or later")


# --- a graph that no reader checked: kernels must still not believe it


@pytest.mark.parametrize(
    ("op", "width", "result", "constant", "attributes"),
    [
        ("Relu", 4, 400, None, {}),
        ("Clip", 4, 400, None, {}),
        ("Softmax", 4, 400, None, {}),
        ("Softmax", 4, 4, None, {"axis": 7}),
        ("Add", 4, 400, floats(1), {}),
        ("Add", 4, 4, floats(3), {}),
        ("Add", 4, 4, floats(2, 1, 4), {}),
        ("Cast", 4, 400, None, {"to": 1}),
        ("Identity", 4, 400, None, {}),
        ("colonnade.Linear", 4, 5, floats(5, 400), {"activations": ()}),
        ("colonnade.Linear", 4, 400, floats(5, 4), {"activations": ()}),
    ],
)
def test_kernels_refuse_shapes_that_do_not_fit(
    op: str, width: int, result: int, constant: Array | None, attributes: dict[str, Any]
) -> None:
    domain, _, name = op.rpartition(".")
    inputs = ("x",) if constant is None else ("x", "c")
    x, y = (Value(n, np.dtype(np.float32), ("N", w)) for n, w in (("x", width), ("y", result)))
    it = Node("it", name, inputs, ("y",), domain, attributes)
    constants = {} if constant is None else {"c": constant}
    graph = Graph("lies", (x,), (y,), (it,), {"x": x, "y": y}, constants, {"": 17})
    assert isinstance(lower(it, graph), Refusal)


def test_a_bias_of_another_length_is_refused_by_its_kernel() -> None:
    x, y = (Value(n, np.dtype(np.float32), ("N", 4)) for n in "xy")
    it = Node("it", "Linear", ("x", "w", "b"), ("y",), "colonnade", {"activations": ()})
    constants = {"w": floats(4, 4), "b": floats(3)}
    graph = Graph("lies", (x,), (y,), (it,), {"x": x, "y": y}, constants, {"": 17})
    found = lower(it, graph)
    assert isinstance(found, Refusal) and "bias[3] do not take x" in found.reason


def test_what_onnx_infers_nothing_for_is_checked_when_it_has_run() -> None:
    """Its declared width would let the next kernel read past the end of the array."""
    first = node("LinearRegressor", "x", "h", coefficients=[1.0, 2.0], domain="ai.onnx.ml")
    nodes = [first, node("Relu", "h", "y")]
    proto = model(nodes, {"x": ["N", 2]}, {"y": ["N", 90_000]}, ai_onnx_ml=1)
    proto.graph.value_info.append(info("h", ["N", 90_000]))
    message = r"h: expected h: .*90000\] for 5 rows, got \[5, 1\]"
    session = engine.Session(engine.compile(graph_of(proto)))
    with session, pytest.raises(EngineError, match=message):
        session.run({"x": floats(5, 2)})


# --- the same for values of tokens

T = ("N", "S")
ATTENTION = {"heads": 1, "scale": 1.0}


@pytest.mark.parametrize(
    ("op", "shapes", "result", "constants", "attributes"),
    [
        ("LayerNormalization", {"x": (*T, 4)}, (*T, 8), {"c": floats(4)}, {}),
        ("colonnade.Repeat", {"x": (*T, 1)}, (*T, 4), {}, {"count": 8}),
        ("colonnade.Part", {"x": (*T, 8)}, (*T, 4), {}, {"start": 6, "count": 4}),
        ("colonnade.Part", {"x": (*T, 8)}, (*T, 8), {}, {"start": 0, "count": 4}),
        ("colonnade.Positional", {"x": (*T, 8)}, (*T, 8), {"c": floats(9, 4)}, {}),
        ("ReduceMax", {"x": (*T, 4)}, (*T, 4), {}, {"axes": [2]}),
        ("ReduceMax", {"x": (*T, 4)}, (*T, 1), {}, {"axes": [5]}),
        ("ReduceMax", {"x": (*T, 4)}, ("N", 8), {}, {"axes": [1]}),
        ("Gather", {"x": (*T, 4)}, (*T, 4), {"c": np.array(0)}, {"axis": 1}),
        ("colonnade.Attention", dict.fromkeys("xkv", (*T, 8)), (*T, 16), {}, ATTENTION),
        ("colonnade.Attention", {"x": (*T, 8), "k": (*T, 4), "v": (*T, 8)}, (*T, 8), {}, ATTENTION),
    ],
)
def test_kernels_of_tokens_refuse_shapes_that_do_not_fit(
    op: str,
    shapes: dict[str, Any],
    result: Any,
    constants: dict[str, Array],
    attributes: dict[str, Any],
) -> None:
    domain, _, name = op.rpartition(".")
    values = {n: Value(n, np.dtype(np.float32), s) for n, s in (shapes | {"y": result}).items()}
    it = Node("it", name, (*shapes, *constants), ("y",), domain, attributes)
    inputs = tuple(values[n] for n in shapes)
    graph = Graph("lies", inputs, (values["y"],), (it,), values, constants, {"": 17})
    assert isinstance(lower(it, graph), Refusal)
