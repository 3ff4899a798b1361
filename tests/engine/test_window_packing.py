"""The streams of outputs in pairs, against the same packed by plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.window_packing import Taps, pack_conv, pairs_of

Array = np.ndarray[Any, Any]


def by_loops(weights: Array, place: Taps) -> list[list[float]]:
    """Blocks, heads, offsets and values as kernels/conv.py says they lie."""
    outputs, channels, height, width = weights.shape
    most = place.block_channels(width)
    some = -(-channels // -(-channels // most))
    blocks, heads, offsets, values = [], [], [], []
    for first in range(0, channels, some):
        inside = range(first, min(first + some, channels))
        for ky in range(height):
            blocks += [ky * place.dilations[0], first * place.channel_nbytes, len(inside)]
            taps = [(c, kx) for c in inside for kx in range(width)]
            for a, b in pairs_of((weights != 0).reshape(outputs, -1)).tolist():
                has = [
                    (float(weights[a, c, ky, kx]), float(weights[b, c, ky, kx]) * (a != b))
                    for c, kx in taps
                ]
                kinds = [(True, True), (True, False), (False, True)]
                found = [
                    [i for i, (u, v) in enumerate(has) if (u != 0, v != 0) == kind]
                    for kind in kinds
                ]
                heads += [a, b, *map(len, found)]
                for kind, members in zip(kinds, found, strict=True):
                    for i in members:
                        c, kx = taps[i]
                        right = kx * place.dilations[1] * place.lanes * 4
                        offsets.append((c - first) * place.channel_nbytes + right)
                        values += [v for v, wanted in zip(has[i], kind, strict=True) if wanted]
    return [blocks, heads, offsets, values]


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(
    ("shape", "place"),
    [
        ((7, 5, 3, 3), Taps(16, 640, (2, 3))),  # one block a row; an output stays alone
        ((6, 300, 1, 1), Taps(16, 64, pixels=14)),  # blocks of channels, the last one shorter
        ((1, 1, 1, 2), Taps(8, 64)),
        ((16, 200, 2, 3), Taps(8, 64, pixels=14, stride=2)),
    ],
)
def test_pairs_lie_as_plain_loops_lay_them(
    shape: tuple[int, ...], place: Taps, zeros: float
) -> None:
    rng = np.random.default_rng(5)
    weights = rng.standard_normal(shape).astype(np.float32) * (rng.random(shape) >= zeros)
    packed = pack_conv("pair", weights, place)
    expected = by_loops(weights, place)
    assert packed.numbers == (len(expected[0]) // 3,)
    assert [s.dtype.name for s in packed.streams] == ["int32", "int32", "int32", "float32"]
    assert [s.tolist() for s in packed.streams] == expected


def test_more_runs_than_a_number_of_16_bits_counts_are_sorted_as_well() -> None:
    """600 blocks of 38 pairs: the same streams for the first outputs as without the others."""
    weights = np.ones((76, 300 * 2, 1, 1), np.float32)
    place = Taps(16, 64, pixels=512, stride=1)
    assert place.block_channels(1) == 1
    packed = pack_conv("pair", weights, place)
    assert packed.numbers == (600,)
    heads = packed.streams[1].reshape(600, 38, 5)
    assert (heads[..., 2:] == [1, 0, 0]).all() and (heads[..., :2] == heads[0, :, :2]).all()
    assert (packed.streams[2] == 0).all() and len(packed.streams[3]) == 600 * 76
