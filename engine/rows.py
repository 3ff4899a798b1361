"""Whether a node keeps the rows of a batch apart: `mixes_rows(node, graph)` gives a reason if not.

A batch may be cut anywhere only if every row's result depends on that row alone. The tables name
the operators for which that can be shown from shapes and attributes; all others are refused, so a
new operator is safe until somebody adds its row here.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.conditions import depends_on
from engine.graph import NATIVE, Graph, Node, Value
from engine.ops.transformer import TRANSFORMER
from engine.ops.unary import UNARY
from engine.row_rules import (
    attention,
    axis_rule,
    batch_normalization,
    broadcast,
    dropout,
    einsum,
    first_input_only,
    gather,
    gather_nd,
    gemm,
    matmul,
    max_pool,
    mean_variance,
    pad,
    quantize,
    recurrent,
    reduction,
    reverse_sequence,
    rotary,
    row_by_row,
    rows_by_features,
    rows_in,
    slicing,
    squeeze,
    transpose,
    trilu,
    weighted,
)

Rule = Callable[[Node, Graph], str | None]


def _words(text: str) -> list[str]:
    return text.split()


# fmt: off
_ON_SHAPES = {
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Gather", "Identity",
    "Mul", "ReduceProd", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",
}
# fmt: on
_TARGETS = {"Reshape": 1, "Expand": 1, "Tile": 1, "ConstantOfShape": 0}


def number_of_rows(node: Node, graph: Graph) -> str | None:
    """The number of rows may shape other values, but no number may be computed from it."""
    waiting, seen = [node.outputs[0]], set[str]()
    while waiting:
        name = waiting.pop()
        if graph.is_output(name):
            return "the number of rows in a batch is a result"
        for reader in graph.consumers(name):
            if _is_target(reader, name) or reader.name in seen or _takes_lengths(reader, graph):
                continue
            only_shapes = reader.label in _ON_SHAPES and not rows_in(reader, graph)
            if not only_shapes or name in reader.captures:
                return f"the number of rows in a batch goes into {reader.name} ({reader.label})"
            seen.add(reader.name)
            waiting += reader.writes
    return None


def _takes_lengths(reader: Node, graph: Graph) -> bool:
    """Whether the node takes other dimensions of a Shape than the first, which counts the rows."""
    shape = graph.producer(reader.inputs[0]) if reader.label in ("Gather", "Slice") else None
    value = graph.value(shape.inputs[0]) if shape is not None and shape.label == "Shape" else None
    if shape is None or value is None or value.shape is None:
        return False
    if set(shape.attributes) & {"start", "end"}:
        return False
    rank = len(value.shape)
    # indices, or where the slice of a shape begins
    first = graph.initializers.get(reader.inputs[1]) if len(reader.inputs) > 1 else None
    steps = graph.initializers.get(reader.inputs[4]) if len(reader.inputs) > 4 else None
    if first is None or not first.size or (steps is not None and bool((steps != 1).any())):
        return False
    return bool((first % rank != 0).all() and (abs(first) < rank).all())


def _is_target(reader: Node, name: str) -> bool:
    """Whether the node takes the value as the shape of its result."""
    place = _TARGETS.get(reader.op) if not reader.domain else None
    return place is not None and [i for i, n in enumerate(reader.inputs) if n == name] == [place]


ELEMENTS = _words("""
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr
    BitwiseXor Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp
    Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu
    Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round
    Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh
    ThresholdedRelu Where Xor
""")
"""Each element of the result comes from the elements at its place."""

_FIRST_INPUT = _words("""
    AveragePool Col2Im Conv ConvInteger ConvTranspose DepthToSpace Flatten GlobalAveragePool
    GlobalLpPool GlobalMaxPool GroupNormalization InstanceNormalization LRN LpPool
    QLinearConv Reshape Resize SpaceToDepth Tile Unsqueeze Upsample
""")
"""The first dimension of the first input is a batch; the other inputs are parameters.

