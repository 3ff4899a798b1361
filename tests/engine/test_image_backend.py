"""onnx's own cases of the operators of convolutional networks and of classifiers: by kernels,
unless a table says why.

A case's images get a free number of rows, and its other inputs become constants. The tables below
name the cases that no kernel takes: what is not in them must run by kernels alone.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_models import onnxruntime_session

import engine
from engine.errors import UnsupportedError
from engine.reader import graph_of
from engine.segments import Fallback

Array = np.ndarray[Any, Any]
ALL = 99
OPERATORS = {
    "ArgMax": 1,
    "ArgMin": 1,
    "AveragePool": 1,
    "BatchNormalization": 1,
    "Clip": 1,
    "Concat": ALL,
    "Conv": 1,
    "ConvTranspose": 1,
    "DepthToSpace": 1,
    "Flatten": 1,
    "GlobalAveragePool": 1,
    "GlobalMaxPool": 1,
    "HardSigmoid": 1,
    "HardSwish": 1,
    "LeakyRelu": 1,
    "LRN": 1,
    "MaxPool": 1,
    "Pad": 1,
    "PRelu": 1,
    "ReduceMax": 1,
    "ReduceMean": 1,
    "Relu": 1,
    "Resize": 1,
    "Slice": 1,
    "Split": 1,
    "Swish": 1,
    "TopK": 1,
    "Upsample": 1,
}
"""How many inputs are data; all others become constants."""
FILES = {"BatchNormalization": "batch_normalization"}
"""Of onnx's cases, where the name is not the operator's."""

FALLBACKS = {
    # three dimensions of space
    "averagepool_3d_*": "no kernel for AveragePool",
    "maxpool_3d_*": "no kernel for MaxPool",
    "convtranspose_3d": "no kernel for ConvTranspose",
    # not float32
    "maxpool_2d_uint8": "kernels compute in float32",
    "clip_default_int8_*": "kernels compute in float32",
    "reduce_max_bool_inputs": "kernels compute in float32",
    "top_k_uint64": "kernels compute in float32",
    "top_k_same_values_2d": "kernels compute in float32",
    # sizes that are not what was asked for, and pixels that are not in the picture
    "resize_*_antialias": "antialias",
    "resize_*_not_larger": "keeps the aspect ratio",
    "resize_*_not_smaller": "keeps the aspect ratio",
    "resize_tf_crop_and_resize_axes_*": "coordinates tf_crop_and_resize",
    "slice_start_out_of_bounds": "no image of known size",  # its result is empty
}
"""Cases that run through the reference, at least in part, and why."""
REFUSED = {
    # along the rows of the batch
    "arg*_default_axis_*": "axis 0 is the rows",
    "top_k_same_values*": "axis 0 is the rows",
    "concat_*_axis_0": "axis 0 is the rows",
    "concat_*_axis_negative_*": "axis 0 is the rows",
    "flatten_*": "does not have the rows in front",
    "reduce_*_default_axes_*": "it reduces all dimensions",
    "slice*": "it takes some of the rows",
    "split_*": "axis 0 is the rows",
    # numbers that count or look through the batch
    "batchnorm_*_training_mode": "its statistics from the batch",
    "maxpool_with_argmax_*": "indices it gives count through the whole batch",
    "prelu_example": "slope has 3 in the place of the rows",
    "resize_tf_crop_and_resize*": "does not have the rows in front",
}
"""Cases that mix the rows of a batch, and so are no job's."""
OTHERWISE = {
    # onnx takes the size before it is rounded down for the distance of the corners, onnxruntime
    # the size of the result, and so do we
    "resize_downsample_scales_*_align_corners",
}
"""Cases whose results are onnxruntime's and not onnx's."""
AS_FLOATS = {"edge_pad", "reflect_pad", "wrap_pad"}
"""Cases of whole numbers, which are tried as float32: they only move."""
SLOW = 10_000
"""Elements from which a case without a kernel is not run: onnx's evaluator takes half a minute."""
EMPTY = {"reduce_max_empty_set*"}
"""Cases without any number in a row."""


@dataclass(frozen=True)
class Case:
    """One of onnx's, with a free number of rows."""

    name: str
    op: str
    proto: onnx.ModelProto
    feeds: dict[str, Array]
    expected: tuple[Array, ...]


