"""Made-up rows for a model whose own are not at hand: seeded, and of the types its inputs want."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.errors import FeedError
from engine.graph import ROWS, Value

Array = np.ndarray[Any, Any]

SMALL = 10
"""Integers are 0..9: they may be counts or places in a table."""
OPEN_DIMENSION = 32
"""Length of a dimension, other than the rows, that the model leaves open."""


def made_up_feeds(inputs: Sequence[Value], rows: int, seed: int = 1) -> dict[str, Array]:
    """An array for each input, the same for the same seed: floats standard normal, uint8 0..255,
    other integers 0..9, bools even. FeedError for an input that numbers do not fit."""
    feeds = {}
    for value in inputs:
        if value.shape is None or value.dtype.kind not in "fiub":
            raise FeedError(
                f"input {value}: expected numbers of a known rank to make up rows; "
                "give real ones with --input"
            )
        # by name, so that the order of inputs does not matter
        random = np.random.default_rng([seed, zlib.crc32(value.name.encode())])
        shape = [_length(dim, rows) for dim in value.shape]
        feeds[value.name] = _numbers(random, value.dtype, shape)
    return feeds


def _length(dim: int | str, rows: int) -> int:
    if dim == ROWS:
        return rows
    return dim if isinstance(dim, int) else OPEN_DIMENSION


def _numbers(random: np.random.Generator, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    if dtype.kind == "f":
        return random.standard_normal(shape, np.float32).astype(dtype)
    highest = {"b": 2}.get(dtype.kind, 256 if dtype == np.uint8 else SMALL)
    return random.integers(0, highest, shape).astype(dtype)
