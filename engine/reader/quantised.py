"""Operators on numbers of 8 bits, spelled out as the same on floats between DequantizeLinear and
QuantizeLinear: what `quantize_static` of onnxruntime writes as QOperator becomes what it writes as
QDQ.

    y8 = QLinearX(a8, b8)    y8 = QuantizeLinear(X(DequantizeLinear(a8), DequantizeLinear(b8)))

Weights and their zero points are constants, and so become floats when constants are folded; one
that equals its zero point becomes a zero. onnxruntime adds integers up and rounds once: a result
beside the middle between two steps may come out one step from it.
"""

from __future__ import annotations

import numpy as np

from engine.reader.spelling import MICROSOFT, Call, Rule, Spelling

_SINCE = 10
"""The operator set that has DequantizeLinear."""
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")


def _floats(call: Call, s: Spelling, first: int, axis: int = -1) -> str:
    """(x - zero) * scale in float32, of three inputs from the first on, with one scale or one for
    each index of the axis; "" where these are not constant."""
    x, scale, zero = (call.input(first + i) for i in range(3))
    steps, zeros = s.known.get(scale), s.known.get(zero)
    if steps is None or (zero and zeros is None) or s.opset < _SINCE:
        return ""
    if steps.size == 1:
        given = () if zeros is None else (s.constant(zeros.reshape(())),)
        return s.op("DequantizeLinear", x, s.constant(steps.reshape(())), *given)
    array = s.known.get(x)
    if array is None:
        return ""
    wide = [1] * array.ndim
    wide[axis] = steps.size
    y = s.op("Cast", x, to=1)
    if zeros is not None:
        shape = wide if zeros.size > 1 else ()
        y = s.op("Sub", y, s.constant(zeros.astype(np.float32).reshape(shape)))
    return s.op("Mul", y, s.constant(steps.reshape(wide)))


def _steps(call: Call, s: Spelling, y: str, first: int) -> bool:
    """The node's result: y in steps of the scale that is the first of two inputs."""
    scale, zero = (s.known.get(call.input(first + i)) for i in range(2))
    if scale is None or scale.size != 1 or zero is None or s.opset < _SINCE:
        return False
    parameters = (s.constant(a.reshape(())) for a in (scale, zero))
    s.op("QuantizeLinear", y, *parameters, output=call.output(0))
    return True


def _with_bias(call: Call, s: Spelling, place: int, x: str, w: str) -> tuple[str, ...]:
    """What a product takes. Biases are int32, in steps of both scales; () where something is not
    constant."""
    if not (x and w):
        return ()
    if not call.input(place):
        return x, w
    bias, *scales = (s.known.get(call.input(i)) for i in (place, 1, 4))
    if bias is None or any(scale is None for scale in scales):
        return ()
    one, other = (np.asarray(scale, np.float32).reshape(-1) for scale in scales)
    return x, w, s.constant(bias.astype(np.float32).reshape(-1) * (one * other))


def conv(call: Call, s: Spelling) -> bool:
    inputs = _with_bias(call, s, 8, _floats(call, s, 0), _floats(call, s, 3, axis=0))
    return bool(inputs) and _steps(call, s, s.op("Conv", *inputs, **call.given(_CONV)), 6)


def matmul(call: Call, s: Spelling) -> bool:
    a, b = _floats(call, s, 0, axis=-2), _floats(call, s, 3)
    return bool(a and b) and _steps(call, s, s.op("MatMul", a, b), 6)


def gemm(call: Call, s: Spelling) -> bool:
    """A B + C; without a scale of its own the result is float32."""
    b = _floats(call, s, 3, axis=0 if call.integer("transB") else 1)
    inputs = _with_bias(call, s, 6, _floats(call, s, 0), b)
    if not inputs or call.number("alpha", 1.0) != 1:
        return False
    floats = not call.input(7)
    output = call.output(0) if floats else ""
    y = s.op("Gemm", *inputs, output=output, **call.given(("transA", "transB")))
    return floats or _steps(call, s, y, 7)


def binary(op: str) -> Rule:
    def rule(call: Call, s: Spelling) -> bool:
        a, b = _floats(call, s, 0), _floats(call, s, 3)
        return bool(a and b) and _steps(call, s, s.op(op, a, b), 6)

    return rule


def unary(op: str, *names: str) -> Rule:
    """`names` are those of the attributes."""

    def rule(call: Call, s: Spelling) -> bool:
        x = _floats(call, s, 0)
        if not x or call.integer("channels_last"):
            return False
        return _steps(call, s, s.op(op, x, **call.given(names)), 3)

    return rule


def softmax(call: Call, s: Spelling) -> bool:
    """In the meaning of the operator set that its attribute names: over an axis from 13 on."""
    alike = (call.integer("opset", s.opset) < 13) == (s.opset < 13)
    return alike and unary("Softmax", "axis")(call, s)


def concat(call: Call, s: Spelling) -> bool:
    inputs = [_floats(call, s, first) for first in range(2, call.inputs, 3)]
    return all(inputs) and _steps(call, s, s.op("Concat", *inputs, **call.given(("axis",))), 0)


def where(call: Call, s: Spelling) -> bool:
    a, b = _floats(call, s, 1), _floats(call, s, 4)
    return bool(a and b) and _steps(call, s, s.op("Where", call.input(0), a, b), 7)


def quantize(call: Call, s: Spelling) -> bool:
    return _steps(call, s, call.input(0), 1)


def dequantize(call: Call, s: Spelling) -> bool:
    y = _floats(call, s, 0)
    if y:
        s.op("Identity", y, output=call.output(0))
    return bool(y)


QUANTISED: dict[tuple[str, str], tuple[Rule, int]] = {
    ("", "QLinearConv"): (conv, 8),
    ("", "QLinearMatMul"): (matmul, 8),
    (MICROSOFT, "DequantizeLinear"): (dequantize, 2),
    (MICROSOFT, "QGemm"): (gemm, 6),
    (MICROSOFT, "QLinearAdd"): (binary("Add"), 7),
    (MICROSOFT, "QLinearAveragePool"): (unary("AveragePool", *_POOL), 4),
    (MICROSOFT, "QLinearConcat"): (concat, 4),
    (MICROSOFT, "QLinearGlobalAveragePool"): (unary("GlobalAveragePool"), 4),
    (MICROSOFT, "QLinearLeakyRelu"): (unary("LeakyRelu", "alpha"), 4),
    (MICROSOFT, "QLinearMul"): (binary("Mul"), 7),
    (MICROSOFT, "QLinearSigmoid"): (unary("Sigmoid"), 4),
    (MICROSOFT, "QLinearSoftmax"): (softmax, 4),
    (MICROSOFT, "QLinearWhere"): (where, 8),
    (MICROSOFT, "QuantizeLinear"): (quantize, 2),
}
"""By domain and operator, as in microsoft.py."""
