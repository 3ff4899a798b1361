"""Which order a segment over images runs in: the planner simulates a few and takes the cheapest.

Pictures shrink and weights grow on the way through a network. In front large values are better
handed on row by row; behind, small values with many weights are better finished one by one, so
that weights pass once a group. So the candidates differ in where the one becomes the other: at a
*waist*, a value that all later ones are made from, so that nothing in front of it need be kept.
None of them (depth first) and all values (layer by layer) are candidates, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine import arena
from engine.arena import Arena, Lifetime
from engine.images.bands import Band, bands_of
from engine.images.layout import Layout
from engine.images.pricing import Traffic, traffic_of
from engine.images.schedule import Ring, Task, Visit, rings_of, visits_of
from engine.images.segment import Order

MB = 1 << 20
ARENA_NBYTES = 16 * MB
"""A thread's activations are kept below so much, where an order can: two threads share an L3 of
32 MB then. Of MobileNetV1 of 90 % zeros, 16 lanes, Zen 4, the order of 14.5 MB did 386 images a
second on one core and 664 on two, one of 26.7 MB 358 and 580 (the best of a busy machine)."""
ALIKE = 1.1
"""Prices are not told apart below: the smaller arena wins. With 8 lanes the order of 7.3 MB did 364
images a second there, one of 13.4 MB, 1 % cheaper, 341."""


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
    bands: tuple[Band, ...]
    traffic: Traffic
    too_large: bool
    """Whether its arena is larger than ARENA_NBYTES."""

    def order(self, *, chosen: bool) -> Order:
        """For people."""
        return Order(self.name, self.arena.nbytes, self.traffic, chosen, self.too_large)


def plans_of(tasks: Sequence[Task], weights_nbytes: Sequence[int], lanes: int) -> list[Plan]:
    """Depth first, layer by layer from a later or an earlier waist on, layer by layer."""
    everything = frozenset(t.write for t in tasks if t.write)
    orders = {frozenset[str](): "depth first"}
    for index in reversed(_waists(tasks)):
        whole = frozenset(t.write for t in tasks[index:] if t.write)
        orders.setdefault(whole, f"whole from {tasks[index].write} on")
    orders[everything] = "layer by layer"
    return [_plan(name, tasks, whole, weights_nbytes, lanes) for whole, name in orders.items()]


def _waists(tasks: Sequence[Task]) -> list[int]:
    """The first of each size of picture that is made by a task behind which no value in front of
    it is read any more."""
    last = {r.value: i for i, task in enumerate(tasks) for r in task.reads}
    found: dict[tuple[int, int], int] = {}
    reach = -1
    for index, task in enumerate(tasks):
        if reach <= index and task.write:
            found.setdefault((task.plane.height, task.plane.width), index)
        reach = max(reach, last.get(task.write, -1))
    return list(found.values())


def cheapest(plans: Sequence[Plan]) -> Plan:
    """Of those whose arena is small enough the cheapest, or a smaller one that costs no more to
    speak of; the smallest where none is."""
    fitting = [p for p in plans if not p.too_large] or list(plans)
    least = min(p.traffic.cycles for p in fitting)
    alike = [p for p in fitting if p.too_large or p.traffic.cycles <= ALIKE * least]
    return min(alike, key=lambda p: p.arena.nbytes)


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
        Lifetime(name, layouts[name].nbytes, ring.first, ring.end, ring.spells)
        for name, ring in rings.items()
        if ring.home == name
    ]
    found = arena.plan(lives)
    return Plan(
        name=name,
        whole=whole,
        visits=tuple(visits),
        rings=rings,
        layouts=layouts,
        arena=found,
        bands=bands_of(tasks, visits, layouts, weights_nbytes),
        traffic=traffic_of(tasks, visits, layouts, weights_nbytes),
        too_large=found.nbytes > ARENA_NBYTES,
    )
