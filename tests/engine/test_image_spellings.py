"""Every operator of convolutional networks in every way to write it, channels first and last.

SPELLINGS is the table: each row adds an operator to a network, behind one convolution and before
another, in the layout that it is asked for. All must run by kernels, and as in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_nets import Net, check

Draw = Callable[[st.SearchStrategy[Any]], Any]
TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


class Spelled(Net):
    """A network that holds its images channels first, or last as TensorFlow's exports do."""

    def __init__(self, size: tuple[int, int, int], last: bool, opset: int) -> None:
        self.last, self.size = last, size
        super().__init__(*(self.laid((0, *size))[1:]), zeros=0.3, opset=opset)

    def laid(self, numbers: Sequence[Any]) -> list[Any]:
        """Four numbers for N, C, H and W, in the order of the layout."""
        return [numbers[axis] for axis in TO_LAST] if self.last else list(numbers)

    def axes(self, *axes: int) -> list[int]:
        """Of N, C, H and W by number, as the layout counts them."""
        return [self.laid((0, 1, 2, 3)).index(axis) for axis in axes]

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def floats(self, *numbers: float) -> str:
        return self.constant(np.array(numbers, np.float32))

    def per_channel(self) -> str:
        """A constant that is broadcast over an image."""
        values = self.rng.standard_normal((1, self.size[0], 1, 1)).astype(np.float32)
        return self.constant(values.transpose(TO_LAST) if self.last else values[0])

    def first(self, op: str, x: str, *others: str, **attributes: Any) -> str:
        """An operator that takes channels first only."""
        if not self.last:
            return self.add(op, x, *others, **attributes)
        inside = self.add("Transpose", x, perm=TO_FIRST)
        return self.add("Transpose", self.add(op, inside, *others, **attributes), perm=TO_LAST)

    def convolved(self, x: str, outputs: int, inputs: int, **attributes: Any) -> str:
        size = attributes.pop("size", 1)
        w = self.weights(outputs, inputs, size, size)
        return self.first("Conv", x, w, self.weights(outputs), **attributes)


def unary(op: str, **attributes: Any) -> Spelling:
    return lambda net, x, draw: net.add(op, x, **attributes)


