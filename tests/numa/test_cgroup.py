"""Limits of control groups of both versions, at home and inside containers."""

from pathlib import Path

import pytest

from numa.cgroup import Limits, limits

GIB = 1 << 30
NONE_V1 = str((1 << 63) - 4096)

CASES = {
    "no control groups": ({}, Limits(None, None)),
    "v2 without limits": (
        {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "max 100000",
         "sys/fs/cgroup/a/memory.max": "max"},
        Limits(None, None),
    ),
    "v2, the parent is tighter": (
        {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
         "sys/fs/cgroup/a/cpu.max": "150000 100000", "sys/fs/cgroup/a/b/memory.max": str(4 * GIB),
         "sys/fs/cgroup/a/memory.max": str(2 * GIB)},
        Limits(1.5, 2 * GIB),
    ),
    "v2, a neighbour's limit is not ours": (
        {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/c/cpu.max": "1000 100000"},
        Limits(None, None),
    ),
    "v2, container with its own namespace": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000",
         "sys/fs/cgroup/memory.max": str(GIB)},
        Limits(0.5, GIB),
    ),
    "v2, group outside the namespace": (
        {"proc/self/cgroup": "0::/../../other", "sys/fs/cgroup/memory.max": str(GIB)},
        Limits(None, GIB),
    ),
    "v1": (
        {"proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/b/c\n0::/",
         "sys/fs/cgroup/cpu,cpuacct/b/cpu.cfs_quota_us": "200000",
         "sys/fs/cgroup/cpu,cpuacct/b/cpu.cfs_period_us": "50000",
         "sys/fs/cgroup/cpu,cpuacct/b/c/cpu.cfs_quota_us": "-1",
         "sys/fs/cgroup/cpu,cpuacct/b/c/cpu.cfs_period_us": "50000",
         "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(3 * GIB)},
        Limits(4.0, 3 * GIB),
    ),
    "v1 under the controller's own name": (
        {"proc/self/cgroup": "4:cpu,cpuacct:/b", "sys/fs/cgroup/cpu/b/cpu.cfs_quota_us": "100000",
         "sys/fs/cgroup/cpu/b/cpu.cfs_period_us": "100000"},
        Limits(1.0, None),
    ),
    "v1, container that sees only its own root": (
        {"proc/self/cgroup": "5:memory:/docker/0123", "sys/fs/cgroup/memory/memory.limit_in_bytes":
         str(GIB)},
        Limits(None, GIB),
    ),
    "mixed: v1 limits, v2 for the rest": (
        {"proc/self/cgroup": "5:memory:/a\n0::/s",
         "sys/fs/cgroup/unified/s/cpu.max": "300000 100000",
         "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(GIB)},
        Limits(3.0, GIB),
    ),
    "names with colons": (
        {"proc/self/cgroup": "0::/a:b", "sys/fs/cgroup/a:b/memory.max": str(GIB)},
        Limits(None, GIB),
    ),
    "odd contents": (
        {"proc/self/cgroup": "nonsense\n::\n0::/a", "sys/fs/cgroup/a/cpu.max": "x y z",
         "sys/fs/cgroup/a/memory.max": "-5"},
        Limits(None, None),
    ),
    "a period of zero": (
        {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "100 0"},
        Limits(None, None),
    ),
    "/proc/self/cgroup is hidden": (
        {"sys/fs/cgroup/cpu.max": "100000 100000",
         "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB)},
        Limits(1.0, GIB),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_limits(name: str, tmp_path: Path) -> None:
    files, expected = CASES[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
    assert limits(tmp_path) == expected


def test_the_running_machine_answers() -> None:
    cpus, nbytes = limits()
    assert cpus is None or cpus > 0
    assert nbytes is None or nbytes > 0
