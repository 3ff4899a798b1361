"""What must hold before any kernel reads a model: types agree, inference works, nothing lies.

onnx's inference leaves out what it cannot infer, and the file's own word would be taken then. A
kernel that believed a wrong word would read or write outside its panels. So where the inputs of a
standard operator are known, a node that contradicts them is refused here, by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engine.errors import ModelError
from engine.graph import ROWS, Node, Shape, Value
from engine.reader.parameters import parameters_refused
from engine.reader.shape_numbers import SMALL, Array
from engine.reader.shapes import TYPED_CONSTANTS, Skeleton, declared_type

Types = Mapping[str, Value]


def expect_sound(nodes: Sequence[Node], skeleton: Skeleton, inferred: Types, where: str) -> None:
    """Raises ModelError naming the first node that cannot mean what the model says of it."""
    told = {v.name: v for v in (*skeleton.declared.values(), *skeleton.outputs)}
    types = {**inferred, **{n: Value(n, a.dtype, a.shape) for n, a in skeleton.constants.items()}}
    for node, proto in zip(nodes, skeleton.nodes, strict=True):
        complaint = _types_refused(node, types, skeleton.opsets)
        complaint = complaint or parameters_refused(node, types, skeleton.opsets)
        complaint = complaint or _inference_refused(node, proto, types, skeleton)
        complaint = complaint or _declaration_refused(node, types, told)
        if complaint:
            raise ModelError(f"{where}: {node.name} ({node.label}): {complaint}")


def _types_refused(node: Node, types: Types, opsets: Mapping[str, int]) -> str | None:
    """Inputs that the schema gives one type letter must have one element type."""
    version = opsets.get(node.domain, 1)
    if not onnx.defs.has(node.op, version, node.domain):
        return None
    schema = onnx.defs.get_schema(node.op, version, node.domain)
    letters = {c.type_param_str for c in schema.type_constraints}
    bound: dict[str, Value] = {}
    for index, name in enumerate(node.inputs):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        value = types.get(name)
        if value is None or not formal.is_homogeneous:
            continue
        if formal.type_str not in letters:
            got = _type_name(value)
            if got not in (None, formal.type_str):
                return f"expected {formal.type_str} for {name}, got {value}; export the model again"
            continue
        first = bound.setdefault(formal.type_str, value)
        if first.dtype != value.dtype:
            return (
                f"expected one element type ({formal.type_str}) for its inputs, got {first} and "
                f"{value}; convert one of them, and export the model again"
            )
    return None


def _type_name(value: Value) -> str | None:
    """The element type as schemas spell it, `tensor(int64)`."""
    try:
        elem = helper.np_dtype_to_tensor_dtype(value.dtype)
    except (KeyError, ValueError, TypeError):
        return None
    return f"tensor({onnx.TensorProto.DataType.Name(elem).lower()})"


def _inference_refused(
    node: Node, proto: onnx.NodeProto, types: Types, skeleton: Skeleton
) -> str | None:
    """What onnx says against a standard node with known inputs whose result it did not infer."""
    if node.captures or not onnx.defs.has(
        node.op, skeleton.opsets.get(node.domain, 1), node.domain
    ):
        return None
    given = {n: types[n] for n in node.reads if n in types}
    if any(n not in given or given[n].shape is None for n in node.reads):
        return None
    if all(n in types and types[n].shape is not None for n in node.writes):
        return None
    try:
        onnx.shape_inference.infer_shapes(
            _alone(proto, node, given, skeleton), strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        if str(error).count("Inference error(s)") > 1:
            return None  # in the node's own expansion by onnx, which some versions get wrong
        reason = " ".join(str(error).rsplit("InferenceError]", 1)[-1].split())
        listed = ", ".join(map(str, given.values()))
        return f"expected inputs that fit, got {listed}: {reason}; export the model again"
    except Exception:  # C++ throws its own kinds; then nothing is shown
        return None
    return None


def _alone(proto: onnx.NodeProto, node: Node, given: Types, skeleton: Skeleton) -> onnx.ModelProto:
    """A model of this node only; open dimensions stay symbols, small constants are shown."""
    inputs, small = [], []
    for name, value in given.items():
        array: Array | None = skeleton.constants.get(name)
        if array is not None and array.size <= SMALL and array.dtype.kind in "iubf":
            small.append(numpy_helper.from_array(np.asarray(array), name))
        else:
            elem = helper.np_dtype_to_tensor_dtype(value.dtype)
            inputs.append(helper.make_tensor_value_info(name, elem, value.shape))
    outputs = [onnx.ValueInfoProto(name=n) for n in node.writes]
    graph = helper.make_graph([proto], "alone", inputs, outputs, small)
    imports = [helper.make_opsetid(d, v) for d, v in skeleton.opsets.items()]
    return helper.make_model(
        graph, ir_version=max(skeleton.ir_version, TYPED_CONSTANTS), opset_imports=imports
    )


def _declaration_refused(
    node: Node, types: Types, told: Mapping[str, onnx.ValueInfoProto]
) -> str | None:
    """The shape that the file says of a result must not contradict what follows from the inputs."""
    for name in node.writes:
        found = types.get(name)
        declared = declared_type(told[name]) if name in told else None
        if found is None or declared is None:
            continue
        if not _fits(found.shape, declared.shape):
            return (
                f"expected its result {declared} as declared, got {found}; export the model again"
            )
    return None


def _fits(found: Shape | None, declared: Shape | None) -> bool:
    """Same rank and fixed dimensions; open ones fit anything, as rows fit a batch size left over
    from the export."""
    if found is None or declared is None:
        return True
    if len(found) != len(declared):
        return False
    pairs = list(zip(found, declared, strict=True))
    if pairs and pairs[0][0] == ROWS:
        pairs = pairs[1:]
    return all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in pairs)
