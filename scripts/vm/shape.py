"""What the emulated machine is made of: NUMA nodes with processors, and some without."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations

LOCAL, NEAR, FAR = 10, 12, 21
"""Distances within a node, between two of one socket and between sockets, as firmware has them."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Nodes in a row, each with as many cores; then nodes of memory alone."""

    nodes: int
    """With processors."""
    memory_only: int = 0
    cores: int = 1
    """A node."""
    smt: int = 1
    """CPUs a core."""
    sockets: int = 0
    """Neighbouring nodes share a socket where there are fewer of these; 0 is one a node."""
    mebibytes: int = 1024
    """Memory of each node."""

    @classmethod
    def parse(cls, nodes: str, **more: int) -> Shape:
        """ "2", "4", or "2+1" for two nodes and one of memory alone; `more` as the fields."""
        match = re.fullmatch(r"([1-9])(?:\+([1-9]))?", nodes)
        if match is None:
            raise ValueError(f"expected nodes as in 2, 4 or 2+1, got {nodes!r}")
        shape = cls(int(match[1]), int(match[2] or 0), **more)
        if shape.nodes % shape._sockets:
            raise ValueError(
                f"expected sockets that share {shape.nodes} nodes evenly, got {shape._sockets}"
            )
        return shape

    @property
    def _sockets(self) -> int:
        return self.sockets or self.nodes

    @property
    def cpus(self) -> int:
        return self.nodes * self.cores * self.smt

    def arguments(self) -> list[str]:
        """The emulator's words for it."""
        count = self.nodes + self.memory_only
        cores = self.nodes * self.cores // self._sockets
        words = ["-m", f"{count * self.mebibytes}M", "-smp"]
        words.append(f"{self.cpus},sockets={self._sockets},cores={cores},threads={self.smt}")
        for n in range(count):
            words += ["-object", f"memory-backend-ram,id=m{n},size={self.mebibytes}M"]
            words += ["-numa", f"node,nodeid={n},memdev=m{n}{self._cpus_of(n)}"]
        for a, b in combinations(range(count), 2):
            words += ["-numa", f"dist,src={a},dst={b},val={self.distance(a, b)}"]
        return words

    def _cpus_of(self, node: int) -> str:
        if node >= self.nodes:
            return ""
        each = self.cores * self.smt
        return f",cpus={node * each}-{(node + 1) * each - 1}"

    def distance(self, a: int, b: int) -> int:
        """As the kernel will tell it."""
        if a == b:
            return LOCAL
        each = self.nodes // self._sockets
        return NEAR if max(a, b) < self.nodes and a // each == b // each else FAR
