"""Which dimensions count rows and tokens: shapes are inferred twice, and compared.

The two probes differ in the batch size and in the length of sequences. A dimension that is equal
in both is fixed; one that follows the batch size is `ROWS`, one that follows the length `TOKENS`.
That sees through any arithmetic on shapes that onnx can follow (Shape, Gather, Concat, Reshape
...), which symbols do not. A batch dimension that has moved from the front, or was merged with
another, is written as `k*N`, so that a shape has `ROWS` in front or nowhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engine.graph import ROWS, TOKENS, Dim, Shape, Value
from engine.reader.shape_numbers import SMALL, Array, shape_numbers

_ROWS = (10_007, 10_009)
_LENGTHS = ((61, 67), (29, 31), (13, 17), (5, 7))
"""Two batch sizes, and pairs of lengths, shorter ones for models that have few positions; primes,
so that a product with a fixed dimension still shows its factors."""

TYPED_CONSTANTS = 4
"""The first version of ONNX's format in which a constant has a type without being an input."""

_ROUNDS = 16
"""How often what inference found may give it new numbers to go on with."""

Symbols = frozenset[str]
_Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model without its weights: all that shape inference needs."""

    nodes: Sequence[onnx.NodeProto]
    inputs: Sequence[onnx.ValueInfoProto]
    outputs: Sequence[onnx.ValueInfoProto]
    declared: Mapping[str, onnx.ValueInfoProto]
    """What the file itself says of values in between; believed only where nothing is inferred."""
    constants: Mapping[str, Array]
    opsets: Mapping[str, int]
    ir_version: int


def row_symbols(inputs: Sequence[onnx.ValueInfoProto]) -> Symbols:
    """Names that the inputs' leading free dimensions have."""
    leading = (v.type.tensor_type.shape.dim[0] for v in inputs if v.type.tensor_type.shape.dim)
    return frozenset(d.dim_param for d in leading if d.dim_param)


def token_symbols(inputs: Sequence[onnx.ValueInfoProto]) -> Symbols:
    """Names that the length of sequences has: the free second dimension of ids [N, S] or of
    features [N, S, ...], where all inputs agree on one; "" is a dimension without a name."""
    found = set()
    for info in inputs:
        kind = info.type.tensor_type
        dims = kind.shape.dim
        ids = len(dims) == 2 and kind.elem_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
        if (ids or len(dims) > 2) and is_free(dims[0]) and is_free(dims[1]):
            found.add(dims[1].dim_param)
    return frozenset(found) if len(found) == 1 else frozenset()


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What a probe puts in for the free dimensions."""

    rows: int
    tokens: int
    row_names: Symbols
    token_names: Symbols
    free_ones: bool


def infer(skeleton: Skeleton, free_ones: bool = False) -> dict[str, Value]:
    """Every value whose type follows from the inputs; `free_ones` takes a leading 1 of them as
    free."""
    best: dict[str, Value] = {}
    for tokens in _LENGTHS if token_symbols(skeleton.inputs) else _LENGTHS[:1]:
        values = _infer_at(skeleton, tokens, free_ones)
        best = min(best or values, values, key=_open)
        if not _open(best):
            break
    return best


def _open(values: Mapping[str, Value]) -> int:
    """How many shapes are not known at all, as behind a table that is too short for a probe."""
    return sum(v.shape is None for v in values.values())


def _infer_at(skeleton: Skeleton, tokens: _Pair, free_ones: bool) -> dict[str, Value]:
    """What two probes with these lengths agree on."""
    symbols, lengths = row_symbols(skeleton.inputs), token_symbols(skeleton.inputs)
    first, second = (
        _probe(skeleton, _Sizes(n, s, symbols, lengths, free_ones))
        for n, s in zip(_ROWS, tokens, strict=True)
    )
    return {
        name: Value(name, dtype, _merge(name, shape, second.get(name, (0, None))[1], tokens))
        for name, (elem, shape) in first.items()
        if (dtype := dtype_of(elem)) is not None
    }


def with_declared(
    skeleton: Skeleton, inferred: Mapping[str, Value], free_ones: bool = False
) -> dict[str, Value]:
    """What was inferred, and the file's own word where nothing was."""
    symbols, values = row_symbols(skeleton.inputs), dict(inferred)
    for info in (*skeleton.declared.values(), *skeleton.outputs):
        dtype = dtype_of(info.type.tensor_type.elem_type)
        known = values.get(info.name)
        if dtype is None or (known is not None and known.shape is not None):
            continue
        told = None if free_ones else _declared(info, symbols)
        values[info.name] = Value(info.name, known.dtype if known else dtype, told)
    return values


