"""Where machine code, and what was timed with it, is kept on disk.

numba keys its cache to the content of one file only, and kernels call functions of others. So the
folder's name carries a hash of every file in engine/kernels: an edit anywhere starts a new one.
This file does not import numba.
"""

from __future__ import annotations

import functools
import hashlib
import os
from importlib.metadata import version
from pathlib import Path


def cache_folder() -> Path:
    """Below COLONNADE_CACHE_DIR, or the user's cache folder."""
    root = os.environ.get("COLONNADE_CACHE_DIR")
    if not root:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        root = str(Path(base) / "colonnade")
    return Path(root) / f"kernels-{_sources_hash()}"


def is_kept(name: str) -> bool:
    """Whether machine code of that name is on this disk; if not, numba compiles it, for seconds."""
    return any((cache_folder() / name).glob("*/*.nbi"))


@functools.cache
def _sources_hash() -> str:
    digest = hashlib.blake2b(version("numba").encode(), digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
