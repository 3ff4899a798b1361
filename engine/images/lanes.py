"""How many images go side by side: the planner prices what the processor's registers offer.

A group of 16 images fills a register of AVX-512. One of 8 has rings half as large, of which more
lie in L2 and in a core's share of L3, and the convolutions of most layers take it two pixels a
register (cycles.py); but it reads its weights twice as often. Where a wide register takes two
turns, as on Zen 4, the rest costs little, too, and which is cheaper depends on the network; where
prices are alike, rings are what two threads share an L3 for. Where a register takes one turn, only
full registers are considered.

Convolutions of the two add in other orders, so the lanes are recorded with a run's choices: they
are the planner's where a run begins, and the same on every machine that goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.dispatch import Choice
from engine.graph import Graph
from engine.images.building import priced
from engine.images.planning import ALIKE
from engine.images.pricing import Traffic
from engine.kernels.registers import register_lanes, shuffles_are_free
from engine.ops.image_work import Convolution, ImageWork
from numa.notation import size
from numa.topology import SYSTEM, Topology

HALF = 8
"""Images of a group that fills half a register of AVX-512."""

Structures = Callable[[str, Convolution, int], Choice]
"""Node, work and lanes -> how its weights are packed, with its predicted cost."""


@dataclass(frozen=True, slots=True)
class ImageGroup:
    """Nodes that become one segment over images."""

    works: tuple[tuple[str, ImageWork], ...]
    wanted: frozenset[str]
    """Values that are read behind it."""


@dataclass(frozen=True, slots=True)
class LanePrice:
    """What groups of so many images are predicted to cost."""

    lanes: int
    convolutions: float
    """Cycles of an image, all it reads in L1 and L2; other kernels take alike with all lanes."""
    traffic: Traffic
    """Of a group, with this machine's L3."""
    arena_nbytes: int
    """Rings of a thread."""
    choices: Mapping[str, Choice]
    """Of each convolution, by node."""
    chosen: bool = False

    @property
    def cycles(self) -> float:
        """Of an image."""
        return self.convolutions + self.traffic.cycles / self.lanes

    def __str__(self) -> str:
        return (
            f"{'*' if self.chosen else ' '} {self.lanes} images: "
            f"{self.cycles / 1e6:.2f} Mcycles an image, {self.convolutions / 1e6:.2f} of them for "
            f"convolutions; {self.traffic}, {size(self.arena_nbytes)} of rings a thread"
        )


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of a program's images, and why."""

    lanes: int
    reason: str
    considered: tuple[LanePrice, ...] = ()

    def choice(self, node: str) -> Choice | None:
        """How a convolution's weights are packed, where that was found out for the price."""
        chosen = (p for p in self.considered if p.chosen)
        return next((p.choices.get(node) for p in chosen), None)

    def lines(self) -> list[str]:
        return [f"{self.lanes} images side by side: {self.reason}", *map(str, self.considered)]

    def to_json(self) -> dict[str, Any]:
        considered = [
            {
                "lanes": p.lanes,
                "cycles": p.cycles,
                "convolutions": p.convolutions,
                "l3_nbytes": p.traffic.l3_nbytes,
                "memory_nbytes": p.traffic.memory_nbytes,
                "arena_nbytes": p.arena_nbytes,
                "chosen": p.chosen,
            }
            for p in self.considered
        ]
        return {"lanes": self.lanes, "reason": self.reason, "considered": considered}


def lanes_here() -> tuple[int, ...]:
    """What a planner may choose among on this machine: a register, and a half where that is cheap.
    The first is taken where nobody chooses."""
    wide = register_lanes()
    return (wide, HALF) if wide > HALF and shuffles_are_free() else (wide,)


def l3_share(root: Path = SYSTEM) -> int:
    """Bytes of L3 that a core can count on: those of the cache over the cores that share it, others
    than ours among them."""
    return Topology.discover(root).cache_nbytes(3)


def cheapest_lanes(
    graph: Graph,
    groups: Sequence[ImageGroup],
    structures: Structures,
    among: Sequence[int],
    columns: bool,
    l3_nbytes: int,
) -> Lanes:
    """Those with the fewest predicted cycles an image, or smaller rings that cost no more to speak
    of."""
    prices = [_price(graph, groups, structures, lanes, columns, l3_nbytes) for lanes in among]
    least = min(p.cycles for p in prices)
    alike = [p for p in prices if p.cycles <= ALIKE * least]
    best = min(alike, key=lambda p: p.arena_nbytes)
    reason = f"cheapest with {size(l3_nbytes)} of L3 a core"
    if best.cycles > least:
        reason = f"smallest rings of prices that are alike with {size(l3_nbytes)} of L3 a core"
    return Lanes(best.lanes, reason, tuple(replace(p, chosen=p is best) for p in prices))


def _price(
    graph: Graph,
    groups: Sequence[ImageGroup],
    structures: Structures,
    lanes: int,
    columns: bool,
    l3_nbytes: int,
) -> LanePrice:
    """All segments over images together; the largest arena is the one that a thread needs."""
    choices: dict[str, Choice] = {}
    found = Traffic(0, 0)
    arenas = [0]
    for group in groups:
        for node, work in group.works:
            if isinstance(work, Convolution):
                choices[node] = structures(node, work, lanes)
        packed = {node: choice.kernel for node, choice in choices.items()}
        traffic, arena_nbytes = priced(
            graph, group.works, set(group.wanted), packed, lanes, columns, l3_nbytes
        )
        found += traffic
        arenas.append(arena_nbytes)
    cycles = sum(c.cycles or 0.0 for choice in choices.values() for c in _taken(choice))
    return LanePrice(lanes, cycles / lanes, found, max(arenas), choices)


def _taken(choice: Choice) -> list[Any]:
    return [c for c in choice.candidates if c.kernel == choice.kernel]
