"""Packing loses nothing: the streams give back the weights they were made of."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.packing import (
    OFFSET_UNIT,
    block_inputs,
    pack_dense4,
    pack_sell4,
    row_block_inputs,
)
from engine.sparsity import measure

POINTS = 16


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 40),
    inputs=st.sampled_from([1, 5, 384, 385, 1025, 3000]),
    density=st.sampled_from([0.0, 0.001, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_sell4_keeps_every_weight(outputs: int, inputs: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    skew = rng.random((outputs, 1)) * 2
    keep = rng.random((outputs, inputs)) < density * skew
    weights = (rng.standard_normal((outputs, inputs)) * keep).astype(np.float32)
    weights[rng.random(weights.shape) < 0.001] = np.nan
    packed = pack_sell4(weights, POINTS)
    back = naive.unpack_sell4(packed.streams, packed.numbers, outputs, inputs, POINTS)
    np.testing.assert_array_equal(back, weights)


def test_dense4_interleaves_four_rows() -> None:
    weights = np.arange(5 * 3, dtype=np.float32).reshape(5, 3)
    packed = pack_dense4(weights, POINTS)
    first = packed.streams[0].reshape(2, 3, 4)
    np.testing.assert_array_equal(first[0].T, weights[:4])
    np.testing.assert_array_equal(first[1].T[0], weights[4])
    assert not first[1].T[1:].any()
    assert packed.numbers == (3, 8, 3)


@pytest.mark.parametrize("inputs", [1, 384, 784, 4096, 100_000])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.1, 1.0])
def test_a_block_is_in_reach_of_its_offsets(inputs: int, density: float) -> None:
    for width in (block_inputs(inputs, density, POINTS), row_block_inputs(inputs, density, POINTS)):
        assert 1 <= width <= inputs
        assert (width - 1) * 4 * POINTS // OFFSET_UNIT < 1 << 16


def test_sparsity_counts_nan_as_a_weight() -> None:
    weights = np.zeros((8, 10), np.float32)
    weights[0:4, 2] = 1.0
    weights[5, 3] = np.nan
    found = measure(weights)
    assert (found.nonzeros, found.empty_rows, found.longest_row) == (5, 3, 1)
    assert found.blocks == 2
    assert found.block_fill == pytest.approx(5 / 8)
    assert str(found) == "8x10, 93.8% zero, 4x1 fill 0.62"
