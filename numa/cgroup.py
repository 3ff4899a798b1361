"""What the control groups leave this process: processor time and memory, versions 1 and 2.

A limit holds for a group and all below it, so the smallest on the way up counts. Inside a
container /proc/self/cgroup may name a path that is not there, because the container's own group
is mounted as the root: folders that are missing are passed over and the walk ends at that root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from numa import sysfs

MOUNTS = PurePosixPath("sys/fs/cgroup")
ANYWHERE = "0::/\n1:cpu:/\n2:memory:/"
"""Read as /proc/self/cgroup where that is missing: look at the mounted roots."""


class Limits(NamedTuple):
    """None stands for no limit. `cpus` is processor time in CPUs, so 1.5 is 150 ms in 100 ms."""

    cpus: float | None
    memory_nbytes: int | None


def limits(root: Path = Path("/")) -> Limits:
    """The tightest limits on the process whose /proc and /sys lie below `root`."""
    cpus: list[float] = []
    memory: list[int] = []
    for folder in _groups(root, "cpu"):
        quota = _cpu_max(folder) or _cfs_quota(folder)
        cpus += [] if quota is None else [quota]
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = sysfs.number(folder / name)
            memory += [] if limit is None else [limit]
    return Limits(min(cpus, default=None), min(memory, default=None))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The process's groups for a controller, innermost first, up to the mounted roots."""
    for line in (sysfs.text(root / "proc/self/cgroup") or ANYWHERE).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has no controllers in its line and lies at the root or, in a mixed set-up,
        # under unified/. Version 1 has a folder for each controller or for a pair of them.
        mounts = dict.fromkeys((controllers, controller)) if controllers else ("", "unified")
        # A group outside this cgroup namespace reads "/../x"; only what is mounted can be seen.
        steps = [s for s in path.split("/") if s not in ("", "..")]
        for mount in mounts:
            for depth in range(len(steps), -1, -1):
                yield root / MOUNTS / mount / "/".join(steps[:depth])


def _cpu_max(folder: Path) -> float | None:
    """Version 2: "QUOTA PERIOD" in microseconds, or "max PERIOD"."""
    return _ratio(*sysfs.numbers(folder / "cpu.max"))


def _cfs_quota(folder: Path) -> float | None:
    """Version 1: quota and period in two files; a quota of -1 is none."""
    quota = sysfs.number(folder / "cpu.cfs_quota_us")
    return _ratio(quota or 0, sysfs.number(folder / "cpu.cfs_period_us") or 0)


def _ratio(quota: int = 0, period: int = 0, *_: int) -> float | None:
    return quota / period if quota > 0 and period > 0 else None
