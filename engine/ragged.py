"""Ragged: sequences of different lengths, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import FeedError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """`values[offsets[i] : offsets[i + 1]]` belongs to row i: the layout of an Arrow list."""

    values: Array
    """[tokens, ...]: the sequences of all rows, one after the other."""
    offsets: Array
    """int64[rows + 1], rising, from 0 to the number of tokens."""

    def __post_init__(self) -> None:
        good = self.offsets.ndim == 1 and len(self.offsets) and self.offsets.dtype == np.int64
        if not good or self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise FeedError(
                f"Ragged: expected int64 offsets from 0 to {len(self.values)}, got "
                f"{self.offsets.dtype.name}{list(self.offsets.shape)}; give one more than rows"
            )
        if bool((np.diff(self.offsets) < 0).any()):
            row = int(np.argmax(np.diff(self.offsets) < 0))
            raise FeedError(f"Ragged: expected rising offsets, got a fall at row {row}")

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any = None) -> Ragged:
        """From one array or list a row."""
        arrays = [np.asarray(row, dtype) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays], dtype=np.int64)])
        values = np.concatenate(arrays) if arrays else np.empty(0, dtype or np.float32)
        return cls(values, offsets.astype(np.int64))

    @property
    def lengths(self) -> Array:
        """int64[rows]: tokens of each."""
        return np.diff(self.offsets)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.values.dtype)

    def __len__(self) -> int:
        """Rows."""
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Array:
        """One row's sequence."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[Array]:
        return (self[row] for row in range(len(self)))
