"""One processor's caches and NUMA node: quick answers, where a whole Topology is not needed."""

from __future__ import annotations

from pathlib import Path

from numa import sysfs
from numa.topology import CPU_FOLDER, SYSTEM


def cache_nbytes(cpu: int, level: int, root: Path = SYSTEM) -> int | None:
    """Bytes of the processor's data or unified cache of a level; None where the system hides it."""
    folders = sysfs.numbered(root / CPU_FOLDER / f"cpu{cpu}" / "cache", "index").values()
    for folder in folders:
        if sysfs.number(folder / "level") == level and sysfs.text(folder / "type") != "Instruction":
            return sysfs.nbytes(folder / "size")
    return None


def numa_node(cpu: int, root: Path = SYSTEM) -> int | None:
    """The NUMA node of a processor; None where the kernel has none or the system hides it."""
    return min(sysfs.numbered(root / CPU_FOLDER / f"cpu{cpu}", "node"), default=None)
