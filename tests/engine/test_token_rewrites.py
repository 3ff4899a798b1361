"""The rewrites for transformers: where each fires, where it must refuse, and what they keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from exporters import SIZE, batch, model
from onnx import helper
from rewritten import RNG, checked, fallbacks, floats, labels, refusals
from small_models import model as small
from small_models import node

import engine
from engine.compiler import Compilation
from engine.reader import graph_of
from engine.rewrites import rewrite
from engine.segments import Sequences
from scripts.models.bert import STYLES

named = pytest.mark.parametrize
X: dict[str, Any] = {"x": ["batch", "length", 8]}
TOKENS = RNG.standard_normal((3, 5, 8)).astype(np.float32)


# ---- LayerNorm and RMSNorm ----------------------------------------------------------------------

EPSILON = np.float32(1e-5)
CENTRE = [node("ReduceMean", "x", "m", axes=[-1]), node("Sub", "x m", "d")]
SQUARE = [node("Mul", "d d", "q"), node("ReduceMean", "q", "v", axes=[-1])]
ROOT = [node("Add", "v e", "t"), node("Sqrt", "t", "r")]
DIVIDE = [node("Div", "d r", "n")]
SCALE = [node("Mul", "n s", "p"), node("Add", "p b", "y")]
NORM = [*CENTRE, *SQUARE, *ROOT, *DIVIDE, *SCALE]
OF_X = [node("Mul", "x x", "q"), node("ReduceMean", "q", "v", axes=[-1])]


def norm(nodes: Sequence[onnx.NodeProto], outputs: str = "y", **constants: Any) -> Compilation:
    given = {"e": EPSILON, "s": floats(8), "b": floats(8), "two": np.float32(2), **constants}
    one = {"one": np.float32(1), "half": np.float32(-0.5)}
    return checked(small(nodes, X, outputs, given | one), {"x": TOKENS})


@named(
    "nodes",
    [
        NORM,
        [*CENTRE, node("Pow", "d two", "q"), SQUARE[1], *ROOT, *DIVIDE, *SCALE],
        [*CENTRE, node("Sub", "x m", "d2"), node("Mul", "d2 d2", "q"), SQUARE[1], *ROOT, *DIVIDE,
         *SCALE],
        [*CENTRE, *SQUARE, *ROOT, *DIVIDE, node("Mul", "s n", "p"), node("Add", "b p", "y")],
        [*CENTRE, *SQUARE, *ROOT, node("Reciprocal", "r", "i"), node("Mul", "d i", "n"), *SCALE],
        [*CENTRE, *SQUARE, *ROOT, node("Div", "one r", "i"), node("Mul", "i d", "n"), *SCALE],
        [*CENTRE, *SQUARE, ROOT[0], node("Pow", "t half", "i"), node("Mul", "d i", "n"), *SCALE],
    ],
)  # fmt: skip
def test_layer_norm_is_put_together(nodes: list[onnx.NodeProto]) -> None:
    assert labels(norm(nodes)) == ["colonnade.LayerNorm"]


@named(
    "nodes",
    [
        [*OF_X, *ROOT, node("Div", "x r", "n"), node("Mul", "n s", "y")],
        [*OF_X, *ROOT, node("Div", "one r", "i"), node("Mul", "x i", "n"), node("Mul", "s n", "y")],
        [node("Pow", "x two", "q"), OF_X[1], *ROOT, node("Div", "x r", "n"),
         node("Mul", "n s", "y")],
    ],
)  # fmt: skip
def test_rms_norm_is_put_together(nodes: list[onnx.NodeProto]) -> None:
    found = norm(nodes)
    (only,) = found.graph.nodes
    assert only.label == "colonnade.LayerNorm" and only.attributes["centred"] == 0
    assert not fallbacks(found)


def over(axis: int) -> list[onnx.NodeProto]:
    means = {"m": ("x", "m"), "v": ("q", "v")}
    return [
        node("ReduceMean", *means[n.output[0]], axes=[axis]) if n.op_type == "ReduceMean" else n
        for n in NORM
    ]


@named(
    ("nodes", "constants", "reason"),
    [
        (over(1), {}, ""),
        (NORM, {"s": np.float32(2)}, "no vectors of 8 features"),
        (NORM, {"b": floats(1)}, "no vectors of 8 features"),
        (NORM, {"s": floats(1, 1, 1)}, "no vectors of 8 features"),
        ([*CENTRE, node("Mul", "d x", "q"), SQUARE[1], *ROOT, *DIVIDE, *SCALE], {}, ""),
        ([*CENTRE, *OF_X, *ROOT, *DIVIDE, *SCALE], {}, ""),
    ],
)
def test_what_is_no_layer_norm_stays(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], reason: str
) -> None:
    found = norm(nodes, **constants)
    assert "colonnade.LayerNorm" not in labels(found)
    assert reason in refusals(found, "layer_norm")


def test_a_layer_norm_whose_parts_are_read_elsewhere_leaves_them() -> None:
    found = norm([*NORM, node("Mul", "v v", "z")], "y z d")
    assert "colonnade.LayerNorm" in labels(found) and "Sub" in labels(found)


def test_a_gated_feed_forward_is_native() -> None:
    """RMSNorm, SiLU of one linear layer times another, as in LLaMA."""
    nodes = [
        *OF_X, *ROOT, node("Div", "x r", "n"), node("Mul", "n s", "h"),
        node("MatMul", "h wg", "g"), node("Sigmoid", "g", "i"), node("Mul", "g i", "a"),
        node("MatMul", "h wu", "u"), node("Mul", "a u", "w"), node("MatMul", "w wd", "o"),
        node("Add", "x o", "y"),
    ]  # fmt: skip
    weights = {"wg": floats(8, 16), "wu": floats(8, 16), "wd": floats(16, 8) / 16}
    found = norm(nodes, **weights)
    assert not fallbacks(found)
    assert labels(found).count("colonnade.LayerNorm") == 1


# ---- arithmetic, parts, pools -------------------------------------------------------------------


@named(
    ("nodes", "constants"),
    [
        ([node("Max", "x c", "y")], {"c": np.float32(0.5)}),
        ([node("Min", "c x", "y")], {"c": floats(1)}),
        ([node("Pow", "x c", "y")], {"c": np.float32(2)}),
        ([node("Abs", "x", "a"), node("Pow", "a c", "y")], {"c": np.float32(0.5)}),
        ([node("Pow", "x c", "y")], {"c": np.float32(-1)}),
        ([node("Abs", "x", "a"), node("Pow", "a c", "y")], {"c": np.float32(-0.5)}),
        ([node("LpNormalization", "x", "y", axis=-1, p=2)], {}),
        ([node("LpNormalization", "x", "y", axis=2, p=1)], {}),
        ([node("Slice", "x c d c", "y")], {"c": [2], "d": [7]}),
        ([node("Slice", "x c d e", "y")], {"c": [-6], "d": [2**62], "e": [-1]}),
        ([node("Slice", "x c d e", "f"), node("Squeeze", "f e", "y")],
         {"c": [0], "d": [1], "e": [1]}),
        ([node("Slice", "x c d e", "f"), node("Squeeze", "f e", "y")],
         {"c": [-1], "d": [2**62], "e": [1]}),
        ([node("Gather", "x c", "y", axis=1)], {"c": 0}),
        ([node("Gather", "x c", "f", axis=1), node("Flatten", "f", "y")], {"c": [0]}),
        ([node("ReduceMean", "x", "y", axes=[1], keepdims=0)], {}),
        ([node("ReduceMax", "x", "f", axes=[1]), node("Squeeze", "f c", "y")], {"c": [1]}),
        ([node("ReduceL2", "x", "n", axes=[-1]), node("Div", "x n", "y")], {}),
        ([node("ReduceSum", "x c", "s", keepdims=0), node("ReduceL2", "s", "n", axes=[1]),
          node("Shape", "s", "h"), node("Expand", "n h", "w"), node("Div", "s w", "y")],
         {"c": [1]}),
        ([node("Split", "x", "a b", axis=2, num_outputs=2), node("Mul", "a b", "y")], {}),
    ],
)  # fmt: skip
def test_it_is_native(nodes: list[onnx.NodeProto], constants: dict[str, Any]) -> None:
    given = {n: np.array(v) if isinstance(v, list) else v for n, v in constants.items()}
    if any(n.op_type == "Slice" and len(n.input) == 4 and given["c"][0] == 2 for n in nodes):
        given["e"] = np.array([2])
        nodes = [node("Slice", "x c d e", "y")]
    opset = 18 if any(n.op_type == "Split" for n in nodes) else 17
    assert not fallbacks(checked(small(nodes, X, "y", given, opset=opset), {"x": TOKENS}))


def test_a_norm_of_nothing_is_nothing() -> None:
    x = TOKENS.copy()
    x[1, 2], x[0, 0, 3] = 0, np.nan
    for p in (1, 2):
        proto = small([node("LpNormalization", "x", "y", axis=-1, p=p)], X, "y")
        assert not fallbacks(checked(proto, {"x": x}))


@named(
    ("nodes", "constants"),
    [
        ([node("Max", "x c", "y")], {"c": floats(8)}),
        ([node("Max", "x x2", "y"), ], {"x2": floats(1, 1, 8)}),
        ([node("Abs", "x", "a"), node("Pow", "a c", "y")], {"c": np.float32(3)}),
        ([node("LpNormalization", "x", "y", axis=1)], {}),
        ([node("Slice", "x c d e", "y")], {"c": [0], "d": [2], "e": [1]}),
        ([node("Slice", "x c d e s", "y")], {"c": [0], "d": [8], "e": [2], "s": [2]}),
        ([node("Gather", "x c", "y", axis=1)], {"c": 1}),
        ([node("ReduceMean", "x", "y", axes=[1, 2], keepdims=0)], {}),
    ],
)  # fmt: skip
def test_what_has_no_kernel_falls_back_and_is_right(
    nodes: list[onnx.NodeProto], constants: dict[str, Any]
) -> None:
    given = {n: np.array(v) if isinstance(v, list) else v for n, v in constants.items()}
    assert fallbacks(checked(small(nodes, X, "y", given), {"x": TOKENS}))


# ---- positions and whole layers ------------------------------------------------------------------


def test_positions_that_do_not_begin_at_zero_stay() -> None:
    proto = model(STYLES["torch"])
    (cut,) = (n for n in proto.graph.node if n.op_type == "Slice")
    for name, value in ((cut.input[1], 3), (cut.input[2], None)):
        if value is not None:
            (start,) = (n for n in proto.graph.node if name in n.output)
            start.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.array([value])))
    # from the third on there are three fewer
    wider = next(n for n in proto.graph.node if cut.input[2] in n.output)
    place = list(proto.graph.node).index(wider)
    more = helper.make_node("Add", [wider.output[0], "three"], ["more"], "more")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3]), "three"))
    proto.graph.node.insert(place + 1, more)
    cut.input[2] = "more"
    found = checked(proto, batch((12, 12)), 1e-4)
    assert "colonnade.Positional" not in labels(found)


@named("style", STYLES)
def test_the_program_of_a_layer(style: str, golden: Callable[[str, str], None]) -> None:
    size = replace(SIZE, layers=1)
    program = engine.compile(graph_of(model(STYLES[style], size)), points=16)
    (segment,) = program.segments
    assert isinstance(segment, Sequences)
    text = []
    for stretch in segment.stretches:
        text.append("whole sequences" if stretch.whole else "by tile")
        for step in stretch.steps:  # which linear kernel is another matter
            kernel = "linear" if step.multiply_adds else step.kernel
            text.append(f"  {step.node or '-'}: {kernel}   {step.detail}".rstrip())
    golden(f"bert_{style}_layer", "\n".join(text))


@named("perm", [{}, {"perm": [2, 1, 0]}])
def test_other_transposes_than_that_of_rows_and_tokens_stay(perm: dict[str, Any]) -> None:
    nodes = [node("Transpose", "x", "t", **perm), node("MatMul", "t w", "y")]
    proto = small(nodes, {"x": ["batch", 3, 4]}, "y", {"w": floats(4, 4)})
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "batch"
    _, log = rewrite(graph_of(proto))
    assert [event.rewrite for event in log if event.fired] == ["linear"]
