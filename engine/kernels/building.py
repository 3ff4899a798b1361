"""From a row of KERNELS to an address that can be called: numba, and its cache on disk.

Numba keys its cache to the content of one file only, and kernels call functions of others. So
the folder carries a hash of every file in engine/kernels: an edit anywhere starts a new one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
from numba import cfunc, types
from numba.core import config

from engine.kernels.table import KERNELS

SIGNATURE = types.void(*[types.int64] * 5)
"""A compiled kernel: (step, arena, row, points, borders), see kernels/table.py."""


def cache_folder() -> Path:
    """Where machine code is kept: below COLONNADE_CACHE_DIR, or the user's cache folder."""
    root = os.environ.get("COLONNADE_CACHE_DIR")
    if not root:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        root = str(Path(base) / "colonnade")
    return Path(root) / f"kernels-{_sources_hash()}"


@functools.cache
def _sources_hash() -> str:
    digest = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


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
