"""Which structure the weights of a convolution are packed in, and which outputs are paired."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError
from engine.images.choosing import choose_structure
from engine.images.cycles import (
    BLOCKS,
    CYCLES,
    grouping_of,
    packing_of,
    row_cycles,
    structures_for,
)
from engine.ops.image_work import Convolution, Plane, Read, Window
from engine.window_packing import pairs_of


def work(share: float, outputs: int = 64, channels: int = 64, group: int = 1) -> Convolution:
    """A convolution of 3x3 with that share of weights."""
    rng = np.random.default_rng(5)
    shape = outputs, channels // group, 3, 3
    weights = (rng.standard_normal(shape) * (rng.random(shape) < share)).astype(np.float32)
    window = Window(3, 1, 1, 1)
    read = Read("x", Plane(channels, 14, 14), window, window)
    bias = np.zeros(outputs, np.float32)
    return Convolution((read,), "y", Plane(outputs, 14, 14), weights, bias, group, ())


@pytest.mark.parametrize(
    ("share", "eight", "sixteen"),
    [(1.0, "blk4", "blk4"), (0.3, "nz", "pair"), (0.2, "nz", "pair"), (0.005, "nz", "nz")],
)
def test_the_structure_follows_the_zeros(share: float, eight: str, sixteen: str) -> None:
    assert choose_structure("conv", work(share), 8).kernel == eight
    assert choose_structure("conv", work(share), 16).kernel == sixteen
    for lanes in CYCLES:
        for by_two in (False, True):
            choice = choose_structure("conv", work(share), lanes, sparse=False, by_two=by_two)
            assert packing_of(choice.kernel) == "blk4"
    grouped = choose_structure("conv", work(share, group=4), 16)
    assert any("shared" in c.reason for c in grouped.candidates)


def test_a_recorded_structure_must_exist_for_the_lanes() -> None:
    assert choose_structure("conv", work(0.2), 16, "nz").kernel == "nz"
    assert choose_structure("conv", work(0.2), 8, "pair_by2").kernel == "pair_by2"
    known = "nz, blk4, nz_by2, pair_by2, blk4_by2, depthwise"
    with pytest.raises(EngineError, match=f"conv: expected one of {known}, got 'pair'"):
        choose_structure("conv", work(0.2), 8, "pair")
    strided = replace(work(0.2), reads=(replace(work(0.2).reads[0], pixels=Window(3, 2, 1, 1)),))
    with pytest.raises(EngineError, match="conv: expected one of nz, blk4, depthwise, got"):
        choose_structure("conv", strided, 8, "pair_by2")


@pytest.mark.parametrize(
    ("width", "stride", "plain", "two"),
    [(14, 1, False, True), (7, 1, True, True), (2, 1, True, False), (14, 2, True, False)],
)
def test_two_pixels_a_register_where_they_lie_side_by_side(
    width: int, stride: int, plain: bool, two: bool
) -> None:
    problem = pointwise(0.2, 64, 64, width)
    read = replace(problem.reads[0], pixels=Window(1, stride, 0, 1))
    found = structures_for(replace(problem, reads=(read,)), 8, by_two=True)
    assert ("nz" in found, "pair_by2" in found) == (plain, two)
    assert structures_for(problem, 8, by_two=False) == ("nz", "blk4")
    assert structures_for(problem, 16, by_two=True) == ("nz", "pair", "blk4")


def test_a_group_of_two_pixels_a_register_is_of_twice_its_vectors() -> None:
    grouping = grouping_of(pointwise(0.2, 64, 64, 14), "pair_by2", 8)
    assert grouping.kernel.points == 16 and grouping.pixels == 2 * grouping.kernel.pixels
    assert grouping.pixels == 14


def test_the_fewer_taps_the_longer_are_blocks() -> None:
    few, many = (
        grouping_of(pointwise(share, 1024, 256, 14), "pair", 16).block_nbytes
        for share in (0.02, 0.5)
    )
    assert many == min(BLOCKS[16]) < few


@given(st.integers(1, 23), st.integers(1, 40), st.integers(0, 2**32))
def test_each_output_is_in_one_pair(outputs: int, taps: int, seed: int) -> None:
    present = np.random.default_rng(seed).random((outputs, taps)) < 0.4
    pairs = pairs_of(present)
    a, b = pairs.T
    alone = a[a == b]
    assert len(alone) == outputs % 2
    assert sorted([*a, *b]) == sorted([*range(outputs), *alone])


def test_outputs_with_the_same_taps_are_paired() -> None:
    rng = np.random.default_rng(1)
    half = rng.random((16, 3000)) < 0.2
    order = rng.permutation(32)
    twice = np.concatenate([half, half])[order]
    a, b = pairs_of(twice).T
    assert (twice[a] == twice[b]).all()


def pointwise(share: float, channels: int, outputs: int, width: int) -> Convolution:
    """A convolution of 1x1 with that share of weights."""
    rng = np.random.default_rng(5)
    shape = outputs, channels, 1, 1
    weights = (rng.standard_normal(shape) * (rng.random(shape) < share)).astype(np.float32)
    read, plane = Read("x", Plane(channels, width, width)), Plane(outputs, width, width)
    return Convolution((read,), "y", plane, weights, np.zeros(outputs, np.float32), 1, ())


@pytest.mark.parametrize("lanes", [8, 16])
def test_few_taps_of_many_channels_are_taken_by_few_pixels(lanes: int) -> None:
    """Many pixels leave L1 room for few channels, and each block loads and stores the sums."""
    few, many = (grouping_of(pointwise(s, 1024, 64, 14), "nz", lanes).pixels for s in (0.02, 0.3))
    assert few < 7 <= many
    # one block whatever the pixels: then more of them share a tap
    assert grouping_of(pointwise(0.02, 16, 64, 14), "nz", lanes).pixels >= 7


@pytest.mark.parametrize("structure", ["nz", "blk4"])
def test_a_pixel_alone_is_a_row_of_one(structure: str) -> None:
    for width in range(1, 9):
        pixels = grouping_of(pointwise(0.05, 256, 16, width), structure, 8).pixels
        assert pixels <= width and (pixels == 1) == (width == 1)


def test_a_row_costs_what_its_groups_do() -> None:
    problem = pointwise(0.1, 64, 32, 14)
    one = row_cycles(problem, "pair", 16, 7, taps=100, shared=10)
    assert row_cycles(problem, "pair", 16, 7, taps=200, shared=10) > one
    assert row_cycles(problem, "pair", 16, 7, taps=100, shared=20) > one
    # 13 pixels are as many groups of 7 as 14 are
    assert row_cycles(pointwise(0.1, 64, 32, 13), "pair", 16, 7, taps=100, shared=10) == one
    # 73 channels of 7 pixels are a block: of 64 one, of 1024 fifteen
    more = row_cycles(pointwise(0.1, 1024, 32, 14), "pair", 16, 7, taps=0)
    assert more == pytest.approx(15 * row_cycles(problem, "pair", 16, 7, taps=0))
