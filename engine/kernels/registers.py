"""What the processor's registers are like: how wide, and how weights best get into them.

Read without numba, because a program is compiled where no kernel runs. As numba does, it obeys
NUMBA_CPU_FEATURES and NUMBA_CPU_NAME, so that a tier can be pinned for machines that differ.
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


@functools.cache
def shuffles_are_free() -> bool:
    """Whether a shuffle costs less than a load of one weight: with AVX2, and on all of AMD's.

    Bytes do not depend on it, only the instructions that bring weights into registers. Intel's
    AVX-512 shuffles on a port of the multiply-adds; Zen 4 has a third one for it.
    """
    if register_lanes() == 8:
        return True
    name = os.environ.get("NUMBA_CPU_NAME")
    if name is not None:
        return name.startswith("znver")
    return "AuthenticAMD" in _words(Path("/proc/cpuinfo"), "vendor_id")


def asks_ahead() -> bool:
    """Whether weights are asked for before their use (kernels/streams.py): on Zen 4 with AVX-512.
    AVX2's code has no load to spare for it, and Intel's was not measured."""
    return register_lanes() == 16 and shuffles_are_free()


def has_three_quarters(points: int) -> bool:
    """Whether 17 to 24 rows of a tile of 32 `points` run in three registers of eight lanes: on
    Zen 4, whose wide registers take two turns; others' take one, and two of them hold all 32."""
    return points == 32 and shuffles_are_free()


def processor_name() -> str:
    """What kernels are compiled for and run on: the processor's model, and what pins a tier."""
    pinned = [os.environ.get(f"NUMBA_CPU_{key}", "") for key in ("NAME", "FEATURES")]
    return "; ".join([_line(Path("/proc/cpuinfo"), "model name"), *pinned])


def _flags(path: Path) -> frozenset[str]:
    return _words(path, "flags")


def _words(path: Path, key: str) -> frozenset[str]:
    return frozenset(_line(path, key).split())


def _line(path: Path, key: str) -> str:
    """Of the first processor; empty where the file has no such line, as on other systems."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((x for x in lines if x.startswith(key)), "").partition(":")[2].strip()
