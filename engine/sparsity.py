"""What the zeros of a weight matrix look like: the facts that dispatch decides by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Zeros of W[M, K]."""

    outputs: int
    """M."""
    inputs: int
    """K."""
    nonzeros: int
    empty_rows: int
    """Outputs that depend on no input: they are their bias."""
    longest_row: int
    """Non-zeros of the fullest row."""
    blocks: int
    """4x1 row blocks (four outputs, one input) that have a non-zero."""

    @property
    def block_fill(self) -> float:
        """Share of non-zeros in those blocks, 0.25..1: 1 when pruned in such blocks."""
        return self.nonzeros / (4 * self.blocks) if self.blocks else 0.25

    @property
    def density(self) -> float:
        """Share of non-zeros, 0..1."""
        size = self.outputs * self.inputs
        return self.nonzeros / size if size else 0.0

    def __str__(self) -> str:
        text = f"{self.outputs}x{self.inputs}, {1 - self.density:.1%} zero"
        return text + (f", 4x1 fill {self.block_fill:.2f}" if 0 < self.density < 0.9 else "")


def measure(weights: np.ndarray[Any, Any]) -> Sparsity:
    """Counts the zeros of W[M, K]. NaN and infinity are not zero."""
    outputs, inputs = weights.shape
    present = weights != 0
    per_row = present.sum(axis=1)
    nonzeros = int(per_row.sum())
    blocks = np.zeros((-(-outputs // 4), inputs), bool)
    for lane in range(4):
        rows = present[lane::4]
        blocks[: len(rows)] |= rows
    return Sparsity(
        outputs=outputs,
        inputs=inputs,
        nonzeros=nonzeros,
        empty_rows=int((per_row == 0).sum()),
        longest_row=int(per_row.max(initial=0)),
        blocks=int(np.count_nonzero(blocks)),
    )
