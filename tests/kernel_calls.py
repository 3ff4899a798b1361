"""Calls one compiled kernel on numpy arrays, as the session would on an arena."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.kernels.building import address, compiled
from engine.kernels.table import KERNELS

Array = np.ndarray[Any, Any]


def aligned(shape: tuple[int, ...]) -> Array:
    """float32 array on a cache line, full of a value that no test expects."""
    count = int(np.prod(shape))
    raw = np.zeros(count * 4 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array = raw[start : start + count * 4].view(np.float32).reshape(shape)
    array[...] = -12345.0
    return array


def panel(features: int, x: Array | None = None, points: int = 16) -> Array:
    """panel[features + 3, points], with x[rows, features] transposed into it."""
    made = aligned((features + 3, points))
    if x is not None:
        made[:features, : len(x)] = x.T
    return made


def call(
    name: str,
    operands: Sequence[Array | int],
    *,
    live: int | None = None,
    row: int = 0,
    borders: Sequence[Array] = (),
) -> None:
    """Runs the kernel once; arrays become addresses (the arena starts at address 0)."""
    words = [address(name)]
    words += [o if isinstance(o, int) else int(o.ctypes.data) for o in operands]
    step = np.array(words, np.int64)
    table = np.array([b.ctypes.data for b in borders] or [0], np.int64)
    live = KERNELS[name].points if live is None else live
    compiled(name).ctypes(step.ctypes.data, 0, row, live, table.ctypes.data)


def tiled(x: Array, points: int) -> Array:
    """x[tokens, K] in tiles of so many lanes: [tile, K, points], other lanes full of NaN."""
    tiles = -(-len(x) // points)
    made = aligned((tiles * x.shape[1] + 3, points))
    made[...] = np.nan
    for token, row in enumerate(x):
        tile, lane = divmod(token, points)
        made[tile * x.shape[1] : (tile + 1) * x.shape[1], lane] = row
    return made


def untiled(made: Array, tokens: int, features: int) -> Array:
    """x[tokens, K] again."""
    blocks = made[: len(made) // features * features].reshape(-1, features, made.shape[1])
    return blocks.transpose(0, 2, 1).reshape(-1, features)[:tokens]


def offsets_of(lengths: list[int]) -> Array:
    """int64[sequences + 1]: tokens before each."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
