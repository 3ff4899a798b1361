"""Which order a segment over images runs in: the planner simulates a few and takes the cheapest.

Small values with large weights behind them (the last layers of a network) are better finished
first, so that weights pass once a group; large ones (the first layers) are better handed on row by
row. So the candidates differ in one number: how large a value may be to be finished first. None
(depth first) and all (layer by layer) are among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine import arena
from engine.arena import Arena, Lifetime
from engine.images.layout import Layout
from engine.images.pricing import Traffic, traffic_of
from engine.images.schedule import Ring, Task, Visit, rings_of, visits_of
from numa.notation import size

MB = 1 << 20
LIMITS = (0, MB // 2, MB, 2 * MB, 4 * MB, 8 * MB)
"""Bytes, of all images of a group, up to which a value is finished before it is read."""
ARENA_NBYTES_A_LANE = 2 * MB
"""A thread's activations are kept below so many, where an order can."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An order of visits and what follows from it."""

    name: str
    whole: frozenset[str]
    """Values that are finished before they are read."""
    visits: tuple[Visit, ...]
    rings: Mapping[str, Ring]
    layouts: Mapping[str, Layout]
    arena: Arena
    traffic: Traffic

    def __str__(self) -> str:
        return f"{self.name}: arena {size(self.arena.nbytes)}, {self.traffic}"


def plans_of(tasks: Sequence[Task], weights_nbytes: Sequence[int], lanes: int) -> list[Plan]:
    """Depth first, then with more and more values whole, then layer by layer."""
    nbytes = {
        t.write: 4 * lanes * t.plane.channels * t.plane.height * t.plane.width
        for t in tasks
        if t.write
    }
    found: list[Plan] = []
    for limit in (*LIMITS, max(nbytes.values(), default=0)):
        whole = frozenset(name for name, n in nbytes.items() if n <= limit)
        if found and whole == found[-1].whole:
            continue
        name = f"values up to {size(limit)} whole"
        if not whole:
            name = "depth first"
        elif len(whole) == len(nbytes):
            name = "layer by layer"
        found.append(_plan(name, tasks, whole, weights_nbytes, lanes))
    return found


def cheapest(plans: Sequence[Plan], lanes: int) -> Plan:
    """Of those whose arena is small enough; the smallest where none is."""
    fitting = [p for p in plans if p.arena.nbytes <= ARENA_NBYTES_A_LANE * lanes]
    if not fitting:
        return min(plans, key=lambda p: p.arena.nbytes)
    return min(fitting, key=lambda p: p.traffic.cycles)


def _plan(
    name: str,
    tasks: Sequence[Task],
    whole: frozenset[str],
    weights_nbytes: Sequence[int],
    lanes: int,
) -> Plan:
    visits = visits_of(tasks, whole)
    rings = rings_of(tasks, visits)
    planes = {t.write: t.plane for t in tasks if t.write}
    layouts = {name: Layout(ring, planes[name], lanes) for name, ring in rings.items()}
    lives = [
        Lifetime(name, layouts[name].nbytes, ring.first, ring.end)
        for name, ring in rings.items()
        if ring.home == name
    ]
    traffic = traffic_of(tasks, visits, layouts, weights_nbytes)
    return Plan(name, whole, tuple(visits), rings, layouts, arena.plan(lives), traffic)
