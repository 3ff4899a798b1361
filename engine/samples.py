"""Made-up rows for a model whose own are not at hand: seeded, and of the types its inputs want."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.batch import Batch, known_by_length
from engine.errors import FeedError
from engine.graph import ROWS, TOKENS, Value

Array = np.ndarray[Any, Any]

SMALL = 10
"""Integers are 0..9: they may be counts or places in a table."""
OPEN_DIMENSION = 32
"""Length of a dimension, other than rows and tokens, that the model leaves open."""


def made_up_feeds(
    inputs: Sequence[Value],
    rows: int,
    seed: int = 1,
    *,
    tokens: int = OPEN_DIMENSION,
    id_limits: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """An array for each input, the same for the same seed: floats standard normal, uint8 0..255,
    other integers 0..9, bools even. FeedError for an input that numbers do not fit.

    Sequences have `tokens` tokens each, ids below `Program.id_limits`; masks are ones, token types
    zeros, positions count from 0.
    """
    lengths = Batch(rows, np.arange(rows + 1, dtype=np.int64) * tokens)
    feeds = {}
    for value in inputs:
        if value.shape is None or value.dtype.kind not in "fiub":
            raise FeedError(
                f"input {value}: expected numbers of a known rank to make up rows; "
                "give real ones with --input"
            )
        if make := known_by_length(value):
            feeds[value.name] = make(lengths).reshape(rows, tokens).astype(value.dtype)
            continue
        # by name, so that the order of inputs does not matter
        random = np.random.default_rng([seed, zlib.crc32(value.name.encode())])
        shape = [_length(dim, rows, tokens) for dim in value.shape]
        limit = (id_limits or {}).get(value.name)
        feeds[value.name] = _numbers(random, value.dtype, shape, limit)
    return feeds


def _length(dim: int | str, rows: int, tokens: int) -> int:
    free = {ROWS: rows, TOKENS: tokens}
    return dim if isinstance(dim, int) else free.get(dim, OPEN_DIMENSION)


def _numbers(
    random: np.random.Generator, dtype: np.dtype[Any], shape: Sequence[int], limit: int | None
) -> Array:
    if dtype.kind == "f":
        return random.standard_normal(shape, np.float32).astype(dtype)
    highest = limit or {"b": 2}.get(dtype.kind, 256 if dtype == np.uint8 else SMALL)
    return random.integers(0, highest, shape).astype(dtype)