@functools.cache
def cases() -> tuple[Case, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op in OPERATORS:
            importlib.import_module(f"onnx.backend.test.case.node.{FILES.get(op, op.lower())}")
    node_cases = importlib.import_module("onnx.backend.test.case.node")
    found = []
    for case in node_cases._NodeTestCases:
        op = case.model.graph.node[0].op_type
        if op in OPERATORS and not case.name.endswith("_expanded"):
            names = [v.name for v in case.model.graph.input]
            inputs, outputs = case.data_sets[0]
            feeds = dict(zip(names, inputs, strict=True))
            found.append(_case(case.name.removeprefix("test_"), case.model, feeds, outputs))
    return tuple(c for c in found if not any(fnmatch(c.name, p) for p in EMPTY))


def _case(name: str, proto: onnx.ModelProto, feeds: dict[str, Array], outputs: list[Array]) -> Case:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    (node,) = copy.graph.node
    data = [n for n in node.input if n in feeds][: OPERATORS[node.op_type]]
    _sizes_without_rows(node, feeds)
    for info in list(copy.graph.input):
        if info.name in data:
            info.type.tensor_type.shape.dim[0].dim_param = "N"
        else:
            copy.graph.initializer.append(numpy_helper.from_array(feeds[info.name], info.name))
            copy.graph.input.remove(info)
    for info in copy.graph.output:
        info.type.tensor_type.shape.dim[0].dim_param = "N"
    if name in AS_FLOATS:
        for info in (*copy.graph.input, *copy.graph.output):
            info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        feeds = {n: a.astype(np.float32) for n, a in feeds.items()}
    return Case(name, node.op_type, copy, {n: feeds[n] for n in data}, tuple(outputs))


def _sizes_without_rows(node: onnx.NodeProto, feeds: dict[str, Array]) -> None:
    """Sizes that count the rows of the batch, too, are told for the images alone."""
    named = any(a.name == "axes" for a in node.attribute)
    whole = node.op_type == "Resize" and len(node.input) == 4 and not named and not node.input[1]
    if whole:
        node.attribute.append(onnx.helper.make_attribute("axes", [2, 3]))
        feeds[node.input[3]] = feeds[node.input[3]][2:]


def row_of(name: str, table: dict[str, str]) -> str | None:
    """What the table says of a case, by its first pattern that fits."""
    return next((reason for pattern, reason in table.items() if fnmatch(name, pattern)), None)


@functools.cache
def program_or_refusal(name: str) -> engine.Program | str:
    (case,) = (c for c in cases() if c.name == name)
    try:
        return engine.compile(graph_of(case.proto))
    except UnsupportedError as error:
        return str(error)


@pytest.mark.parametrize("op", OPERATORS)
def test_cases_run_by_kernels_unless_the_tables_say_why(op: str) -> None:
    mine = [case for case in cases() if case.op == op]
    assert mine
    for case in mine:
        program = program_or_refusal(case.name)
        if isinstance(program, str):
            assert (row_of(case.name, REFUSED) or "listed") in program, case.name
            continue
        fallbacks = [s for s in program.segments if isinstance(s, Fallback)]
        reasons = "; ".join(reason for s in fallbacks for reason in s.reasons)
        listed = row_of(case.name, FALLBACKS) if fallbacks else None
        assert not fallbacks or (listed is not None and listed in reasons), (case.name, reasons)
        if not fallbacks or all(a.size < SLOW for a in case.feeds.values()):
            _check(case, program)


def _check(case: Case, program: engine.Program) -> None:
    with engine.Session(program, cpus=[0]) as session:
        found = session.run(case.feeds)
    wanted = case.expected
    if any(fnmatch(case.name, pattern) for pattern in OTHERWISE):
        wanted = onnxruntime_session(case.proto).run(None, case.feeds)
    for value, want in zip(program.outputs, wanted, strict=True):
        np.testing.assert_allclose(
            np.float64(found[value.name]), np.float64(want), 1e-3, 1e-5, err_msg=case.name
        )


def test_every_row_of_the_tables_is_needed() -> None:
    """A case that gained a kernel is to be taken off the list."""
    used = set()
    for case in cases():
        program = program_or_refusal(case.name)
        refused = isinstance(program, str)
        table = REFUSED if refused else FALLBACKS
        native = not refused and not any(isinstance(s, Fallback) for s in program.segments)
        pattern = next((p for p in table if fnmatch(case.name, p)), None)
        if pattern and not native:
            used.add(pattern)
    assert used == {*FALLBACKS, *REFUSED}
