"""ALiBi by the place of the key alone: slopes times places, found out by trying it.

    y[n, h, q, k] = slopes[h] * (k - last)                                  MPT
    y[n, h, q, k] = slopes[h] * (cumsum(mask)[n, k] - minus) * mask[n, k]   BLOOM, minus 1

What all keys of a query have in common a softmax does not see. So the first is a table of
distances: a query may take its own place from its keys'. The second is not, because a mask may
leave out tokens in the middle: it becomes a bias a key and head, computed as the model would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import EngineError
from engine.graph import ROWS, TOKENS, Node
from engine.rewrites.key_rules import PROBE_ROWS, PROBE_TOKENS
from engine.rewrites.near_rules import LONG, POSITIONS, NearRule
from engine.rewrites.rewrite import Array, View
from engine.rewrites.trial import is_read, sources, tried_on_mask

_ROUNDED = 3e-7
"""How far numbers may be from a slope times a place, by the largest: float32 rounds them."""


@dataclass(frozen=True, slots=True)
class CountRule:
    """y by how many tokens the mask has counted, see the top."""

    mask: str
    slopes: Array
    """[heads]"""
    minus: int

    def __str__(self) -> str:
        return f"a slope for each of {len(self.slopes)} heads, by how many tokens {self.mask} has"


def place_rule_of(name: str, part: Sequence[Node], view: View) -> NearRule | CountRule | str:
    """The rule of a value that the nodes compute, or why it has none."""
    masks = [n for n in sources(part, view) if is_read(n, part)]
    if len(masks) > 1 or any(not _counts(n, view) for n in masks):
        return f"it reads {sorted(masks)}, which are not one mask that is fed"
    part_of = _Part(name, part, view, masks[0] if masks else "")
    try:
        return _by_count(part_of) if masks else _by_place(part_of)
    except EngineError as error:
        return f"it could not be tried: {error}"


def _counts(name: str, view: View) -> bool:
    """Whether its tokens can be counted."""
    value = view.value(name)
    whole = value is not None and value.shape == (ROWS, TOKENS) and value.dtype.kind in "iu"
    return whole and view.is_input(name)


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    nodes: Sequence[Node]
    view: View
    mask: str
    """The one that is read; or none."""

    def run(self, mask: Array) -> Array:
        """y[N or 1, heads, S] of a mask [N, S], where queries are all alike."""
        y = tried_on_mask(self.nodes, self.name, self.mask, mask, self.view)
        y = y.reshape((1,) * (4 - y.ndim) + y.shape)
        if y.dtype != np.float32 or y.shape[3] != mask.shape[1] or (y != y[:, :, :1]).any():
            raise EngineError(f"{self.name} is {y.dtype.name}{list(y.shape)}, or queries differ")
        return np.asarray(y[:, :, 0])


def _by_place(part: _Part) -> NearRule | str:
    """The table of distances, on to as many as one can have."""
    short, long = (part.run(np.ones((1, n)))[0] for n in (PROBE_TOKENS, LONG))
    slopes = (long[:, -1].astype(np.float64) - long[:, 0]) / (LONG - 1)
    for y in (short, long):
        line = y[:, :1] + slopes[:, None] * np.arange(y.shape[1])
        if not np.allclose(y, line, rtol=0, atol=_ROUNDED * float(np.abs(y).max())):
            return f"{part.name} is no slope times the place of the key"
    distances = np.arange(1 - POSITIONS, POSITIONS)  # of a query to a key before it
    return NearRule(None, -1, -1, (-slopes[:, None] * distances).astype(np.float32), 0.0)


def _by_count(part: _Part) -> CountRule | str:
    masks = np.random.default_rng(1).choice([0, 1, 1, 2, 3], (PROBE_ROWS, PROBE_TOKENS))
    masks[0] = 1
    masks[1] = np.minimum(masks[1], 1)
    y = part.run(masks)
    if len(y) != len(masks):
        return f"{part.name} is the same for all rows"
    slopes = y[0, :, 1] - y[0, :, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.round(1 - y[0, :, 0] / slopes)
    if not (first == first[0]).all():
        return f"{part.name} counts from another number in each head"
    places = (masks.cumsum(axis=1) - first[0]) * masks
    want = slopes[:, None] * places[:, None].astype(np.float32)
    if not np.allclose(y, want, rtol=_ROUNDED, atol=0):
        return f"{part.name} is no slope times how many tokens are counted"
    return CountRule(part.mask, slopes, int(first[0]))
