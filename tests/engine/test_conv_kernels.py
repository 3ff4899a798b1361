"""Convolutions of lane groups of images against plain loops: windows, strides, rings that wrap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import call
from rings import UNTOUCHED, Ring, empty_ring, ring_of

from engine.kernels.image_table import CONV_PIXELS
from engine.kernels.row import Kernel
from engine.kernels.table import kernels_of
from engine.packing import Packed
from engine.window_packing import Taps, pack_conv

Array = np.ndarray[Any, Any]
named = pytest.mark.parametrize

QUICK = {(4, 1), (1, 0), (2, 2)}
"""(R, S) that are compiled in every run; the others, a second or two each, in slow ones."""
SPARED = {(R, S) for R in (2, 7, 14, 28) for S in (0, 2) if (R, S) not in QUICK}
"""Compiled by nobody here: S and R are arguments of one source, and each is tried with others."""


def rows_of(family: Any) -> list[Any]:
    kernels = [k for k in kernels_of(family) if (k.pixels, k.stride) not in SPARED]
    return [
        pytest.param(
            k, id=k.name, marks=[] if (k.pixels, k.stride) in QUICK else [pytest.mark.slow]
        )
        for k in kernels
    ]


@dataclass(frozen=True)
class Problem:
    """One visit: rows [top, top + rows) of a convolution's output."""

    x: Array
    """[T, C, H, W], already padded."""
    weights: Array
    bias: Array
    strides: tuple[int, int]
    dilations: tuple[int, int]
    bounds: tuple[float, float]
    r: Array | None
    """[T, M, rows, W']."""
    spare: int
    """Slots of rings beyond the rows in use."""
    first: int
    """Where rings begin."""

    @property
    def visited(self) -> tuple[int, int]:
        """Rows and pixels of the output."""
        x, kernel = self.x.shape[2:], self.weights.shape[2:]
        steps = zip(x, kernel, self.strides, self.dilations, strict=True)
        high, wide = ((n - (k - 1) * d - 1) // s + 1 for n, k, s, d in steps)
        return high, wide

    def expected(self, weights: Array | None = None) -> Array:
        weights = self.weights if weights is None else weights
        y = naive.conv(self.x, weights, self.strides, self.dilations)
        with np.errstate(all="ignore"):
            y = y + self.bias[:, None, None] + (0.0 if self.r is None else self.r)
        return naive.clamp(y, *self.bounds)


@st.composite
def problems(draw: st.DrawFn, kernel: Kernel, depthwise: bool = False) -> Problem:
    lanes, rng = kernel.points, np.random.default_rng(draw(st.integers(0, 2**32)))
    stride = kernel.stride or draw(st.integers(1, 4))
    strides = draw(st.integers(1, 3)), stride
    dilations = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kh, kw = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    wide, rows = kernel.pixels + draw(st.integers(0, 9)), draw(st.integers(1, 4))
    channels = draw(st.sampled_from([1, 2, 5, 40, 130] if not depthwise else [1, 2, 5]))
    outputs = draw(st.integers(1, 9)) if not depthwise else channels * draw(st.integers(1, 3))
    high = (rows - 1) * strides[0] + (kh - 1) * dilations[0] + 1
    width = (wide - 1) * stride + (kw - 1) * dilations[1] + 1
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    shape = (outputs, 1 if depthwise else channels, kh, kw)
    keep = rng.random(shape) < density * rng.random((outputs, 1, 1, 1)) * 2
    with_r = draw(st.booleans())
    return Problem(
        x=rng.standard_normal((lanes, channels, high, width)).astype(np.float32),
        weights=(rng.standard_normal(shape) * keep).astype(np.float32),
        bias=rng.standard_normal(outputs).astype(np.float32),
        strides=strides,
        dilations=dilations,
        bounds=draw(st.sampled_from([(-np.inf, np.inf), (0.0, np.inf), (-0.5, 0.5)])),
        r=rng.standard_normal((lanes, outputs, rows, wide)).astype(np.float32) if with_r else None,
        spare=draw(st.integers(0, 3)),
        first=draw(st.integers(0, 50)),
    )


def groups_of(pixels: int, count: int, x_nbytes: int, y_nbytes: int) -> Array:
    """The last one ends with the row, over pixels of the one before if need be."""
    firsts = [min(p, pixels - count) for p in range(0, pixels, count)]
    return np.array([(p * x_nbytes, p * y_nbytes) for p in firsts], np.int32)


def run(kernel: Kernel, problem: Problem) -> Array:
    """The kernel's y[T, M, rows, W']; nothing else of its ring may have been written."""
    lanes, outputs, size = kernel.points, len(problem.weights), kernel.points * 4
    rows, pixels = problem.visited
    slots, depthwise = problem.x.shape[2] + problem.spare, kernel.family == "depthwise"
    x = ring_of(problem.x, slots=slots, first=problem.first, left=1, right=2)
    y = empty_ring((rows + problem.spare, outputs + 3, pixels + 4, lanes), problem.first + 1, 2, 1)
    r = ring_of(problem.r, slots=rows + 1, first=problem.first) if problem.r is not None else y
    stride = problem.strides[1] * size
    words: dict[int, Any] = {
        16: rows,
        17: problem.strides[0],
        18: groups_of(pixels, kernel.pixels, stride, size),
        20: outputs,
        29: 0 if kernel.stride else stride,
        30: int(problem.r is not None),
    }
    words[19] = len(words[18])
    words |= _depthwise(problem, size) if depthwise else _packed(kernel, problem, x)
    operands = [*x.grid(), *y.grid(), *r.grid(), *(words.get(i, 0) for i in range(16, 31))]
    call(kernel.name, operands)
    found = y.rows(rows, outputs, pixels)
    y.array[(y.first + np.arange(rows)) % len(y.array), 1 : 1 + outputs, 2 : 2 + pixels] = UNTOUCHED
    assert (y.array == UNTOUCHED).all(), "written beside its pixels"
    return found


def _packed(kernel: Kernel, problem: Problem, x: Ring) -> dict[int, Any]:
    packed = packed_of(kernel, problem, x.channel_nbytes)
    bounds = np.array(problem.bounds, np.float32)
    asks = 2  # channels an output: a hint, which changes nothing
    made = (*packed.streams, *packed.numbers, problem.bias, bounds, asks)
    return dict(enumerate(made, 21))


def packed_of(kernel: Kernel, problem: Problem, channel_nbytes: int) -> Packed:
    window = Taps(
        kernel.points, channel_nbytes, problem.dilations, kernel.pixels, problem.strides[1]
    )
    return pack_conv(kernel.structure, problem.weights, window)


def _depthwise(problem: Problem, size: int) -> dict[int, Any]:
    outputs, _, kh, kw = problem.weights.shape
    down, right = problem.dilations
    bounds = np.array(problem.bounds, np.float32)
    weights = np.ascontiguousarray(problem.weights)
    multiplier = outputs // problem.x.shape[1]
    made = (weights, kh, kw, down, right * size, multiplier, problem.bias, bounds)
    return dict(enumerate(made, 21))


def shared_taps(weights: Array) -> Array:
    """Weights whose zeros are multiplied where any of four neighbours has one: NaN there passes."""
    made = weights.copy()
    for first in range(0, len(weights), 4):
        block = made[first : first + 4]
        tiny = (block == 0) & (block != 0).any(axis=0)
        block[tiny] = np.float32(1e-45)
    return made


@named("kernel", rows_of("conv"))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_conv_is_the_sum_over_its_window(kernel: Kernel, data: st.DataObject) -> None:
    problem = data.draw(problems(kernel))
    np.testing.assert_allclose(run(kernel, problem), problem.expected(), rtol=1e-4, atol=2e-4)


@named("kernel", rows_of("conv"))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_nan_and_infinity_pass_through_weights_that_are_there(
    kernel: Kernel, data: st.DataObject
) -> None:
    problem = data.draw(problems(kernel))
    rare = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    problem.x.reshape(-1)[data.draw(st.integers(0, problem.x.size - 1))] = rare
    touching = problem.weights if kernel.structure != "blk4" else shared_taps(problem.weights)
    expected = problem.expected(touching)
    if kernel.structure == "blk4":  # zero times infinity is NaN, the least float times it is not
        wrong = np.isinf(naive.conv(problem.x, touching, problem.strides, problem.dilations))
        clean = np.isinf(naive.conv(problem.x, problem.weights, problem.strides, problem.dilations))
        expected[wrong & ~clean] = np.nan
    found = run(kernel, problem)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


@named("kernel", rows_of("depthwise"))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_depthwise_sums_each_channel(kernel: Kernel, data: st.DataObject) -> None:
    problem = data.draw(problems(kernel, depthwise=True))
    outputs, channels = len(problem.weights), problem.x.shape[1]
    dense = np.zeros((outputs, channels, *problem.weights.shape[2:]), np.float32)
    dense[np.arange(outputs), np.arange(outputs) // (outputs // channels)] = problem.weights[:, 0]
    expected = problem.expected(dense)
    np.testing.assert_allclose(run(kernel, problem), expected, rtol=1e-4, atol=1e-4)


@named(
    ("lanes", "structure"),
    [
        (lanes, s.rstrip("_"))
        for s, widths in CONV_PIXELS.items()
        for lanes in widths
        if widths[lanes]
    ],
)
def test_rows_do_not_depend_on_the_visit(lanes: int, structure: str) -> None:
    """The same bytes whether rows come together or one by one, and in any lane."""
    kernel = next(
        k
        for k in kernels_of("conv", lanes)
        if (k.structure, k.pixels, k.stride) == (structure, 2, 2)
    )
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((6, 50, 3, 3)) * (rng.random((6, 50, 3, 3)) < 0.2)
    x = rng.standard_normal((lanes, 50, 9, 11)).astype(np.float32)
    x[1] = x[0]

    def visit(first: int, rows: int) -> Array:
        part = x[:, :, first : first + rows + 2]
        bias, bounds = np.arange(6, dtype=np.float32), (0.0, 3.0)
        made = Problem(
            part, weights.astype(np.float32), bias, (1, 2), (1, 1), bounds, None, 1, first
        )
        return run(kernel, made)

    whole = visit(0, 7)
    pieces = np.concatenate([visit(0, 3), visit(3, 1), visit(4, 3)], axis=2)
    assert whole.tobytes() == pieces.tobytes()
    assert whole[0].tobytes() == whole[1].tobytes()
