"""Arithmetic on shapes, done with numbers: for what onnx's own inference does not follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from engine.errors import EngineError
from engine.graph import Dim
from engine.reader.nodes import domain_of, node_of
from engine.reference import evaluate

Array = np.ndarray[Any, np.dtype[Any]]

SMALL = 1024
"""Constants up to this many elements may be shapes, and are shown to shape inference."""

# What exporters compute shapes with; none gives more elements than it is given.
# fmt: off
_OPS = frozenset({
    "Add", "Cast", "Ceil", "Concat", "Div", "Equal", "Floor", "Gather", "Greater", "Identity",
    "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Pow", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceSum", "Reshape", "Slice", "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where",
})
# fmt: on


def shape_numbers(
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Sequence[Dim] | None],
    constants: Mapping[str, Array],
    opsets: Mapping[str, int],
) -> dict[str, Array]:
    """New constants: shapes of values that are known, and what is computed from them."""
    found: dict[str, Array] = {}
    for proto in nodes:
        if domain_of(proto.domain) or len(proto.output) != 1 or proto.output[0] in constants:
            continue
        if proto.op_type == "Shape" and shapes.get(proto.input[0]) is not None:
            inputs = {proto.input[0]: np.broadcast_to(np.int8(0), _ints(shapes[proto.input[0]]))}
        elif proto.op_type in _OPS:
            known = {n: found.get(n, constants.get(n)) for n in proto.input if n}
            inputs = {n: a for n, a in known.items() if a is not None and a.size <= SMALL}
            if len(inputs) < len(known):
                continue
        else:
            continue
        try:
            found |= evaluate(node_of(proto, proto.name, None), inputs, opsets)
        except (EngineError, ValueError):  # then it stays open, as inference left it
            continue
    return found


def _ints(shape: Sequence[Dim] | None) -> tuple[int, ...]:
    return tuple(d for d in shape or () if isinstance(d, int))
