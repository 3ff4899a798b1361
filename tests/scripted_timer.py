"""A timer for tests of choices in doubt: every answer is written down beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine import dispatch
from engine.ops.image_work import Convolution
from engine.sparsity import Sparsity


class Scripted:
    """Nanoseconds by structure; asked for another one, it fails."""

    def __init__(self, **nanoseconds: float) -> None:
        self.nanoseconds, self.asked = nanoseconds, list[tuple[str, ...]]()

    def __call__(
        self,
        weights: np.ndarray[Any, Any],
        sparsity: Sparsity,
        kernels: Sequence[str],
        points: int,
    ) -> Mapping[str, float]:
        self.asked.append(tuple(kernels))
        return {k: self.nanoseconds[dispatch.structure_of(k)] for k in kernels}

    def convolution(
        self, work: Convolution, structures: Sequence[str], lanes: int
    ) -> Mapping[str, float]:
        self.asked.append(tuple(structures))
        return {s: self.nanoseconds[s] for s in structures}
