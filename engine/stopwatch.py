"""Stopwatch: times kernels once for each processor and kind of matrix, and remembers it on disk.

Machine code, and numba with it, is loaded only where something is not known yet. What is known
lies beside the kernels' machine code, in a file for each kind of processor:

    {"32 points, 768x768, density 0.93, blocks 1.00": {"gemm_f32_4x32": 8123.0, ...}, ...}

in nanoseconds. The file is a memory and nothing else: whoever finds it damaged, or cannot write
it, times again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from engine.images.confirming import kind_of
from engine.kernels.cache import cache_folder
from engine.kernels.registers import processor_name
from engine.ops.image_work import Convolution
from engine.sparsity import Sparsity

Array = np.ndarray[Any, Any]

OUTPUTS = 256
"""Rows of a matrix that are timed at most: they tell what all of them take, and are packed fast."""


class Stopwatch:
    """An engine.confirming.Timer that times what it does not know yet, on one core."""

    def __init__(self, folder: Path | None = None) -> None:
        """What is known is kept in `folder`, or with the kernels' machine code."""
        name = blake2b(processor_name().encode(), digest_size=8).hexdigest()
        self.path = (folder or cache_folder()) / f"timings-{name}.json"
        self._known = _read(self.path)

    def __call__(
        self, weights: Array, sparsity: Sparsity, kernels: Sequence[str], points: int
    ) -> Mapping[str, float]:
        """Nanoseconds of each kernel for W[M, K] and one tile of `points`."""
        return self._remembered(
            _kind(sparsity, points), kernels, lambda: _timed(weights, kernels, points)
        )

    def convolution(
        self, work: Convolution, structures: Sequence[str], lanes: int
    ) -> Mapping[str, float]:
        """Nanoseconds of each way to pack its weights, for a lane group of images."""
        return self._remembered(
            kind_of(work, lanes), structures, lambda: _timed_structures(work, structures, lanes)
        )

    def _remembered(
        self, kind: str, kernels: Sequence[str], timed: Callable[[], dict[str, float]]
    ) -> Mapping[str, float]:
        """Nanoseconds of each kernel for work of that kind, timed where they are not known."""
        if not self._known.get(kind, {}).keys() >= set(kernels):
            self._known[kind] = timed()
            _write(self.path, _read(self.path) | self._known)
        return {kernel: self._known[kind][kernel] for kernel in kernels}


def _kind(sparsity: Sparsity, points: int) -> str:
    """What matrices that take the same time have in common."""
    blocks = 4 * sparsity.blocks / max(1, sparsity.outputs * sparsity.inputs)
    return (
        f"{points} points, {sparsity.outputs}x{sparsity.inputs}, "
        f"density {sparsity.density:.2f}, blocks {blocks:.2f}"
    )


def _timed(weights: Array, kernels: Sequence[str], points: int) -> dict[str, float]:
    from engine.measuring import time_in_turns  # machine code comes with it

    part = weights[:OUTPUTS]
    scale = 1e9 * len(weights) / max(1, len(part))
    found = time_in_turns(kernels, part, points)
    return {kernel: round(scale * seconds, 1) for kernel, seconds in found.items()}


def _timed_structures(work: Convolution, structures: Sequence[str], lanes: int) -> dict[str, float]:
    from engine.images.timing import time_structures  # machine code comes with it

    found = time_structures(work, structures, lanes)
    return {structure: round(1e9 * seconds, 1) for structure, seconds in found.items()}


def _read(path: Path) -> dict[str, dict[str, float]]:
    """What the file knows: nothing, where it is missing or not what `_write` wrote."""
    try:
        found = json.loads(path.read_text())
        return {
            str(kind): {str(kernel): float(ns) for kernel, ns in times.items() if ns > 0}
            for kind, times in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, known: Mapping[str, Mapping[str, float]]) -> None:
    """Whole or not at all: readers may come at any time. A folder that takes nothing is no error,
    the next compilation times again."""
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text(json.dumps(known, indent=1, sort_keys=True))
        mine.replace(path)