Where such an operator could move or resize the first dimension, the shape of its result tells."""

_AXIS: dict[str, int | None] = {
    "ArgMax": 0,
    "ArgMin": 0,
    "Concat": None,
    "GatherElements": 0,
    "Hardmax": -1,
    "LayerNormalization": -1,
    "LogSoftmax": -1,
    "LpNormalization": -1,
    "OneHot": -1,
    "RMSNormalization": -1,
    "ScatterElements": 0,
    "Softmax": -1,
    "Split": 0,
    "TopK": -1,
}
"""Operators along one axis, and its default; None where it must be given."""

_ML_FEATURES = _words("""
    ArrayFeatureExtractor FeatureVectorizer LinearClassifier LinearRegressor Normalizer
    SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier
    TreeEnsembleRegressor
""")
_ML_ELEMENTS = ["Binarizer", "CategoryMapper", "Imputer", "LabelEncoder", "OneHotEncoder"]

_REDUCTIONS = _words("""
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare
""")

_RULES: dict[tuple[str, str], Rule] = {
    **{("", op): broadcast for op in (*ELEMENTS, "CastLike", "Expand")},
    **{("", op): first_input_only for op in _FIRST_INPUT},
    **{("", op): axis_rule(default) for op, default in _AXIS.items()},
    **{("", op): reduction for op in _REDUCTIONS},
    **{("ai.onnx.ml", op): rows_by_features for op in _ML_FEATURES},
    **{("ai.onnx.ml", op): first_input_only for op in _ML_ELEMENTS},
    **{(NATIVE, op): broadcast for op in UNARY},
    (NATIVE, "Channels"): first_input_only,
    (NATIVE, "Conv"): weighted,
    (NATIVE, "DepthToSpace"): first_input_only,
    **{(NATIVE, op): row_by_row for op in TRANSFORMER},
    (NATIVE, "Linear"): weighted,
    ("", "Attention"): attention,
    ("", "BatchNormalization"): batch_normalization,
    ("", "CumSum"): axis_rule(None, by_input=1),
    ("", "DequantizeLinear"): quantize,
    ("", "Dropout"): dropout,
    ("", "Einsum"): einsum,
    ("", "GRU"): recurrent,
    ("", "Gather"): gather,
    ("", "GatherND"): gather_nd,
    ("", "Gemm"): gemm,
    ("", "LSTM"): recurrent,
    ("", "MatMul"): matmul,
    ("", "MatMulInteger"): matmul,
    ("", "MaxPool"): max_pool,
    ("", "MeanVarianceNormalization"): mean_variance,
    ("", "Pad"): pad,
    ("", "QuantizeLinear"): quantize,
    ("", "RNN"): recurrent,
    ("", "ReverseSequence"): reverse_sequence,
    ("", "RotaryEmbedding"): rotary,
    ("", "Shape"): number_of_rows,
    ("", "Slice"): slicing,
    ("", "Squeeze"): squeeze,
    ("", "Transpose"): transpose,
    ("", "Trilu"): trilu,
}


_OF_THE_BATCH = {"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"}
_FIXED_SCALES = (
    "its scale is taken from all values of a batch, so that a row's result would depend on the "
    "rows beside it; quantise the float model with fixed scales (quantize_static of "
    "onnxruntime.quantization in place of quantize_dynamic), or take the float model as it is"
)


def mixes_rows(node: Node, graph: Graph) -> str | None:
    """Why the node's result for a row may depend on other rows, or None where it cannot."""
    reads = [(n, graph.value(n)) for n in node.reads]
    unknown = [n for n, v in reads if v is None or v.shape is None]
    if node.label == "If" and (unknown or any(v is not None and v.has_rows for _, v in reads)):
        return f"If is not known to keep the rows of a batch apart: {depends_on(node, graph)}"
    if unknown:
        return f"the shape of {unknown[0]} is not known"
    if not any(v is not None and v.has_rows for _, v in reads):
        return None
    if node.op in _OF_THE_BATCH:
        return _FIXED_SCALES
    rule = _RULES.get((node.domain, node.op))
    if rule is None or node.captures:
        return f"{node.label} is not known to keep the rows of a batch apart"
    reason = rule(node, graph)
    if reason or rule is number_of_rows:
        return reason
    for name in node.writes:
        if not _keeps_rows(graph.value(name)) and (graph.is_output(name) or graph.consumers(name)):
            return f"its result {graph.value(name) or name} does not have the rows in front"
    return None


def _keeps_rows(value: Value | None) -> bool:
    return value is not None and value.has_rows
