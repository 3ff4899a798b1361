"""Every row of KERNELS against its slow twin: shapes, zeros, tails, NaN and infinity."""

from __future__ import annotations

from typing import Any

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import call, panel

from engine.kernels.building import address
from engine.kernels.row import Kernel
from engine.kernels.table import (
    EPILOGUE_NAMES,
    IMPORTS,
    KERNELS,
    WIDTHS,
    epilogue_name,
    kernels_of,
)
from engine.ops.unary import UNARY
from engine.packing import PACKINGS, round_up

Array = np.ndarray[Any, Any]
named = pytest.mark.parametrize
RARE = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-40], np.float32)


TWINS = {"sell4": naive.linear, "blk4": naive.block_linear, "dense4": naive.dense_linear}
"""Which zeros are multiplied, and so where NaN and infinity reach, is the structure's."""


def ids(kernel: Kernel) -> str:
    return kernel.name


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, Array, Array, tuple[float, float], int]:
    """W[M, K], bias[M], x[live, K], bounds, live: any zeros, empty rows, skewed rows."""
    outputs = draw(st.integers(1, 70))
    inputs = draw(st.sampled_from([1, 3, 8, 60, 383, 384, 385, 800, 1100]))
    live = draw(st.integers(1, max(WIDTHS)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
    keep = rng.random((outputs, inputs)) < density * rng.random((outputs, 1)) * 2
    weights = (rng.standard_normal((outputs, inputs)) * keep).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    x = rng.standard_normal((live, inputs)).astype(np.float32)
    bounds = draw(st.sampled_from([(-np.inf, np.inf), (0.0, np.inf), (-0.5, 0.5)]))
    return weights, bias, x, bounds, live


def run_linear(
    kernel: Kernel,
    weights: Array,
    bias: Array,
    x: Array,
    bounds: tuple[float, float],
    rest: Array | None = None,
    function: str = "",
) -> Array:
    """y[live, M] of x[live, K], with `rest` added before the bounds and a function after them."""
    (outputs, inputs), live = weights.shape, len(x)
    packed = PACKINGS[kernel.structure](weights, kernel.points)
    padded = np.zeros(round_up(outputs, 4), np.float32)
    padded[:outputs] = bias
    source, target = panel(inputs, x, kernel.points), panel(outputs, None, kernel.points)
    ends = np.array((*bounds, 0.0, 0.0), np.float32)
    added = target if rest is None else panel(outputs, rest, kernel.points)
    code = address(epilogue_name(function, kernel.points)) if function else 0
    words = (*packed.streams, *packed.numbers, padded, ends, code, added)
    call(kernel.name, (source, target, *words), live=live)
    return target[:outputs, :live].T


@named("kernel", kernels_of("linear"), ids=ids)
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_linear_is_the_product(kernel: Kernel, problem: Any) -> None:
    weights, bias, x, bounds, live = problem
    x = x[: min(live, kernel.points)]
    expected = naive.linear(weights, bias, x.T, *bounds).T
    got = run_linear(kernel, weights, bias, x, bounds)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@named("kernel", kernels_of("linear"), ids=ids)
@settings(max_examples=30, deadline=None)
@given(problem=problems(), place=st.integers(0, 2**16), rare=st.sampled_from(list(RARE[:3])))
def test_nan_and_infinity_pass_through(
    kernel: Kernel, problem: Any, place: int, rare: np.float32
) -> None:
    weights, bias, x, bounds, live = problem
    x = x[: min(live, kernel.points)]
    x.reshape(-1)[place % x.size] = rare
    twin = TWINS[kernel.structure]
    expected = twin(weights, bias, x.T, *bounds).T
    got = run_linear(kernel, weights, bias, x, bounds)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def run_unary(name: str, points: int, x: Array) -> Array:
    """f(x[live, K]) by the kernel that passes over a whole panel."""
    held = panel(x.shape[1], x, points)
    call(f"{name.lower()}_f32_x{points}", (held, held, x.shape[1], np.zeros(2, np.float32)))
    return held[: x.shape[1], : len(x)].T


@named("kernel", kernels_of("linear"), ids=ids)
@named("outputs", [8, 37])
def test_a_rest_and_an_epilogue_give_the_bytes_of_passes_of_their_own(
    kernel: Kernel, outputs: int
) -> None:
    """Over several blocks of inputs, rows with extras, and an incomplete last slice."""
    rng = np.random.default_rng(outputs)
    weights = rng.standard_normal((outputs, 900)) * (rng.random((outputs, 900)) < 0.1)
    weights, bias = weights.astype(np.float32), rng.standard_normal(outputs).astype(np.float32)
    x = rng.standard_normal((kernel.points, 900)).astype(np.float32)
    rest = rng.standard_normal((kernel.points, outputs)).astype(np.float32)
    rest[0, 0], rest[0, 1], rest[0, 2] = np.nan, np.inf, -np.inf
    unbound, bounds = (-np.inf, np.inf), (-3.0, 3.0)
    for live in (3, kernel.points // 2, kernel.points * 3 // 4, kernel.points):
        plain = run_linear(kernel, weights, bias, x[:live], unbound)
        total = np.clip(plain + rest[:live], *np.float32(bounds))
        got = run_linear(kernel, weights, bias, x[:live], bounds, rest[:live])
        np.testing.assert_array_equal(got, total)
        for name in EPILOGUE_NAMES:
            got = run_linear(kernel, weights, bias, x[:live], bounds, rest[:live], name)
            np.testing.assert_array_equal(got, run_unary(name, kernel.points, total), name)


@named("structure", list(PACKINGS))
def test_a_point_does_not_depend_on_its_neighbours(structure: str) -> None:
    """The same row gives the same bytes in any lane, in full and in nearly empty columns, and in
    tiles of any width."""
    rng = np.random.default_rng(5)
    weights = (rng.standard_normal((37, 500)) * (rng.random((37, 500)) < 0.1)).astype(np.float32)
    bias, x = rng.standard_normal(37), rng.standard_normal((max(WIDTHS) + 3, 500))
    bias, x, bounds = bias.astype(np.float32), x.astype(np.float32), (-np.inf, np.inf)
    kernels = [k for k in kernels_of("linear") if k.structure == structure]
    widest = max(kernels, key=lambda k: k.points)
    whole = run_linear(widest, weights, bias, x[: widest.points], bounds)
    for kernel in kernels:
        for live in (1, 2, 4, 5, 8, 9, 16, 17, 24, 25, 29):
            some = run_linear(kernel, weights, bias, x[3 : 3 + min(live, kernel.points)], bounds)
            assert some.tobytes() == whole[3 : 3 + len(some)].tobytes(), (kernel.name, live)


PARAMETERS = {"Clip": (-0.7, 1.3), "LeakyRelu": (0.1, 0.0), "HardSigmoid": (0.2, 0.5)}


@named("kernel", kernels_of("unary"), ids=ids)
def test_unary_is_its_numpy_meaning(kernel: Kernel) -> None:
    name = str(kernel.arguments[1])
    a, b = PARAMETERS.get(name, (1.0, 0.0))
    rng = np.random.default_rng(1)
    spread = rng.standard_normal(32 * 400) * np.repeat([1e-3, 0.3, 2.0, 30.0], 3200)
    x = np.concatenate([spread, np.resize(RARE, 32)]).astype(np.float32).reshape(-1, kernel.points)
    if name in ("Log", "Sqrt"):
        x[: 9600 // kernel.points] = np.abs(x[: 9600 // kernel.points])
    source, target = (panel(len(x), None, kernel.points) for _ in range(2))
    source[: len(x)] = x
    call(kernel.name, (source, target, len(x), np.array((a, b), np.float32)))
    expected = UNARY[name].numpy(x.astype(np.float64), a, b)
    if name in ("Exp", "Reciprocal", "Square"):  # what float64 still holds and float32 does not
        with np.errstate(over="ignore"):
            expected = expected.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(target[: len(x)]), np.isnan(expected))
    np.testing.assert_allclose(target[: len(x)], expected, rtol=3e-6, atol=4e-7)


@named("points", WIDTHS)
def test_gelu_keeps_a_float_s_digits(points: int) -> None:
    """Sharper than what all functions are held to: every feed-forward of a transformer has it."""
    x = np.linspace(-12, 12, 24000 // points * points, dtype=np.float32).reshape(-1, points)
    source, target = (panel(len(x), None, points) for _ in range(2))
    source[: len(x)] = x
    call(f"gelu_f32_x{points}", (source, target, len(x), np.array((1, 0), np.float32)))
    expected = UNARY["Gelu"].numpy(x.astype(np.float64), 1, 0)
    error = np.abs(target[: len(x)] - expected)
    assert error[x < 0].max() < 1e-7
    assert (error[x > -2] / np.abs(expected[x > -2])).max() < 8e-7


MEANING = {
    "Add": np.add,
    "Div": np.divide,
    "Mul": np.multiply,
    "PRelu": lambda x, slope: np.where(x < 0, x * slope, x),
    "Sub": np.subtract,
}


@named("kernel", (*kernels_of("binary"), *kernels_of("constant")), ids=ids)
@named("features", [1, 7, 64])
def test_arithmetic(kernel: Kernel, features: int) -> None:
    rng = np.random.default_rng(features)
    x, y = rng.standard_normal((2, kernel.points, features)).astype(np.float32)
    x[0, 0], y[1, 0] = np.nan, np.inf
    meaning = MEANING[str(kernel.arguments[1])]
    out, source = panel(features, None, kernel.points), panel(features, x, kernel.points)
    if kernel.family == "binary":
        call(kernel.name, (source, panel(features, y, kernel.points), out, features))
        expected = meaning(x, y)
    else:
        constant = rng.standard_normal(features).astype(np.float32)
        call(kernel.name, (source, out, features, constant, 4))
        first = kernel.arguments[2]
        expected = meaning(constant, x) if first else meaning(x, constant)
    np.testing.assert_allclose(out[:features].T, expected, rtol=1e-6)


@named("points", WIDTHS)
@named("features", [1, 20])
def test_one_constant_for_all_features(features: int, points: int) -> None:
    x = np.arange(points * features, dtype=np.float32).reshape(points, features)
    out = panel(features, None, points)
    half = np.array([0.5], np.float32)
    words = (panel(features, x, points), out, features, half, 0)
    call(f"mul_constant_f32_x{points}", words)
    np.testing.assert_array_equal(out[:features].T, x * np.float32(0.5))


@named("kernel", kernels_of("softmax"), ids=ids)
@named("dims", [(1, 10, 1), (3, 4, 5), (1, 1, 6), (7, 2, 1)])
def test_softmax_over_the_middle(kernel: Kernel, dims: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((kernel.points, *dims)) * 20).astype(np.float32)
    x[2, 0, 0, 0], x[3, 0, 0, 0], x[4, 0, 0, 0] = np.nan, -np.inf, np.inf
    x[5] += 1e5  # whose steps are larger than the 1e-4 that are promised
    features, points = int(np.prod(dims)), kernel.points
    out = panel(features, None, points)
    call(kernel.name, (panel(features, x.reshape(points, -1), points), out, *dims))
    expected = naive.softmax(x, axis=2).reshape(points, -1)
    if kernel.name.startswith("log"):
        with np.errstate(divide="ignore"):
            expected = np.log(expected)
    got = out[:features].T
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    if kernel.name.startswith("log"):  # the log of what underflowed in the twin says nothing
        sure = expected > -80
        np.testing.assert_allclose(got[sure], expected[sure], rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-7)


@named("points", WIDTHS)
@named("element", list(IMPORTS))
@named(("features", "live"), [(1, 16), (8, 16), (21, 32), (21, 16), (21, 5), (64, 1), (3, 8)])
def test_import_and_export_transpose(element: str, features: int, live: int, points: int) -> None:
    rng = np.random.default_rng(features)
    live = min(live, points)
    rows = live + 32
    x = (rng.random((rows, features)) * 3 * (1 if element == "bool" else 60)).astype(element)
    held, back = panel(features, None, points), np.full((rows, features), -1, np.float32)
    call(f"import_{element}_x{points}", (held, 0, features), row=32, live=live, borders=[x])
    expected = x[32:].astype(np.float32)
    np.testing.assert_array_equal(held[:features, :live].T, expected)
    assert not held[:features, live:].any(), "lanes without a row must be zero"
    call(f"export_f32_x{points}", (held, 0, features), row=32, live=live, borders=[back])
    np.testing.assert_array_equal(back[32:], expected)
    assert (back[:32] == -1).all(), "rows of other columns were written"


def test_every_row_has_a_test_above() -> None:
    here = {"linear", "epilogue", "unary", "binary", "constant", "softmax", "import", "export"}
    beside = {"attention", "rotary"}  # test_attention_kernels
    beside |= {"extreme"}  # test_extremes
    beside |= {"broadcast", "embed", "norm", "pool", "reduction"}  # test_token_kernels
    beside |= {"conv", "depthwise"}  # test_conv_kernels; and pictures' in test_image_kernels
    families = {k.family for k in KERNELS.values() if not k.family.startswith("image ")}
    assert families == here | beside
