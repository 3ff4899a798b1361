"""Which of numba's passes compile kernels: the few of passes.py, or all of numba's own.

And which of their caches on disk they are kept in.

The few are for versions of numba that they were tried with; any other makes the same loops in more
time. COLONNADE_NUMBA_PASSES=all takes numba's own at once, to measure the gain or find a fault.
"""

# numba ships no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import os
from typing import Any

import numba
from numba.core.caching import FunctionCache

TRIED = ((0, 68),)
"""Versions of numba."""
SWITCH = "COLONNADE_NUMBA_PASSES"


def takes_few(version: str = numba.__version__) -> bool:
    major, minor, *_ = version.split(".")
    return (int(major), int(minor)) in TRIED and os.environ.get(SWITCH, "few") != "all"


KERNEL: dict[str, Any] = {}
"""What numba's decorators of kernels are told, beside."""
PART: dict[str, Any] = {}
"""The same of functions that kernels call, and nobody else."""
CACHE = FunctionCache
"""What keeps machine code on disk."""
if takes_few():
    from engine.kernels import passes

    KERNEL["pipeline_class"] = passes.KernelCompiler
    PART["pipeline_class"] = passes.PartCompiler
    CACHE = passes.KeptCode