def declared_type(info: onnx.ValueInfoProto) -> Value | None:
    """What the file says of a value; its symbols fit anything."""
    dtype = dtype_of(info.type.tensor_type.elem_type)
    return Value(info.name, dtype, _declared(info, frozenset())) if dtype is not None else None


def dtype_of(elem: int) -> np.dtype[Any] | None:
    """The numpy type of an ONNX element type, None for the undefined one."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(elem))
    except (KeyError, ValueError, TypeError):
        return None


def is_free(dim: onnx.TensorShapeProto.Dimension) -> bool:
    """Whether a leading dimension is left open: a symbol, nothing, 0 or -1."""
    return dim.dim_value <= 0


_Probe = dict[str, tuple[int, list[Dim] | None]]


def _probe(skeleton: Skeleton, sizes: _Sizes) -> _Probe:
    """Element type and shape of every value for one batch size and length.

    onnx follows some arithmetic on shapes by itself. Where a result stays open, the numbers that
    can be computed now are, and inference has another go with them as constants."""
    inputs = [_sized(v, sizes) for v in skeleton.inputs]
    told = [
        _sized(skeleton.declared[o], sizes, every=True)
        for n in skeleton.nodes
        if not _known(n, skeleton.opsets)
        for o in n.output
        if o in skeleton.declared
    ]
    found = _infer_once(skeleton, inputs, told, skeleton.constants)
    constants = dict(skeleton.constants)
    for _ in range(_ROUNDS):
        if all(_is_fixed(shape) for _, shape in found.values()):
            break
        shapes = {n: shape for n, (_, shape) in found.items() if _is_fixed(shape)}
        more = shape_numbers(skeleton.nodes, shapes, constants, skeleton.opsets)
        if not more:
            break
        constants |= more
        found |= {
            n: (helper.np_dtype_to_tensor_dtype(a.dtype), [*a.shape]) for n, a in more.items()
        }
        found |= _infer_once(skeleton, inputs, told, constants)
    return found


def _is_fixed(shape: list[Dim] | None) -> bool:
    return shape is not None and all(isinstance(d, int) for d in shape)


def _infer_once(
    skeleton: Skeleton,
    inputs: Sequence[onnx.ValueInfoProto],
    told: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, Array],
) -> _Probe:
    """One run of onnx's inference; nodes whose results are constants by now are left out."""
    inputs, small = list(inputs), []
    for name, array in constants.items():
        if array.size <= SMALL and array.dtype.kind in "iubf":
            small.append(numpy_helper.from_array(np.asarray(array), name))
        else:
            elem = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, elem, array.shape))
    nodes = [_stand_in(n) for n in skeleton.nodes if not any(o in constants for o in n.output)]
    outputs = [onnx.ValueInfoProto(name=v.name) for v in skeleton.outputs]
    graph = helper.make_graph(nodes, "skeleton", inputs, outputs, small, value_info=told)
    imports = [helper.make_opsetid(d, v) for d, v in skeleton.opsets.items()]
    version = max(skeleton.ir_version, TYPED_CONSTANTS)
    model = helper.make_model(graph, ir_version=version, opset_imports=imports)
    # C++ throws its own kinds; without inference the file's own word is taken. No check_type and
    # no strict_mode: what cannot be inferred is left out, not refused.
    with contextlib.suppress(Exception):
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    infos = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {
        v.name: (v.type.tensor_type.elem_type, _dims(v))
        for v in infos
        if v.type.HasField("tensor_type")
    }


