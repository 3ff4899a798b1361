"""On which NUMA node new memory is taken, and where a process's memory lies.

Policy is set by system call, since there is no wrapper in the C library. It belongs to a thread,
is inherited by the threads it starts, and survives exec: set early, it covers everything.

The launcher imports this before every engine, so it stays free of anything slow to import.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Iterable, Sequence

from numa.notation import cpulist

SYSCALLS = {"x86_64": (238, 239, 279), "aarch64": (237, 236, 239)}
"""Numbers of set_mempolicy, get_mempolicy and move_pages by machine."""
SET, GET, MOVE = range(3)
PAGE_NBYTES = os.sysconf("SC_PAGE_SIZE")

MODES = ("default", "preferred", "bind", "interleave", "local", "preferred many",
         "weighted interleave")  # fmt: skip
"""Policies by the kernel's number."""
BIND = MODES.index("bind")
MODE_FLAGS = 0b111 << 13
"""Bits that the kernel mixes into the number: static nodes, relative nodes, balancing."""

MAX_NODES = 1024
"""The largest number of nodes that Linux can be built for."""
WORD_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)
NodeMask = ctypes.c_ulong * (MAX_NODES // WORD_BITS)

NAMELESS = "(deleted)"
"""What numa_maps appends to a file without a name: a process's own shared or huge pages."""

REASONS = {
    errno.EPERM: "not permitted, as in containers whose seccomp filter asks for CAP_SYS_NICE",
    errno.ENOSYS: "this kernel has no NUMA support",
    errno.EINVAL: "the node has no memory, is offline, or the cpuset forbids it",
}


def bind(*nodes: int) -> str:
    """Take all new memory of this thread, and of threads it starts later, from these nodes.

    Of several, each page comes from the one that is nearest to the CPU that first touches it.

    "" when the policy holds, else why not; the kernel then serves each page from the node of
    the CPU that first touches it, which pinned threads make the right one. Bound memory never
    spills: when the node is full the kernel ends the process, so price what it will hold.
    """
    where = f"set_mempolicy to node{'s' * (len(nodes) > 1)} {cpulist(nodes)}"
    mask = NodeMask()
    for node in nodes:
        if not 0 <= node < MAX_NODES:
            return f"{where}: expected a node from 0 to {MAX_NODES - 1}"
        mask[node // WORD_BITS] |= 1 << node % WORD_BITS
    # The kernel reads one bit less than it is told, hence + 1.
    code = _call(SET, BIND, ctypes.addressof(mask), MAX_NODES + 1)
    return "" if code == 0 else f"{where}: {_reason(code)}"


def policy() -> str:
    """The calling thread's policy as the kernel tells it: "default", "bind 0", "interleave 0-3".

    "unknown: ..." with the reason where the kernel will not say.
    """
    mode, mask = ctypes.c_int(), NodeMask()
    code = _call(GET, ctypes.addressof(mode), ctypes.addressof(mask), MAX_NODES + 1, 0, 0)
    if code:
        return f"unknown: {_reason(code)}"
    number = mode.value & ~MODE_FLAGS
    name = MODES[number] if number < len(MODES) else f"policy {number}"
    nodes = cpulist(n for n in range(MAX_NODES) if mask[n // WORD_BITS] >> n % WORD_BITS & 1)
    return f"{name} {nodes}".rstrip()


def pages(pid: int | str = "self", *, files: bool = True) -> dict[int, int]:
    """Bytes of a process's memory on each node, {} where the kernel will not say.

    `files=False` leaves out mapped files: their pages lie where the first process that read
    them put them, often long ago, and no policy moves them.
    """
    try:
        with open(f"/proc/{pid}/numa_maps") as lines:  # noqa: PTH123 - pathlib is slow to import
            return parse_numa_maps(lines, files=files)
    except OSError:
        return {}


def pages_of(address: int, nbytes: int) -> dict[int, int]:
    """Bytes of a block of this process on each node, page by page, {} where the kernel will not
    say. Pages at its ends count whole; those that nobody has touched lie nowhere yet."""
    first = address // PAGE_NBYTES
    starts = [PAGE_NBYTES * n for n in range(first, -(-(address + nbytes) // PAGE_NBYTES))]
    nodes = _nodes_of(starts)
    # A page that automatic balancing has hidden, to see who comes for it, is nowhere for some
    # kernels (seen with 6.1). Reading brings it back; one that nobody touched stays nowhere.
    hidden = [start for start, node in zip(starts, nodes, strict=False) if node < 0]
    for start in hidden:
        ctypes.string_at(start, 1)
    found = [node for node in (*nodes, *_nodes_of(hidden)) if node >= 0]
    return {node: PAGE_NBYTES * found.count(node) for node in sorted(set(found))}


def _nodes_of(starts: Sequence[int]) -> list[int]:
    """The node of each page, or minus an error's number; [] where the kernel will not say."""
    asked = (ctypes.c_void_p * len(starts))(*starts)
    status = (ctypes.c_int * len(starts))()
    # Told of no node to move to, the call says where pages are.
    told = (0, len(starts), ctypes.addressof(asked), 0, ctypes.addressof(status), 0)
    return [] if not starts or _call(MOVE, *told) else list(status)


def parse_numa_maps(lines: Iterable[str], *, files: bool = True) -> dict[int, int]:
    """Bytes by node of lines like `7f00 default file=/lib/a.so N0=12 N1=3 kernelpagesize_kB=4`."""
    totals: dict[int, int] = {}
    for line in lines:
        facts = dict(word.partition("=")[::2] for word in line.split()[2:])
        if not files and "file" in facts and not facts["file"].endswith(NAMELESS):
            continue
        page_nbytes = int(facts.get("kernelpagesize_kB", "4")) * 1024
        for key, count in facts.items():
            if key[0] == "N" and key[1:].isdecimal():
                totals[int(key[1:])] = totals.get(int(key[1:]), 0) + int(count) * page_nbytes
    return dict(sorted(totals.items()))


def large_pages(address: int, nbytes: int, wanted: bool) -> None:
    """Asks for large pages there, or for none; whole pages of PAGE_NBYTES. A system that has none,
    or none left, gives small ones, as before."""
    advice = mmap.MADV_HUGEPAGE if wanted else mmap.MADV_NOHUGEPAGE
    ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), advice)


def _call(which: int, *arguments: int) -> int:
    """The call that is named by its place in SYSCALLS: 0, or the error's number."""
    numbers = SYSCALLS.get(os.uname().machine)
    if numbers is None or sys.maxsize < 1 << 32:  # a 32-bit interpreter has other numbers
        return errno.ENOSYS
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    # As longs, or ctypes would cut addresses to 32 bits.
    failed = call(ctypes.c_long(numbers[which]), *map(ctypes.c_long, arguments))
    return ctypes.get_errno() if failed else 0


def _reason(code: int) -> str:
    name = errno.errorcode.get(code, str(code))
    return f"{name}, {REASONS.get(code, os.strerror(code))}"


def trim() -> None:
    """Gives memory that this process no longer uses back to the kernel, where its C library can:
    what was freed is otherwise kept for the next allocation."""
    call = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if call is not None:  # musl has none, and keeps less
        call(0)
