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
from engine.images.layout import Layout
from engine.images.pricing import Traffic, traffic_of
from engine.images.schedule import Ring, Task, Visit, rings_of, visits_of
from numa.notation import size

MB = 1 << 20
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
        Lifetime(name, layouts[name].nbytes, ring.first, ring.end, ring.spells)
        for name, ring in rings.items()
        if ring.home == name
    ]
    traffic = traffic_of(tasks, visits, layouts, weights_nbytes)
    return Plan(name, whole, tuple(visits), rings, layouts, arena.plan(lives), traffic)
