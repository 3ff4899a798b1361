"""How wide the processor's registers are: what decides how many points make a tile.

Read without numba, because a program is compiled where no kernel runs. As numba does, it obeys
NUMBA_CPU_FEATURES, so that a tier can be pinned for machines that differ.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path


@functools.cache
def register_lanes() -> int:
    """Floats in one register of this machine's widest kind that kernels use: 16 or 8."""
    pinned = os.environ.get("NUMBA_CPU_FEATURES")
    if pinned is not None:
        return 16 if "+avx512f" in pinned.split(",") else 8
    return 16 if "avx512f" in _flags(Path("/proc/cpuinfo")) else 8


def _flags(path: Path) -> frozenset[str]:
    """Of the first processor; none where the file has no such line, as on other systems."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    line = next((x for x in lines if x.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())
