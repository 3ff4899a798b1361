"""Zeros at places drawn at random: what matters to the benches is how many there are."""

from __future__ import annotations

import numpy as np

from scripts.models.writer import Array

BLOCK = 4
"""Outputs of a 4x1 row block: zero or not together, for one input."""


def zero(w: Array, sparsity: float, blocks: bool, random: np.random.Generator) -> None:
    """Exactly round(sparsity * size) weights of w[M, K] become zero, in place, at places drawn at
    random; with `blocks`, whole 4x1 row blocks (four outputs, one input), as near as those allow.
    """
    if not blocks:
        w.flat[random.permutation(w.size)[: round(sparsity * w.size)]] = 0
        return
    if w.shape[0] % BLOCK:
        raise ValueError(f"blocks: expected a multiple of {BLOCK} outputs, got {w.shape[0]}")
    kept = np.ones((w.shape[0] // BLOCK, w.shape[1]), np.bool_)
    kept.flat[random.permutation(kept.size)[: round(sparsity * kept.size)]] = False
    w *= np.repeat(kept, BLOCK, axis=0)
