"""Colonnade's engine: an ONNX compiler and its runtime, for one NUMA node.

Letters used in every shape: `M` outputs, `K` inputs, `T` points that make a register tile.
`W[M, K]` are weights, `x[K, T]` is a feature-major panel, `y[M, T]` what a kernel writes.

The names below are imported on first use, so that `import engine` stays light: only `Session`
needs numba.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.compiler import compile as compile
    from engine.explanation import Explanation as Explanation
    from engine.explanation import explain as explain
    from engine.graph import Graph as Graph
    from engine.graph import Value as Value
    from engine.profiling import Profile as Profile
    from engine.profiling import profile as profile
    from engine.program import Program as Program
    from engine.ragged import Ragged as Ragged
    from engine.reader import load as load
    from engine.session import Session as Session
    from engine.stopwatch import Stopwatch as Stopwatch

_HOMES = {
    "Explanation": "engine.explanation",
    "Graph": "engine.graph",
    "Profile": "engine.profiling",
    "Program": "engine.program",
    "Ragged": "engine.ragged",
    "Session": "engine.session",
    "Stopwatch": "engine.stopwatch",
    "Value": "engine.graph",
    "compile": "engine.compiler",
    "explain": "engine.explanation",
    "load": "engine.reader",
    "profile": "engine.profiling",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