def _conv(net: Spelled, x: str, draw: Draw) -> str:
    group = draw(st.sampled_from([g for g in (1, 2, 3, net.size[0]) if net.size[0] % g == 0]))
    size, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding: dict[str, Any] = {"auto_pad": "SAME_UPPER"}
    if dilation > 1:  # onnxruntime takes no other with SAME
        pads = [draw(st.integers(0, 2)) + (size - 1) * dilation // 2 for _ in range(4)]
        padding = {"pads": pads, "dilations": [dilation, dilation]}
    w = net.weights(net.size[0] * 2, net.size[0] // group, size, size)
    strides = [draw(st.integers(1, size)) for _ in range(2)]
    y = net.first("Conv", x, w, group=group, strides=strides, **padding)
    return net.convolved(y, net.size[0], net.size[0] * 2)


def _conv_transpose(net: Spelled, x: str, draw: Draw) -> str:
    stride, size = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    w = net.weights(net.size[0], net.size[0], size, size)
    return net.first("ConvTranspose", x, w, strides=[stride, stride], dilations=[1, 2])


def _batch_norm(net: Spelled, x: str, draw: Draw) -> str:
    scale, shift, mean = (net.weights(net.size[0]) for _ in range(3))
    variance = net.constant(np.abs(net.rng.standard_normal(net.size[0])).astype(np.float32) + 0.1)
    return net.first("BatchNormalization", x, scale, shift, mean, variance)


def _pool(op: str) -> Spelling:
    def add(net: Spelled, x: str, draw: Draw) -> str:
        kernel = [draw(st.integers(1, min(3, n))) for n in net.size[1:]]
        strides = [draw(st.integers(1, k)) for k in kernel]  # onnxruntime pads no less than 0
        auto = draw(st.sampled_from(["SAME_UPPER", "VALID"]))
        return net.first(op, x, kernel_shape=kernel, strides=strides, auto_pad=auto)

    return add


def _reduced(op: str, keepdims: int) -> Spelling:
    def add(net: Spelled, x: str, draw: Draw) -> str:
        axes = sorted(net.axes(2, 3))
        y = net.add(op, x, *[net.ints(*axes)] * (net.opset > 17), keepdims=keepdims,
                    **({} if net.opset > 17 else {"axes": axes}))  # fmt: skip
        if keepdims:
            return y
        return net.add("Reshape", y, net.ints(0, *net.laid((0, net.size[0], 1, 1))[1:]))

    return add


def _clip(net: Spelled, x: str, draw: Draw) -> str:
    return net.add("Clip", x, net.constant(np.float32(0)), net.constant(np.float32(6)))


def _silu(net: Spelled, x: str, draw: Draw) -> str:
    return net.add("Mul", net.add("Sigmoid", x), x)


def _hard_swish(net: Spelled, x: str, draw: Draw) -> str:
    three = net.add("Add", x, net.constant(np.float32(3)))
    return net.add("Div", net.add("Mul", x, _clip(net, three, draw)), net.constant(np.float32(6)))


def _p_relu(net: Spelled, x: str, draw: Draw) -> str:
    return net.add("PRelu", x, net.per_channel())


def _with_constant(op: str) -> Spelling:
    def add(net: Spelled, x: str, draw: Draw) -> str:
        pair = [net.add("Exp", x), net.per_channel()]
        return net.add(op, *(pair if op == "Div" or draw(st.booleans()) else pair[::-1]))

    return add


def _residual(net: Spelled, x: str, draw: Draw) -> str:
    return net.add("Add", net.convolved(x, net.size[0], net.size[0]), net.add("Relu", x))


def _gate(net: Spelled, x: str, draw: Draw) -> str:
    many = net.size[0]
    pooled = _reduced("ReduceMean", 1)(net, x, draw)
    squeezed = net.add("Relu", net.convolved(pooled, 2, many))
    gate = net.add("HardSigmoid", net.convolved(squeezed, many, 2))
    return net.add("Mul", *((x, gate) if draw(st.booleans()) else (gate, x)))


def _concat(axis: int) -> Spelling:
    def add(net: Spelled, x: str, draw: Draw) -> str:
        y = net.add("Concat", x, net.add("Tanh", x), axis=net.axes(axis)[0])
        return net.convolved(y, net.size[0], 2 * net.size[0]) if axis == 1 else y

    return add


def _split(axis: int) -> Spelling:
    def add(net: Spelled, x: str, draw: Draw) -> str:
        wide = net.add("Concat", x, x, axis=net.axes(axis)[0])
        sizes = net.ints(net.size[axis - 1], net.size[axis - 1])
        one, two = net.several("Split", 2, wide, sizes, axis=net.axes(axis)[0])
        return net.add("Mul", net.add("Sigmoid", one), two)

    return add


def _slice(net: Spelled, x: str, draw: Draw) -> str:
    starts = [draw(st.integers(0, n - 1)) for n in net.size[1:]]
    steps = [draw(st.sampled_from([1, 2, -1])) for _ in starts]
    ends = [-99 if step < 0 else 99 for step in steps]
    axes = net.axes(2, 3)
    return net.add("Slice", x, *(net.ints(*n) for n in (starts, ends, axes, steps)))


def _slice_of_all(net: Spelled, x: str, draw: Draw) -> str:
    """Without axes: the first is the rows of the batch, which are all kept."""
    starts = net.laid((0, 0, *(draw(st.integers(0, n - 1)) for n in net.size[1:])))
    return net.add("Slice", x, net.ints(*starts), net.ints(*[2**31 - 1] * 4))


def _pad(mode: str) -> Spelling:
    def add(net: Spelled, x: str, draw: Draw) -> str:
        most = 3 if mode != "reflect" else min(net.size[1:]) - 1
        sides = [[0, 0, *(draw(st.integers(0, most)) for _ in range(2))] for _ in range(2)]
        pads = net.ints(*(n for side in sides for n in net.laid(side)))
        return net.add("Pad", x, pads, net.constant(np.float32(1.5)), mode=mode)

    return add


def _resize(mode: str, how: str) -> Spelling:
    def add(net: Spelled, x: str, draw: Draw) -> str:
        factors = [draw(st.sampled_from([1.0, 2.0, 3.0, 1.5])) for _ in range(2)]
        scales = net.floats(*net.laid((1.0, 1.0, *factors)))
        return net.add("Resize", x, "", scales, mode=mode, coordinate_transformation_mode=how)

    return add


def _depth_to_space(mode: str) -> Spelling:
    def add(net: Spelled, x: str, draw: Draw) -> str:
        block = draw(st.integers(1, 3))
        wide = net.convolved(x, net.size[0] * block * block, net.size[0])
        return net.first("DepthToSpace", wide, blocksize=block, mode=mode)

    return add


Spelling = Callable[[Spelled, str, Draw], str]
SPELLINGS: dict[str, Spelling] = {
    "AveragePool": _pool("AveragePool"),
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat of channels": _concat(1),
    "Concat of rows": _concat(2),
    "Concat of pixels": _concat(3),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace CRD": _depth_to_space("CRD"),
    "DepthToSpace DCR": _depth_to_space("DCR"),
    "gate": _gate,
    "GlobalAveragePool": lambda net, x, draw: net.first("GlobalAveragePool", x),
    "GlobalMaxPool": lambda net, x, draw: net.first("GlobalMaxPool", x),
    "HardSwish": unary("HardSwish"),
    "HardSwish in parts": _hard_swish,
    "LeakyRelu": unary("LeakyRelu", alpha=0.2),
    "MaxPool": _pool("MaxPool"),
    **{f"Pad, {m}": _pad(m) for m in ("constant", "edge", "reflect")},
    "PRelu": _p_relu,
    "ReduceMax": _reduced("ReduceMax", 1),
    "ReduceMean": _reduced("ReduceMean", 1),
    "ReduceMean, flat": _reduced("ReduceMean", 0),
    "Relu": unary("Relu"),
    "residual": _residual,
    **{
        f"Resize, {mode}, {how}": _resize(mode, how)
        for mode, how in (
            ("nearest", "asymmetric"),
            ("nearest", "half_pixel"),
            ("linear", "align_corners"),
            ("linear", "asymmetric"),
            ("linear", "half_pixel"),
            ("linear", "pytorch_half_pixel"),
            ("cubic", "half_pixel"),
        )
    },
    "SiLU": _silu,
    "Slice": _slice,
    "Slice without axes": _slice_of_all,
    "Split of channels": _split(1),
    "Split of pixels": _split(3),
    **{f"{op} of constants": _with_constant(op) for op in ("Add", "Div", "Mul", "Sub")},
}


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", SPELLINGS)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_it_runs_by_kernels(name: str, last: bool, data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 5), st.integers(2, 7), st.integers(2, 9)))
    net = Spelled(size, last, data.draw(st.sampled_from([14, 18])))
    x = net.convolved("x", size[0], size[0], size=3, pads=[1, 1, 1, 1])
    y = SPELLINGS[name](net, x, data.draw)
    check(net, net.convolved(y, 2, size[0]), rows=5)
