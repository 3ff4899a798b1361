"""What the emulated machine needs of others: the emulator, a kernel with modules, busybox.

They come from the distribution's own packages, as its package manager is configured, into one
cache folder: nothing is installed in the system, and no one need be root. An emulator that is
installed is used as it is. COLONNADE_NUMA_VM names another folder of the same contents:

    vmlinuz    a Linux kernel for x86-64    modules/   its .ko files that image.py wants
    busybox    linked statically            system/    the emulator, unless it is installed
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.vm import image

EMULATOR = "qemu-system-x86_64"
PACKAGES = {EMULATOR: "qemu-system-x86", "busybox": "busybox-static", "kernel": "linux-image-amd64"}
"""Debian's names."""
SECONDS = 300
"""For all that is fetched: 100 MB."""


class MissingParts(Exception):
    """Says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class Parts:
    folder: Path
    emulator: Path
    """Inside the folder, or installed."""

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> Path:
        return self.folder / "modules"

    @property
    def busybox(self) -> Path:
        return self.folder / "busybox"

    def command(self) -> list[str]:
        """The emulator's command line begins with it."""
        firmware = [self._system / f"usr/share/{name}" for name in ("qemu", "seabios")]
        return [str(self.emulator), *(w for f in firmware if f.is_dir() for w in ("-L", str(f)))]

    def environment(self) -> dict[str, str]:
        """What is to be set when it is started."""
        if not self.emulator.is_relative_to(self._system):
            return {}
        triplet = f"{platform.machine()}-linux-gnu"
        folders = [self._system / f"{top}lib/{triplet}" for top in ("usr/", "")]
        return {"LD_LIBRARY_PATH": os.pathsep.join(map(str, folders))}

    @property
    def _system(self) -> Path:
        return self.folder / "system"


def folder() -> Path:
    """Where the parts lie: a set-up for other packages or modules does not disturb it."""
    if named := os.environ.get("COLONNADE_NUMA_VM"):
        return Path(named).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    contents = zlib.crc32(repr((PACKAGES, image.WANTED)).encode())
    return Path(base) / "colonnade" / f"numa-vm-{contents:08x}"


def find() -> Parts:
    """All parts, or MissingParts."""
    if platform.machine() != "x86_64":
        raise MissingParts(
            f"expected a machine of x86_64, got {platform.machine()}; run it on one of those"
        )
    here = folder()
    own, installed = here / "system/usr/bin" / EMULATOR, shutil.which(EMULATOR)
    parts = Parts(here, own if own.exists() or not installed else Path(installed))
    needed = (parts.emulator, parts.kernel, parts.busybox, parts.modules)
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise MissingParts(f"missing {', '.join(missing)}; run: scripts/numa_vm --set-up")
    return parts


def set_up() -> Parts:
    """Fetches what is missing into the folder, all or nothing; needs apt-get."""
    try:
        return find()
    except MissingParts as missing:
        if platform.machine() != "x86_64":
            raise
        if os.environ.get("COLONNADE_NUMA_VM") or not shutil.which("apt-get"):
            names = ", ".join(f"{part} (in Debian's {name})" for part, name in PACKAGES.items())
            raise MissingParts(
                f"expected apt-get, as on Debian, to fetch them, or all of them in the folder that "
                f"COLONNADE_NUMA_VM names: {names}, and modules {', '.join(image.WANTED)} of the "
                f"kernel with those that they depend on; {missing}"
            ) from None
    here = folder()
    here.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=here.parent, prefix="numa-vm-new-") as name:
        try:
            _fetch(Path(name))
        except (subprocess.SubprocessError, OSError) as error:
            raise MissingParts(f"{_said(error)}; look at apt-get's configuration") from error
        shutil.rmtree(here, ignore_errors=True)
        (Path(name) / "parts").rename(here)
    return find()


def _fetch(scratch: Path) -> None:
    """Makes `scratch`/parts of packages that are loaded into `scratch` and unpacked there."""
    parts, opened = scratch / "parts", scratch / "opened"
    (parts / "modules").mkdir(parents=True)
    _apt(scratch, "apt-get", "update", "-qq")
    for package in _download(scratch, "download", _kernel(scratch), PACKAGES["busybox"]):
        _open(package, opened)
    if not shutil.which(EMULATOR):
        fetch = ("install", "-qq", "--yes", "--download-only", "--no-install-recommends")
        for package in _download(scratch, *fetch, PACKAGES[EMULATOR]):
            _open(package, parts / "system")
    for module in image.needed(opened):
        shutil.copy(module, parts / "modules")
    shutil.copy(next(opened.glob("boot/vmlinuz-*")), parts / "vmlinuz")
    shutil.copy(next(opened.rglob("bin/busybox")), parts / "busybox")


def _kernel(scratch: Path) -> str:
    """The package of the newest kernel, on which the one that is always called the same depends."""
    said = _apt(scratch, "apt-cache", "depends", PACKAGES["kernel"])
    kernel = re.search(r"Depends: (linux-image-\d\S+)", said)
    if kernel is None:
        raise OSError(f"{PACKAGES['kernel']}: expected a kernel that it depends on, got {said!r}")
    return kernel[1]


def _download(scratch: Path, *words: str) -> list[Path]:
    """The packages' files; apt-get leaves them in its cache or, by `download`, in its folder."""
    before = set(scratch.rglob("*.deb"))
    _apt(scratch, "apt-get", *words)
    return sorted(set(scratch.rglob("*.deb")) - before)


def _open(package: Path, folder: Path) -> None:
    _run(["dpkg-deb", "--extract", str(package), str(folder)])


def _apt(scratch: Path, program: str, *words: str) -> str:
    """apt-get or apt-cache with lists and cache of its own, so that it need not be root."""
    for name in ("lists/partial", "cache/archives/partial"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    own = {
        "Dir::State::lists": str(scratch / "lists"),
        "Dir::Cache": str(scratch / "cache"),
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
    }
    told = [word for key, value in own.items() for word in ("-o", f"{key}={value}")]
    return _run([program, *told, *words], scratch)


def _run(words: Sequence[str], folder: Path | None = None) -> str:
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=True, timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout


def _said(error: Exception) -> str:
    """The failed command and the last that it said."""
    last = (getattr(error, "stderr", None) or "").strip().splitlines()[-1:]
    return ": ".join([str(error), *last])
