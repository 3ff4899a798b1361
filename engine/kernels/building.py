"""From a row of KERNELS to an address that can be called: numba, and its cache on disk."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba import cfunc, types
from numba.core import config

from engine.kernels.cache import cache_folder
from engine.kernels.table import KERNELS

SIGNATURE = types.void(*[types.int64] * 5)
"""A compiled kernel: (step, arena, row, points, borders), see kernels/table.py."""


@contextmanager
def cached_here() -> Iterator[None]:
    """Numba keeps what is decorated inside in `cache_folder()`, and others' where they want it."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(cache_folder())
    try:
        yield
    finally:
        config.CACHE_DIR = before


@functools.cache
def compiled(name: str) -> Any:
    """The kernel `name` as a numba cfunc; from the disk, or compiled now (a second or so)."""
    source = KERNELS[name].source
    module, _, factory = source.partition(":")
    make: Callable[..., Callable[..., None]] = getattr(importlib.import_module(module), factory)
    python = make(*KERNELS[name].arguments)
    with cached_here():
        return cfunc(SIGNATURE, cache=True, error_model="numpy")(python)


def address(name: str) -> int:
    """Where the machine code of kernel `name` starts, in this process."""
    return int(compiled(name).address)
