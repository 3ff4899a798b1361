"""Small files of /sys and /proc, read so that a missing or odd one is None, never an error.

Containers hide parts of /sys, hypervisors leave values out, CPUs vanish between two reads; a
topology with a gap in it still places engines.
"""

from __future__ import annotations

from pathlib import Path

from numa.errors import NumaError
from numa.notation import parse_cpulist

SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def text(path: Path) -> str | None:
    """What the file says, stripped, or None where it is missing, unreadable or empty."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def number(path: Path) -> int | None:
    """A whole number, or None ("max" and other words included)."""
    said = text(path)
    return int(said) if said is not None and said.isdecimal() else None


def numbers(path: Path) -> tuple[int, ...]:
    """Whole numbers with spaces between, as in a node's `distance`."""
    words = (text(path) or "").split()
    return tuple(int(w) for w in words) if all(w.isdecimal() for w in words) else ()


def cpus(path: Path) -> frozenset[int] | None:
    """The CPUs of a file like `online`, `cpulist` or `shared_cpu_list`."""
    said = text(path)
    return None if said is None else _cpus_of(said)


def nbytes(path: Path) -> int | None:
    """A size such as "32K" or "1024"."""
    said = text(path)
    if said is None:
        return None
    digits, unit = (said[:-1], SUFFIXES[said[-1]]) if said[-1] in SUFFIXES else (said, 1)
    return int(digits) * unit if digits.isdecimal() else None


def numbered(folder: Path, prefix: str) -> dict[int, Path]:
    """The entries prefix0, prefix1, ... of a folder by number, ascending."""
    try:
        names = [p.name for p in folder.iterdir()]
    except OSError:
        return {}
    found = [int(n[len(prefix) :]) for n in names if _is_numbered(n, prefix)]
    return {n: folder / f"{prefix}{n}" for n in sorted(found)}


def memory_nbytes(meminfo: Path) -> int | None:
    """MemTotal of /proc/meminfo or of a node's meminfo."""
    for line in (text(meminfo) or "").splitlines():
        words = line.split()
        if "MemTotal:" in words[:-1]:
            kib = words[words.index("MemTotal:") + 1]
            return int(kib) * 1024 if kib.isdecimal() else None
    return None


def allowed(root: Path, field: str) -> frozenset[int] | None:
    """Cpus_allowed_list or Mems_allowed_list: what affinity and cpuset leave this process."""
    for line in (text(root / "proc/self/status") or "").splitlines():
        key, _, value = line.partition(":")
        if key == field:
            return _cpus_of(value) or None
    return None


def _cpus_of(said: str) -> frozenset[int] | None:
    try:
        return parse_cpulist(said)
    except NumaError:
        return None


def _is_numbered(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name[len(prefix) :].isdecimal()
