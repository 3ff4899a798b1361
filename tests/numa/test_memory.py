"""Memory policy by system call, and where pages lie: real on any Linux, telling with two nodes."""

import ctypes
import gc
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from numa.memory import MODES, PAGE_NBYTES, bind, pages, pages_of, parse_numa_maps, policy
from numa.topology import Topology

NODES = [node.id for node in Topology.discover().nodes if node.memory_nbytes]
HAS_POLICY = not policy().startswith("unknown")
needs_policy = pytest.mark.skipif(not HAS_POLICY, reason=f"this kernel's policy is {policy()}")
needs_maps = pytest.mark.skipif(
    not Path("/proc/self/numa_maps").exists(), reason="this kernel shows no numa_maps"
)

NUMA_MAPS = """\
00400000 default file=/usr/bin/python3 mapped=20 mapmax=3 N0=12 N1=8 kernelpagesize_kB=4
01a00000 bind:1 heap anon=100 dirty=100 N1=100 kernelpagesize_kB=4
7f0000000000 bind:1 anon=1024 dirty=1024 active=0 N0=1 N1=1023 kernelpagesize_kB=4
7f1000000000 bind:1 file=/anon_hugepage\\040(deleted) huge anon=3 N1=3 kernelpagesize_kB=2048
7f2000000000 default file=/dev/zero\\040(deleted) dirty=2 N0=2 kernelpagesize_kB=4
7f3000000000 default file=/data/N1=9\\040x.bin mapped=5 N0=5 kernelpagesize_kB=4
7fff00000000 default stack anon=3 dirty=3 N10=3 kernelpagesize_kB=4
7fff10000000 default
"""
KIB = 1024


def test_reads_pages_of_all_sizes() -> None:
    assert parse_numa_maps(NUMA_MAPS.splitlines()) == {
        0: (12 + 1 + 2 + 5) * 4 * KIB,
        1: (8 + 100 + 1023) * 4 * KIB + 3 * 2048 * KIB,
        10: 3 * 4 * KIB,
    }


def test_own_memory_is_all_but_files_with_a_name() -> None:
    assert parse_numa_maps(NUMA_MAPS.splitlines(), files=False) == {
        0: 3 * 4 * KIB,
        1: 1123 * 4 * KIB + 3 * 2048 * KIB,
        10: 3 * 4 * KIB,
    }


def test_pages_of_a_process_that_is_not_there() -> None:
    assert pages(2**22 + 1) == {}


GROWS = """
import json, mmap
from numa.memory import pages
before, block = sum(pages(files=False).values()), mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE)
block.write(b"x" * len(block))
print(json.dumps([sum(pages(files=False).values()) - before, sum(pages().values())]))
"""


@needs_maps
def test_pages_of_a_process_grow_by_what_it_takes() -> None:
    grown, all_pages = json.loads(run(GROWS))  # its own process: in this one, others free memory
    assert 32 << 20 <= grown <= all_pages


@needs_policy
def test_pages_of_a_block_are_counted_once_they_are_touched() -> None:
    with mmap.mmap(-1, 8 * PAGE_NBYTES, flags=mmap.MAP_PRIVATE) as block:
        address = ctypes.addressof(ctypes.c_char.from_buffer(block))
        block[2 * PAGE_NBYTES : 5 * PAGE_NBYTES] = b"x" * 3 * PAGE_NBYTES
        assert sum(pages_of(address, len(block)).values()) == 3 * PAGE_NBYTES
        assert sum(pages_of(address + 3 * PAGE_NBYTES - 1, 2).values()) == 2 * PAGE_NBYTES
        assert set(pages_of(address, len(block))) <= set(NODES)
        assert pages_of(address, 0) == {}
        gc.collect()  # the view of the block, which keeps it open


BOUND = """
import json, mmap, sys, threading
from numa.memory import bind, pages, policy
node, nbytes = int(sys.argv[1]), 64 << 20
reason, before = bind(node), pages(files=False)
block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE)
thread = threading.Thread(target=lambda: block.write(b"x" * nbytes))  # touched by another thread
thread.start(); thread.join()
after = pages(files=False)
grown = {n: after[n] - before.get(n, 0) for n in after}
print(json.dumps([reason, policy(), grown]))
"""


@needs_policy
@needs_maps
@pytest.mark.parametrize("node", NODES)
def test_bound_memory_lies_on_its_node(node: int) -> None:
    reason, said, grown = json.loads(run(BOUND, str(node)))
    assert (reason, said) == ("", f"bind {node}")
    assert grown.pop(str(node)) >= 64 << 20
    assert sum(grown.values()) <= 1 << 20  # of what the interpreter itself takes meanwhile


@needs_policy
def test_a_node_that_is_not_there() -> None:
    missing = max(NODES) + 50
    assert bind(missing) == (
        f"set_mempolicy to node {missing}: EINVAL, the node has no memory, is offline, or the "
        "cpuset forbids it"
    )
    assert policy() == "default"


@pytest.mark.parametrize("node", [-1, 1024, 10**9])
def test_a_number_that_no_node_has(node: int) -> None:
    assert bind(node) == f"set_mempolicy to node {node}: expected a node from 0 to 1023"


@needs_policy
@pytest.mark.parametrize("mode", ["preferred", "bind", "interleave"])
def test_policy_reads_what_the_kernel_holds(mode: str) -> None:
    script = f"""
import ctypes
from numa import memory
mask = memory.NodeMask(1 << {NODES[0]})
assert memory._call(0, {MODES.index(mode)}, ctypes.addressof(mask), memory.MAX_NODES + 1) == 0
print(memory.policy())
"""
    assert run(script) == f"{mode} {NODES[0]}"


REFUSED = """
import os, sys
from numa import memory
from scripts.vm.refusal import refuse_policies
refuse_policies()
"""
"""Makes the kernel refuse both calls, as the default filter of container engines does."""


@needs_policy
def test_a_refusal_is_a_reason() -> None:
    reason, said = run(REFUSED + "print(memory.bind(0)); print(memory.policy())").splitlines()
    assert reason == (
        "set_mempolicy to node 0: EPERM, not permitted, as in containers whose seccomp filter "
        "asks for CAP_SYS_NICE"
    )
    assert said.startswith("unknown: EPERM, not permitted")


@needs_policy
def test_the_launcher_carries_a_refusal_on() -> None:
    cpu = min(os.sched_getaffinity(0))
    script = REFUSED + (
        f"os.execv(sys.executable, [sys.executable, '-m', 'numa.launch', '{cpu}', '0', '--', "
        "sys.executable, '-c', 'import os; print(os.environ[\"COLONNADE_NUMA_BIND\"])'])"
    )
    assert run(script).startswith("set_mempolicy to node 0: EPERM, ")


def test_a_machine_whose_numbers_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numa.memory.SYSCALLS", {})
    assert bind(0) == "set_mempolicy to node 0: ENOSYS, this kernel has no NUMA support"
    assert policy() == "unknown: ENOSYS, this kernel has no NUMA support"


def run(script: str, *arguments: str) -> str:
    """What a fresh interpreter prints: a policy, once set, would stay with the tests."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True, text=True, timeout=120, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
