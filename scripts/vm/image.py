"""The boot image: a few kernel modules and one static program, which mount this machine's root.

The kernel unpacks a cpio archive in its "newc" form and starts /init of it. That mounts this
machine's files read only, lays a RAM disk over them for what the command writes, mounts the
folders that are to be written for good, and runs the command in there.
"""

from __future__ import annotations

import gzip
import lzma
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

WANTED = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""Modules that the guest needs; they bring those that they depend on."""

MODULE_NAME = re.compile(r"(.+?)\.ko(\.xz|\.gz)?")
OPENED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
}
"""Ending of a module's file -> what its bytes become."""

FOLDERS = ("bin", "modules", "proc", "sys", "dev", "host", "ram", "root")

INIT = r"""#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in @modules@; do insmod /modules/$module; done
shared=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o $shared,cache=loose,ro host /host || poweroff -f
mount -t tmpfs -o size=50% ram /ram
mkdir -p /ram/upper /ram/work
mount -t overlay -o lowerdir=/host,upperdir=/ram/upper,workdir=/ram/work overlay /root
told=$(sed 's/.*told=\([^ ]*\).*/\1/' /proc/cmdline)
n=0
while read -r folder; do
    mkdir -p "/root$folder"
    mount -t 9p -o $shared,cache=none "write$n" "/root$folder" || poweroff -f
    n=$((n + 1))
done <"/host$told/folders"
(sleep "$(cat "/host$told/seconds")"; poweroff -f) &
mount --move /sys /root/sys
mount --move /dev /root/dev
mkdir -p /root/dev/shm
mount -t tmpfs shm /root/dev/shm
mount -t cgroup2 cgroup /root/sys/fs/cgroup
ip link set lo up
hostname emulated
stty raw -echo </root/dev/ttyS1
mount --move /proc /root/proc
chroot /root /bin/sh "$told/command" </root/dev/null >/root/dev/ttyS1 2>&1
echo $? >/root/dev/ttyS2
sync
poweroff -f
"""
"""ttyS0 is the kernel's own console, ttyS1 the command's output, ttyS2 its exit status. `told` is
a folder of this machine: the command, how long it may take, and the folders to write."""


def write_image(modules: Path, busybox: Path, image: Path) -> None:
    """The image at `image`, of the modules somewhere below a folder and a static busybox."""
    order = needed(modules)
    entries: dict[str, bytes | None] = dict.fromkeys(FOLDERS)
    entries["bin/busybox"] = busybox.read_bytes()
    entries |= {f"modules/{_name(path)}": _module(path) for path in order}
    entries["init"] = INIT.replace("@modules@", " ".join(map(_name, order))).encode()
    image.write_bytes(gzip.compress(b"".join(_archive(entries)), 1))


def needed(modules: Path) -> list[Path]:
    """The files of WANTED and of what they depend on, in the order in which they are loaded."""
    found = {_name(path): path for path in modules.rglob("*.ko*") if _match(path)}
    if "9p" not in found:
        raise FileNotFoundError(f"{modules}: expected modules {', '.join(WANTED)}, got no 9p.ko")
    names = (name for wanted in WANTED for name in _closure(wanted, found))
    return [found[name] for name in dict.fromkeys(names)]


def _closure(name: str, found: dict[str, Path]) -> Iterator[str]:
    """Modules in the order in which they can be loaded; what has no file is built in."""
    if name in found:
        depends = re.search(rb"depends=([^\0]*)\0", _module(found[name]))
        for other in depends[1].decode().split(",") if depends else ():
            yield from _closure(other.replace("-", "_"), found)
        yield name


def _name(path: Path) -> str:
    match = _match(path)
    assert match, path
    return match[1].replace("-", "_")


def _match(path: Path) -> re.Match[str] | None:
    return MODULE_NAME.fullmatch(path.name)


def _module(path: Path) -> bytes:
    match = _match(path)
    assert match, path
    return OPENED[match[2] or ""](path.read_bytes())


def _archive(entries: dict[str, bytes | None]) -> Iterator[bytes]:
    """A cpio archive; None is a folder, and every file may be executed."""
    for number, (name, content) in enumerate((*entries.items(), ("TRAILER!!!", b"")), 1):
        mode = (stat.S_IFDIR if content is None else stat.S_IFREG) | 0o755
        size, path = len(content or b""), name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08x" % f for f in fields) + path
        yield head + bytes(-len(head) % 4)
        yield (content or b"") + bytes(-size % 4)
