"""The kernels of pictures that are not convolutions, against numpy: every row of the table."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from kernel_calls import call
from rings import UNTOUCHED, Ring, empty_ring, ring_of

from engine.kernels.image_table import IMAGE_BINARY_NAMES, LANES
from engine.kernels.registers import register_lanes
from engine.kernels.row import Family, Kernel
from engine.kernels.table import IMPORTS, KERNELS, kernels_of
from engine.ops.unary import UNARY

Array = np.ndarray[Any, Any]
named = pytest.mark.parametrize
NOTHING = (0, 0, 1, 0, 0)
"""Words of a grid that a kernel lacks."""
MEANING = {
    "Add": np.add,
    "Div": np.divide,
    "Mul": np.multiply,
    "PRelu": lambda x, slope: np.where(x < 0, x * slope, x),
    "Sub": np.subtract,
}
SHAPES = [(3, 4, 5), (1, 1, 1), (0, 4, 5), (2, 0, 3), (2, 3, 0)]
"""Rows, channels, pixels."""


def rows_of(*families: Family) -> list[Any]:
    """This machine's rows, and in slow runs the other width's."""
    here = register_lanes()
    return [
        pytest.param(k, id=k.name, marks=[] if k.points == here else [pytest.mark.slow])
        for family in families
        for k in kernels_of(family)
    ]


def numbers(lanes: int, shape: tuple[int, int, int], seed: int = 0) -> Array:
    """[T, channels, rows, pixels], NaN and infinity among them."""
    rows, channels, pixels = shape
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((lanes, channels, rows, pixels)).astype(np.float32)
    x.reshape(-1)[: min(2, x.size)] = (np.nan, -np.inf)[: min(2, x.size)]
    return x


def words(x: Any, y: Any, r: Any, *rest: Any) -> list[Any]:
    grids = [g.grid() if isinstance(g, Ring) else NOTHING for g in (x, y, r)]
    return [w for grid in grids for w in grid] + list(rest)


def bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def output_of(shape: tuple[int, int, int], lanes: int) -> Ring:
    """A ring with more slots, channels and pixels than will be written."""
    rows, channels, pixels = shape
    return empty_ring((rows + 2, channels + 2, pixels + 3, lanes), rows + 1, 1, 1)


def check(y: Ring, shape: tuple[int, int, int], expected: Array, rtol: float = 1e-6) -> None:
    """y holds what is expected there, and nothing beside it."""
    rows, channels, pixels = shape
    np.testing.assert_allclose(y.rows(rows, channels, pixels), expected, rtol=rtol, atol=1e-6)
    slots = (y.first + np.arange(rows)) % len(y.array)
    left, channel = y.left, y.channel
    y.array[slots, channel : channel + channels, left : left + pixels] = UNTOUCHED
    assert (y.array == UNTOUCHED).all(), "written beside its pixels"


@named("kernel", rows_of("image unary"))
def test_unary_is_its_numpy_meaning(kernel: Kernel) -> None:
    name = str(kernel.arguments[1])
    a, b = {"Clip": (-0.7, 1.3), "LeakyRelu": (0.1, 0.0)}.get(name, (0.2, 0.5))
    for shape in SHAPES:
        x, y = numbers(kernel.points, shape), output_of(shape, kernel.points)
        source = ring_of(x, first=2, left=1)
        call(kernel.name, words(source, y, 0, *shape, np.array((a, b), np.float32)))
        with np.errstate(all="ignore"):
            expected = UNARY[name].numpy(x.astype(np.float64), a, b)
        check(y, shape, expected, rtol=1e-5)


@named("kernel", rows_of("image binary"))
@named("shape", SHAPES)
def test_arithmetic_of_two_grids(kernel: Kernel, shape: tuple[int, int, int]) -> None:
    x, r = numbers(kernel.points, shape, 1), numbers(kernel.points, shape, 2)[::-1]
    y = output_of(shape, kernel.points)
    sources = ring_of(x, slots=5, first=4, left=2), ring_of(r, first=1, right=3)
    call(kernel.name, words(sources[0], y, sources[1], *shape))
    with np.errstate(all="ignore"):
        expected = MEANING[str(kernel.arguments[1])](x, r)
    check(y, shape, expected)


@named("kernel", rows_of("image constant", "image gate"))
@named("shape", SHAPES)
@named("per_channel", [True, False])
def test_arithmetic_with_one_number_a_channel(
    kernel: Kernel, shape: tuple[int, int, int], per_channel: bool
) -> None:
    lanes, gated = kernel.points, kernel.family == "image gate"
    x, y = numbers(lanes, shape), output_of(shape, lanes)
    gate = numbers(lanes, (1, shape[1], 1), 3)
    constant = np.arange(1, shape[1] + 1).astype(np.float32) / 2
    if gated:
        rest: tuple[Any, ...] = shape
        one = gate
    else:
        rest = (*shape, constant, 4 if per_channel else 0)
        one = constant[:, None, None] if per_channel else np.float32(0.5)
    r = ring_of(gate, first=1, slots=2, left=1)
    call(kernel.name, words(ring_of(x, left=1), y, r, *rest))
    meaning = MEANING[str(kernel.arguments[1])]
    with np.errstate(all="ignore"):
        expected = meaning(one, x) if kernel.arguments[2] else meaning(x, one)
    check(y, shape, np.broadcast_to(expected, x.shape))


@named("lanes", LANES)
def test_in_place(lanes: int) -> None:
    shape = (2, 3, 4)
    x, r = numbers(lanes, shape), numbers(lanes, shape, 4)
    held = ring_of(x, first=1)
    call(f"image_add_f32_x{lanes}", words(held, held, ring_of(r), *shape))
    np.testing.assert_array_equal(held.rows(2, 3, 4), x + r)


@named("lanes", LANES)
def test_copies_pick_channels_rows_and_pixels(lanes: int) -> None:
    x, size = numbers(lanes, (7, 4, 9)), lanes * 4
    table = np.array([3, 0, 3, 2, 1], np.int32)
    y = output_of((3, 5, 4), lanes)
    rest = (3, 5, 4, table, 2, 2 * size, size, 1)
    call(f"image_copy_f32_x{lanes}", words(ring_of(x, slots=8, first=6, left=1), y, 0, *rest))
    check(y, (3, 5, 4), x[:, table][:, :, :6:2, :8:2])


@named("lanes", LANES)
def test_copies_interleave(lanes: int) -> None:
    """Every second pixel of every second row, as DepthToSpace needs them."""
    x, size = numbers(lanes, (2, 1, 3)), lanes * 4
    y = output_of((4, 1, 6), lanes)
    rest = (2, 1, 3, np.zeros(1, np.int32), 1, size, 2 * size, 2)
    call(f"image_copy_f32_x{lanes}", words(ring_of(x), y, 0, *rest))
    np.testing.assert_array_equal(y.rows(4, 1, 6)[:, :, ::2, ::2], x)
    assert (y.rows(4, 1, 6)[:, :, 1::2] == UNTOUCHED).all()


@named("lanes", LANES)
def test_picks_go_anywhere_and_leave_rows_alone(lanes: int) -> None:
    x, size = numbers(lanes, (7, 4, 9)), lanes * 4
    order, rows, pixels = np.array([3, 0, 3]), np.array([6, -1, 0, 5]), np.array([8, 2, 2, 0, 1])
    y = output_of((4, 3, 5), lanes)
    tables = (t.astype(np.int32) for t in (order, rows, pixels * size))
    call(
        f"image_pick_f32_x{lanes}",
        words(ring_of(x, slots=8, first=6, left=1), y, 0, 4, 3, 5, *tables),
    )
    expected = x[:, order][:, :, rows][..., pixels]
    expected[:, :, 1] = UNTOUCHED
    check(y, (4, 3, 5), expected)


@named("kernel", rows_of("image blend"))
def test_blends_are_sums_over_rows_and_pixels(kernel: Kernel) -> None:
    lanes, taps, rng = kernel.points, int(kernel.arguments[1]), np.random.default_rng(5)
    x, (rows, channels, pixels) = numbers(lanes, (6, 3, 9)), (4, 3, 5)
    places = rng.integers(0, 6, (rows, taps)), rng.integers(0, 9, (pixels, taps))
    a, b = (rng.standard_normal((n, taps)).astype(np.float32) for n in (rows, pixels))
    y = output_of((rows, channels, pixels), lanes)
    tables = (places[0].astype(np.int32), a, (places[1] * lanes * 4).astype(np.int32), b)
    source = ring_of(x, slots=8, first=5, left=2)
    call(kernel.name, words(source, y, 0, rows, channels, pixels, *tables))
    taken = x[:, :, places[0]][..., places[1]]
    with np.errstate(all="ignore"):
        expected = np.einsum("tcrjpk,rj,pk->tcrp", taken, a, b)
    check(y, (rows, channels, pixels), expected, rtol=1e-4)


@named("lanes", LANES)
@named("shape", SHAPES)
def test_fill(lanes: int, shape: tuple[int, int, int]) -> None:
    y = output_of(shape, lanes)
    call(f"image_fill_f32_x{lanes}", words(0, y, 0, *shape, bits(-2.5)))
    check(y, shape, np.full((lanes, shape[1], shape[0], shape[2]), -2.5))


@named("kernel", rows_of("image reduction"))
def test_reductions_go_on_from_visit_to_visit(kernel: Kernel) -> None:
    x = numbers(kernel.points, (5, 3, 7))
    x[2, 1, 3, 3], x[3, 1, 3, 3] = np.nan, np.inf
    results = []
    for cuts in ((0, 5), (0, 2, 3, 5)):
        y = output_of((1, 3, 1), kernel.points)
        for first, end in itertools.pairwise(cuts):
            factor = bits(0.25 if end == 5 else 1.0)
            part = ring_of(x[:, :, first:end], first=first, left=2)
            rest = (end - first, 3, 7, int(first == 0), factor)
            call(kernel.name, words(part, y, 0, *rest))
        results.append(y.rows(1, 3, 1).tobytes())
        meaning = np.max if "max" in kernel.name else np.sum
        with np.errstate(all="ignore"):
            expected = meaning(x, axis=(2, 3), keepdims=True) * np.float32(0.25)
        check(y, (1, 3, 1), expected, rtol=1e-5)
    assert results[0] == results[1]


def pooled(x: Array, kernel: Kernel, window: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """The slow way, and the tables of ends; windows are (k, stride, dilation, pad) both ways."""
    k, stride, dilation, pad = window
    count = [(n + 2 * pad - (k - 1) * dilation - 1) // stride + 1 for n in x.shape[2:]]
    ends = [
        np.array(
            [
                (min(inside), max(inside) + 1)
                for o in range(total)
                for inside in [[j for j in range(k) if 0 <= o * stride - pad + j * dilation < n]]
            ],
            np.int32,
        )
        for total, n in zip(count, x.shape[2:], strict=True)
    ]
    y = np.zeros((*x.shape[:2], *count), np.float32)
    for i, j in np.ndindex(*count):
        rows = i * stride - pad + np.arange(*ends[0][i]) * dilation
        pixels = j * stride - pad + np.arange(*ends[1][j]) * dilation
        taken = x[:, :, rows][:, :, :, pixels]
        with np.errstate(all="ignore"):
            largest = "max" in kernel.name
            y[:, :, i, j] = taken.max(axis=(2, 3)) if largest else taken.mean(axis=(2, 3))
    return y, ends[0], ends[1]


@named("kernel", rows_of("image pool"))
@named("window", [(3, 2, 1, 1), (2, 2, 1, 0), (3, 1, 1, 1), (2, 1, 3, 2), (1, 3, 1, 0)])
def test_pools_leave_padding_out(kernel: Kernel, window: tuple[int, ...]) -> None:
    _, stride, dilation, pad = window
    lanes, size = kernel.points, kernel.points * 4
    x = numbers(lanes, (9, 3, 11))
    expected, ky, kx = pooled(x, kernel, window)
    rows, pixels = expected.shape[2:]
    held = ring_of(x, slots=30, first=25, left=pad, right=pad)
    held.array[held.array == 0] = UNTOUCHED  # padding that would be seen
    y = output_of((rows, 3, pixels), lanes)
    _, first, *others = held.grid()
    grid = (held.array[:, :, 0:], (first - pad) % 30, *others)  # kx = 0 of the first pixel
    counts = np.diff(ky) * np.diff(kx).T
    rest = (rows, stride, ky, kx, pixels, 3, stride * size, dilation * size, dilation)
    factors = (1.0 / counts).astype(np.float32)
    call(kernel.name, [*grid, *y.grid(), *NOTHING, *rest, factors])
    check(y, (rows, 3, pixels), expected, rtol=1e-5)


@named("lanes", LANES)
@named("element", list(IMPORTS))
@named("layout", ["NCHW", "NHWC"])
@named("missing", [0, 3])
def test_import_and_export(lanes: int, element: str, layout: str, missing: int) -> None:
    rng = np.random.default_rng(7)
    live, images = lanes - missing, lanes + 5
    axes = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 3, 1, 2)}[layout]
    shape = [images, 3, 6, 21] if layout == "NCHW" else [images, 6, 21, 3]
    batch = (rng.random(shape) * 3 * (1 if element == "bool" else 60)).astype(element)
    steps = [batch.strides[a] // batch.itemsize for a in axes]
    y, part = output_of((4, 3, 19), lanes), (4, 3, 19)
    rest = (*part, 0, *steps, 1, 2)
    call(
        f"image_import_{element}_x{lanes}",
        words(0, y, 0, *rest),
        row=5 - missing,
        live=live,
        borders=[batch],
    )
    expected = np.zeros((lanes, 3, 4, 19), np.float32)
    chosen = batch.transpose(axes)[5 - missing :, :, 1:5, 2:]
    expected[:live] = chosen[:live]
    back = np.full(shape, -1, np.float32)
    call(
        f"image_export_f32_x{lanes}",
        words(y, 0, 0, *rest),
        row=5 - missing,
        live=live,
        borders=[back],
    )
    check(y, part, expected)
    written = back.transpose(axes)
    np.testing.assert_array_equal(written[5 - missing :, :, 1:5, 2:][:live], expected[:live])
    written[5 - missing : 5 - missing + live, :, 1:5, 2:] = -1
    assert (back == -1).all(), "pixels of others were written"


def test_every_row_has_a_test_above_or_beside() -> None:
    here = {"unary", "binary", "constant", "gate", "copy", "fill", "pool", "reduction"}
    here |= {"import", "export", "pick", "blend"}
    families = {k.family.removeprefix("image ") for k in KERNELS.values() if "image " in k.family}
    assert families == here
    assert set(IMAGE_BINARY_NAMES) == set(MEANING)
