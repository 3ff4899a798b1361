"""What a machine's kernel makes of our places; prints one JSON object. For the emulated machine.

topology, places   as this process finds them
reports            by place: of a process that was started there (numa/report.py)
astray             of one that was bound to the last node, not to that of its place
confined           topology, and what became of binding to each node, in a cpuset that allows
                   the first node's CPUs and memory alone
refused            the report of a process on the first place, where the kernel refuses policies
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from numa import launch
from numa.memory import bind
from numa.notation import cpulist
from numa.placement import Place, places
from numa.topology import Topology

GROUP = Path("/sys/fs/cgroup/confined")
WORKER = """
import ctypes, json, sys, threading
from numa.memory import pages_of
from numa.placement import Place
from numa.report import report
place = Place(0, int(sys.argv[1]), tuple(map(int, sys.argv[2].split(","))))
block, touched, gate = bytearray(32 << 20), threading.Event(), threading.Event()
def touch():
    block[:] = b"x" * len(block)
    touched.set()
    gate.wait()
for target in (touch, gate.wait, gate.wait): threading.Thread(target=target).start()
touched.wait()
address = ctypes.addressof(ctypes.c_char.from_buffer(block))
print(json.dumps(report(place).to_json() | {"block": pages_of(address, len(block))}))
gate.set()
"""


def report_of(place: Place, *prefix: str, bound: int | None = None) -> dict[str, Any]:
    """The report of a process of 4 threads on its place, one of which filled a block of 32 MiB;
    its memory `bound` to another node than its own."""
    home = place if bound is None else replace(place, node=bound)
    words = [str(place.node), ",".join(map(str, place.cpus))]
    command = [*prefix, *launch.command(home), sys.executable, "-c", WORKER, *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def confine(node: int, cpus: Sequence[int]) -> None:
    """Moves this process into a cpuset of one node, as a container engine would."""
    (GROUP.parent / "cgroup.subtree_control").write_text("+cpuset")
    GROUP.mkdir()
    (GROUP / "cpuset.mems").write_text(str(node))
    (GROUP / "cpuset.cpus").write_text(cpulist(cpus))
    (GROUP / "cgroup.procs").write_text(str(os.getpid()))


def main() -> None:
    topology = Topology.discover()
    found = places(topology)
    with ThreadPoolExecutor() as pool:  # for the time it takes: the processes are on their own
        reports = [pool.submit(report_of, place) for place in found]
        astray = pool.submit(report_of, found[0], bound=topology.nodes[-1].id)
        refused = pool.submit(report_of, found[0], sys.executable, "-m", "scripts.vm.refusal")
    facts: dict[str, Any] = {
        "topology": topology.to_json(),
        "places": [asdict(place) for place in found],
        "reports": [report.result() for report in reports],
        "astray": astray.result(),
        "refused": refused.result(),
    }
    confine(found[0].node, topology.nodes[0].cpus)
    facts["confined"] = {
        "topology": Topology.discover().to_json(),
        "places": [asdict(place) for place in places(Topology.discover())],
        "bind": {str(node.id): bind(node.id) for node in topology.nodes},
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
