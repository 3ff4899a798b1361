"""From a row of KERNELS to an address that can be called: numba, and its cache on disk."""

from __future__ import annotations

import fcntl
import functools
import gc
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core import config
from numba.core.ccallback import CFunc

from engine.kernels.cache import cache_folder, is_kept
from engine.kernels.compiling import CACHE, KERNEL
from engine.kernels.table import KERNELS

SIGNATURE = types.void(*[types.int64] * 5)
"""A compiled kernel: (step, arena, row, points, borders), see kernels/table.py."""
MODEL = {"error_model": "numpy"}
"""Dividing by zero is no exception."""


@contextmanager
def kept(name: str) -> Iterator[None]:
    """What numba compiles inside it keeps in a folder `name` of `cache_folder()`, or finds there.

    Where it is not yet there, one process compiles it and the others wait. A folder for each,
    because numba reads and writes an index of all that one folder has of a source file.
    """
    folder, before, collects = cache_folder() / name, config.CACHE_DIR, gc.isenabled()
    with nullcontext() if is_kept(name) else _one_at_a_time(folder):
        config.CACHE_DIR = str(folder)
        gc.disable()  # numba's many small objects stay: looking through them took a tenth of it
        try:
            yield
        finally:
            config.CACHE_DIR = before
            if collects:
                gc.enable()


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """A lock that ends with its process; without one, where the folder cannot hold it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError:
        yield
        return
    with lock:
        with suppress(OSError):  # of a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def compiled(name: str) -> Any:
    """The kernel `name` as a numba cfunc; from the disk, or compiled now (a second or so)."""
    with kept(name):
        return build(name, cache=True)


def build(name: str, cache: bool = False) -> Any:
    """The same, wherever numba's cache is, or without one."""
    module, _, factory = KERNELS[name].source.partition(":")
    make: Callable[..., Callable[..., None]] = getattr(importlib.import_module(module), factory)
    python = make(*KERNELS[name].arguments)
    signature = SIGNATURE.args, SIGNATURE.return_type
    made: Any = CFunc(python, signature, {}, dict(MODEL), **KERNEL)
    if cache:
        made._cache = CACHE(python)
    made.compile()
    return made


def callable_here(python: Callable[..., None], signature: Any) -> Any:
    """A function compiled for calls from Python, which release the interpreter's lock."""
    made = njit(nogil=True, **MODEL)(python)
    made._cache = CACHE(python)
    made.compile(signature)
    made.disable_compile()
    return made


def address(name: str) -> int:
    """Where the machine code of kernel `name` starts, in this process."""
    return int(compiled(name).address)
