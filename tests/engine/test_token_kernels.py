"""Kernels of embeddings, pools, norms and reductions, against numpy: lengths, tails, NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import call, offsets_of, panel, tiled

from engine.kernels.row import Kernel
from engine.kernels.table import IDS, KERNELS, WIDTHS, kernels_of

Array = np.ndarray[Any, Any]
named = pytest.mark.parametrize


def ids(kernel: Kernel) -> str:
    return kernel.name


@named("points", WIDTHS)
@named("element", list(IDS))
@named(("features", "live"), [(1, 16), (8, 16), (21, 5), (64, 1)])
def test_embed_looks_rows_up(element: str, features: int, live: int, points: int) -> None:
    rng = np.random.default_rng(features)
    table = rng.standard_normal((50, features)).astype(np.float32)
    numbers = rng.integers(-50, 50, 40).astype(element)
    held = panel(features, None, points)
    words = (held, 0, features, table, 50)
    call(f"embed_{element}_x{points}", words, row=7, live=live, borders=[numbers])
    np.testing.assert_array_equal(held[:features, :live].T, table[numbers[7 : 7 + live]])


POOLS = {"max": np.max, "mean": np.mean, "min": np.min, "sum": np.sum}


def pooled(name: str, x: Array, lengths: list[int], row: int = 0) -> Array:
    features, points = x.shape[1], KERNELS[name].points
    held = tiled(x, points)
    y = np.full((row + len(lengths), features), -5, np.float32)
    before = offsets_of([3] * row + lengths)
    words = (held, features * points * 4, features, 0, 1)
    call(name, words, live=len(lengths), row=row, borders=[y, before])
    assert (y[:row] == -5).all(), "rows of other columns were written"
    return y[row:]


@named("kernel", kernels_of("pool"), ids=ids)
@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), row=st.integers(0, 2))
def test_pools_reduce_each_sequence(kernel: Kernel, lengths: list[int], row: int) -> None:
    rng = np.random.default_rng(sum(lengths))
    x = rng.standard_normal((sum(lengths), 5)).astype(np.float32)
    got = pooled(kernel.name, x, lengths, row)
    parts = np.split(x, offsets_of(lengths)[1:-1])
    if kernel.name.startswith("take"):
        expected = [p[0 if "first" in kernel.name else -1] for p in parts]
        np.testing.assert_array_equal(got, expected)
        return
    reduce = POOLS[str(kernel.arguments[1]).lower()]
    np.testing.assert_allclose(got, [reduce(p, axis=0) for p in parts], rtol=1e-5, atol=1e-6)
    alone = [pooled(kernel.name, p, [len(p)])[0] for p in parts]
    assert np.array(alone).tobytes() == got.tobytes(), "a sequence's neighbours change its bytes"


@named("name", ["max", "mean", "min", "sum"])
def test_pools_keep_nan(name: str) -> None:
    x = np.zeros((6, 2), np.float32)
    x[1, 0], x[4, 1] = np.nan, np.inf
    got = pooled(f"pool_{name}_f32_x16", x, [3, 3])
    np.testing.assert_array_equal(np.isnan(got), [[True, False], [False, False]])


# ---- over features ----------------------------------------------------------------------------


@named("kernel", kernels_of("norm"), ids=ids)
@named(("outer", "width"), [(1, 1), (1, 7), (3, 16), (1, 384)])
def test_layer_norm_is_its_formula(kernel: Kernel, outer: int, width: int) -> None:
    rng = np.random.default_rng(width)
    x = (rng.standard_normal((kernel.points, outer, width)) * 3 + 2).astype(np.float32)
    x[3, 0, 0] = np.nan
    scale, bias = (rng.standard_normal(width).astype(np.float32) for _ in range(2))
    out, epsilon = panel(outer * width, None, kernel.points), np.array([1e-5], np.float32)
    source = panel(outer * width, x.reshape(kernel.points, -1), kernel.points)
    words = (source, out, outer, width, scale, bias, epsilon)
    call(kernel.name, words)
    wide = x.astype(np.float64)
    mean = wide.mean(-1, keepdims=True) if kernel.arguments[1] else 0.0
    variance = np.square(wide - mean).mean(-1, keepdims=True)
    expected = (wide - mean) / np.sqrt(variance + 1e-5) * scale + bias
    got = out[: outer * width].T.reshape(x.shape)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


REDUCTIONS = {
    "ReduceL1": lambda x: np.abs(x).sum(2),
    "ReduceL2": lambda x: np.sqrt(np.square(x).sum(2)),
    "ReduceMax": lambda x: x.max(2),
    "ReduceMean": lambda x: x.mean(2),
    "ReduceMin": lambda x: x.min(2),
    "ReduceSum": lambda x: x.sum(2),
    "ReduceSumSquare": lambda x: np.square(x).sum(2),
}


@named("kernel", kernels_of("reduction"), ids=ids)
@named("dims", [(1, 10, 1), (3, 4, 5), (1, 1, 6), (7, 2, 1)])
def test_reductions_over_the_middle(kernel: Kernel, dims: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((kernel.points, *dims)).astype(np.float32)
    x[2, 0, 0, 0], x[3, 0, -1, 0], x[4, 0, 0, 0] = np.nan, np.nan, np.inf
    features, outer, axis, inner = int(np.prod(dims)), *dims
    out = panel(outer * inner, None, kernel.points)
    source = panel(features, x.reshape(kernel.points, -1), kernel.points)
    call(kernel.name, (source, out, outer, axis, inner))
    expected = REDUCTIONS[str(kernel.arguments[1])](x.astype(np.float64)).reshape(kernel.points, -1)
    np.testing.assert_allclose(out[: outer * inner].T, expected, rtol=1e-5, atol=1e-5)


@named("kernel", [k for k in kernels_of("broadcast") if len(k.arguments) > 1], ids=ids)
@named(("outer", "width"), [(1, 1), (1, 9), (4, 3)])
def test_one_number_for_all_of_the_last_axis(kernel: Kernel, outer: int, width: int) -> None:
    rng = np.random.default_rng(width)
    x = rng.standard_normal((kernel.points, outer, width)).astype(np.float32)
    s = rng.standard_normal((kernel.points, outer, 1)).astype(np.float32)
    points = kernel.points
    out = panel(outer * width, None, points)
    sources = ((outer * width, x), (outer, s))
    panels = [panel(n, a.reshape(points, -1), points) for n, a in sources]
    call(kernel.name, (*panels, out, outer, width))
    meaning = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    apply = meaning[str(kernel.arguments[1])]
    expected = apply(s, x) if kernel.arguments[2] else apply(x, s)
    np.testing.assert_allclose(out[: outer * width].T.reshape(x.shape), expected, rtol=1e-6)


@named("points", WIDTHS)
def test_copy_repeats_features(points: int) -> None:
    x = np.arange(points * 6, dtype=np.float32).reshape(points, 6)
    out = panel(24, None, points)
    call(f"copy_f32_x{points}", (panel(6, x, points), out, 3, 2, 4))
    expected = np.repeat(x.reshape(points, 3, 1, 2), 4, axis=2).reshape(points, -1)
    np.testing.assert_array_equal(out[:24].T, expected)
