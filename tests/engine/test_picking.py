"""Pads, slices, sizes and joins of images by kernels, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_nets import Net, check

few = settings(max_examples=30, deadline=None)  # kernels are compiled on first use
C, H, W = 3, 7, 9
RULES = [
    "align_corners",
    "asymmetric",
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
]


def ints(net: Net, *numbers: int) -> str:
    return net.constant(np.array(numbers, np.int64))


def between(make: Any, opset: int = 19) -> None:
    """What `make` adds to a network, between two convolutions that keep few rows."""
    net = Net(C, H, W, zeros=0.3, opset=opset)
    x = net.conv("x", C, C, 3, pads=[1, 1, 1, 1])
    check(net, net.conv(make(net, x), 2, C, 1))


@few
@given(
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    how=st.sampled_from(RULES),
    rounding=st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
    scales=st.tuples(*[st.sampled_from([0.4, 0.5, 0.8, 1.0, 1.3, 2.0, 3.0, 3.7])] * 2),
    outside=st.booleans(),
)
def test_resize_by_scales(
    mode: str, how: str, rounding: str, scales: tuple[float, float], outside: bool
) -> None:
    if mode == "nearest" and how == "half_pixel_symmetric":  # else the last bit decides
        scales = (max(1.0, np.floor(scales[0])), max(1.0, np.floor(scales[1])))

    def add(net: Net, x: str) -> str:
        factors = net.constant(np.array([1, 1, *scales], np.float32))
        rules: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": how}
        rules |= {"nearest_mode": rounding} if mode == "nearest" else {}
        rules |= {"exclude_outside": int(outside)} if mode == "cubic" else {}
        return net.add("Resize", x, "", factors, **rules)

    between(add)


@few
@given(
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    how=st.sampled_from(RULES),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_resize_to_sizes(mode: str, how: str, sizes: tuple[int, int]) -> None:
    rules = {"mode": mode, "coordinate_transformation_mode": how, "axes": [2, 3]}
    between(lambda net, x: net.add("Resize", x, "", "", ints(net, *sizes), **rules))


@pytest.mark.parametrize(
    ("opset", "scale"), [(9, 2.0), (9, 2.5), (10, 2.5), (10, 0.6), (11, 2.5), (11, 0.6), (13, 0.6)]
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_resizes(opset: int, mode: str, scale: float) -> None:
    def add(net: Net, x: str) -> str:
        factors = net.constant(np.array([1, 1, scale, scale], np.float32))
        if opset < 11:
            return net.add("Upsample" if opset < 10 else "Resize", x, factors, mode=mode)
        nothing = net.constant(np.zeros(0, np.float32))
        rule = "tf_half_pixel_for_nn" if mode == "nearest" and opset < 13 else "half_pixel"
        rules = {"mode": mode, "coordinate_transformation_mode": rule}
        return net.add("Resize", x, nothing, factors, **rules)

    between(add, opset)


@few
@given(
    mode=st.sampled_from(["constant", "edge", "reflect", "wrap"]),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    cuts=st.booleans(),
    value=st.sampled_from([0.0, 1.5, -np.inf, np.nan]),
)
def test_pads(mode: str, pads: tuple[int, ...], cuts: bool, value: float) -> None:
    def add(net: Net, x: str) -> str:
        top, left, bottom, right = pads
        sides = (-1 if cuts and mode == "constant" else top, left, bottom, right)
        y = net.add(
            "Pad",
            net.add("Neg", x),  # or else the convolution behind it takes zeros in
            ints(net, 0, 0, *sides[:2], 0, 0, *sides[2:]),
            net.constant(np.float32(value)) if mode == "constant" else "",
            mode=mode,
        )
        return net.add("MaxPool", y, kernel_shape=[1, 1])

    between(add)


def test_a_pad_of_channels_and_one_of_named_axes() -> None:
    net = Net(C, H, W)
    x = net.conv("x", 4, C, 3)
    wide = net.add("Pad", x, ints(net, 0, 2, 0, 0, 0, 3, 0, 0), net.constant(np.float32(0.25)))
    y = net.add("Pad", wide, ints(net, 2, 1), "", ints(net, 3), mode="edge")
    net.opset = 19
    check(net, net.add("Relu", y), wide)


@few
@given(data=st.data())
def test_slices(data: st.DataObject) -> None:
    bounds = []
    for size in (H, W):
        step = data.draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        first = data.draw(st.integers(0, size - 1))
        last = data.draw(st.integers(first, size + 2) if step > 0 else st.integers(-3, first))
        start = first - data.draw(st.sampled_from([0, size]))
        end = last + 1 if step > 0 else last - 1 if last > 0 else -2 * size
        bounds.append((start, end, step))
    starts, ends, steps = zip(*bounds, strict=True)

    def add(net: Net, x: str) -> str:
        inputs = (ints(net, *starts), ints(net, *ends), ints(net, 2, -1), ints(net, *steps))
        return net.add("Slice", x, *inputs)

    between(add)


def test_a_slice_of_channels_and_pixels_and_one_without_axes() -> None:
    net = Net(C, H, W)
    x = net.conv("x", 5, C, 3)
    y = net.add("Slice", x, ints(net, 1, 2), ints(net, 4, 99), ints(net, 1, 2))
    z = net.add("Slice", y, ints(net, 0, 0, 0, 1), ints(net, 2**40, 9, 9, -1))
    check(net, z)


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_splits_and_joins(axis: int) -> None:
    net = Net(6, 6, 6)
    x = net.conv("x", 6, 6, 3, pads=[1, 1, 1, 1])
    a, b, c = net.several("Split", 3, x, ints(net, 1, 3, 2), axis=axis)
    y = net.add("Concat", b, net.add("Relu", c), a, b, axis=axis)
    check(net, net.add("Gather", y, ints(net, 3, -1, 3, 0), axis=axis))


@pytest.mark.parametrize("op", ["Slice", "Pad", "Concat", "Resize"])
def test_lines(op: str) -> None:
    net = Net(4, 13)
    x = net.conv("x", 4, 4, 3)
    y = {
        "Slice": lambda: net.add(
            "Slice", x, ints(net, 9), ints(net, 1), ints(net, 2), ints(net, -2)
        ),
        "Pad": lambda: net.add("Pad", x, ints(net, 0, 0, 3, 0, 0, 5), mode="reflect"),
        "Concat": lambda: net.add("Concat", x, x, axis=2),
        "Resize": lambda: net.add(
            "Resize", x, "", net.constant(np.array([1, 1, 1.5], np.float32)), mode="linear"
        ),
    }[op]()
    check(net, net.conv(y, 3, 4, 2))


def test_a_picture_that_is_only_made_smaller() -> None:
    net = Net(C, H, W)
    factors = net.constant(np.array([1, 1, 0.5, 0.5], np.float32))
    check(net, net.add("Relu", net.add("Resize", "x", "", factors, mode="linear")))
