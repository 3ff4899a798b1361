"""Where an engine's threads and memory really are, as the kernel tells it: the proof of a place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from numa import launch
from numa.affinity import thread_cpus
from numa.memory import pages, policy
from numa.notation import cpulist, size
from numa.placement import Place

MIN_SHARE_LOCAL = 0.9
"""Below this the engine works on another node's memory. Some pages are always elsewhere: those
that a process got before it was placed, and single pages that the kernel keeps for itself."""


@dataclass(frozen=True, slots=True)
class PlacementReport:
    """What became of a place in the process that was to live there; prints as one line."""

    pid: int
    node: int
    cpus: tuple[int, ...]
    threads: int
    """Live threads of the process."""
    threads_off_place: int
    """Those that may run on a CPU outside the place."""
    pages: Mapping[int, int] = field(hash=False)
    """Own memory by node, bytes; mapped files, whose pages others placed, are left out."""
    share_local: float | None
    """Of the own memory, what lies on the place's nodes; None where the kernel does not say."""
    policy: str
    """The kernel's word, as "bind 0"."""
    note: str
    """"" if memory is bound to the node, otherwise why not."""
    others: tuple[int, ...] = ()
    """More nodes, of a place that reaches over several."""

    @property
    def as_planned(self) -> bool:
        """Whether threads, policy and pages are all where the place says."""
        local = self.share_local is None or self.share_local >= MIN_SHARE_LOCAL
        return local and not self.threads_off_place and not self.note

    def to_json(self) -> dict[str, Any]:
        """The same in plain dicts and lists; nodes are strings, as JSON's keys must be."""
        said = asdict(self) | {"cpus": list(self.cpus), "others": list(self.others)}
        said["as_planned"] = self.as_planned
        return said | {"pages": {str(node): nbytes for node, nbytes in self.pages.items()}}

    def __str__(self) -> str:
        in_place = self.threads - self.threads_off_place
        share = "memory's whereabouts unknown"
        if self.share_local is not None:
            share = f"{self.share_local:.0%} of {size(sum(self.pages.values()))} local"
        nodes, word = cpulist({self.node, *self.others}), "nodes" if self.others else "node"
        bound = f"memory not bound: {self.note}" if self.note else "memory bound to it"
        return (
            f"engine on {word} {nodes}, cpus {cpulist(self.cpus)}: "
            f"{in_place} of {self.threads} threads in place, {share}, {bound}"
        )


def report(place: Place) -> PlacementReport:
    """Look at the calling process. Call it on a thread that has the process's memory policy."""
    masks = thread_cpus().values()
    home = frozenset(place.cpus)
    own = pages(files=False)
    total = sum(own.values())
    said = policy()
    local = sum(own.get(node, 0) for node in place.nodes)
    return PlacementReport(
        pid=os.getpid(),
        node=place.node,
        cpus=place.cpus,
        threads=len(masks),
        threads_off_place=sum(1 for mask in masks if not mask <= home),
        pages=own,
        share_local=local / total if total else None,
        policy=said,
        note="" if said == f"bind {cpulist(place.nodes)}" else _why_not(said),
        others=place.others,
    )


def _why_not(said: str) -> str:
    """The launcher's reason, or for want of one what the kernel says of the policy."""
    return os.environ.get(launch.BIND) or f"policy is {said}; start through numa.launch"
