"""Border: where values of arrays become panels or pictures in the arena, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Border:
    """A value that crosses between arrays of rows and panels."""

    value: str
    index: int
    """Its place in the table of addresses that kernels get."""
    features: int
    dtype: np.dtype[Any]
    tokens: bool = False
    """Whether the array has a row for each token, and not for each row of the batch."""