def _stand_in(node: onnx.NodeProto) -> onnx.NodeProto:
    """For operators of ai.onnx.ml that onnx infers nothing for: one with a result of that type."""
    if node.domain == "ai.onnx.ml" and node.op_type in ("Imputer", "Normalizer", "Scaler"):
        if node.op_type == "Imputer":
            return helper.make_node("Identity", node.input[:1], node.output)
        return helper.make_node("Cast", node.input[:1], node.output, to=onnx.TensorProto.FLOAT)
    return node


def _known(node: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    domain = "" if node.domain == "ai.onnx" else node.domain
    return bool(onnx.defs.has(node.op_type, opsets.get(domain, 1), domain))


def _sized(info: onnx.ValueInfoProto, sizes: _Sizes, every: bool = False) -> onnx.ValueInfoProto:
    """A copy with the free dimensions filled in; `every` fills in only those that have a name
    and no ones: values in between are no inputs."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(info)
    dims = copy.type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        leading = axis == 0 and not every
        one = sizes.free_ones and dim.dim_value == 1
        second = axis == 1 and not every and len(dims) > 1
        if dim.dim_param in sizes.row_names or (leading and (is_free(dim) or one)):
            dim.dim_value = sizes.rows
        elif is_free(dim) and dim.dim_param in sizes.token_names and (dim.dim_param or second):
            dim.dim_value = sizes.tokens
        elif dim.dim_value < 0 or not dim.WhichOneof("value"):
            dim.dim_param = f"{info.name}.{axis}"
    return copy


def _dims(info: onnx.ValueInfoProto) -> list[Dim] | None:
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim]


def _merge(
    name: str, first: list[Dim] | None, second: list[Dim] | None, tokens: _Pair
) -> Shape | None:
    if first is None or second is None or len(first) != len(second):
        return None
    return tuple(
        _merge_dim(name, axis, a, b, tokens)
        for axis, (a, b) in enumerate(zip(first, second, strict=True))
    )


def _merge_dim(name: str, axis: int, first: Dim, second: Dim, tokens: _Pair) -> Dim:
    if isinstance(first, int) and isinstance(second, int):
        if first == second:
            return first
        if (first, second) == _ROWS and axis == 0:
            return ROWS
        if (first, second) == tokens:
            return TOKENS
        return _product(first, second, tokens) or f"{name}.{axis}"
    if first == second and isinstance(first, str) and first:
        return f"{first}_" if first in (ROWS, TOKENS) else first
    # nothing is known; a name of its own, so that two unknown dimensions never look equal
    return f"{name}.{axis}"


def _product(first: int, second: int, tokens: _Pair) -> str | None:
    """`k*N`, `k*S` or `k*N*S`, where both probes agree on k."""
    for letters, (small, large) in (
        (f"{ROWS}*{TOKENS}", (_ROWS[0] * tokens[0], _ROWS[1] * tokens[1])),
        (ROWS, _ROWS),
        (TOKENS, tokens),
    ):
        if first and first % small == 0 and first // small * large == second:
            return f"{first // small}*{letters}"
    return None


def _declared(info: onnx.ValueInfoProto, symbols: Symbols) -> Shape | None:
    dims = _dims(info)
    if dims is None:
        return None
    shape: list[Dim] = []
    for axis, dim in enumerate(dims):
        if dim in symbols:
            shape.append(ROWS if axis == 0 else f"1*{ROWS}")
        else:
            fixed = isinstance(dim, int) and dim >= 0
            shape.append(dim if fixed else _merge_dim(info.name, axis, dim, dim, _LENGTHS[0]))
    return tuple(shape)
