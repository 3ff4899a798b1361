"""The planner's choice among orders of visits, and what it says of each."""

from __future__ import annotations

import itertools
from dataclasses import replace

from engine.images.planning import Plan, cheapest, plans_of
from engine.images.schedule import Task
from engine.ops.image_work import Plane, Read, Window


def chain(planes: list[Plane], band: int = 1) -> list[Task]:
    """Convolutions of 3x3, each to the next plane, then an export."""
    tasks = [Task("v0", planes[0], band, ())]
    for i, (before, plane) in enumerate(itertools.pairwise(planes), 1):
        stride = before.height // plane.height
        window = Window(3, stride, 1, 1)
        tasks.append(Task(f"v{i}", plane, band, (Read(f"v{i - 1}", before, window, window),)))
    last = planes[-1]
    return [*tasks, Task("", last, band, (Read(f"v{len(planes) - 1}", last, padded=False),))]


def named(plans: list[Plan]) -> dict[str, Plan]:
    return {p.name: p for p in plans}


def test_large_maps_go_depth_first_and_cost_less_so() -> None:
    tasks = chain([Plane(32, 112, 112)] * 5)
    plans = plans_of(tasks, [0, *[8 << 10] * 4, 0], 8)
    by_name = named(plans)
    deep, layers = by_name["depth first"], by_name["layer by layer"]
    assert deep.arena.nbytes < layers.arena.nbytes / 4
    assert deep.traffic.cycles < layers.traffic.cycles
    assert cheapest(plans, 8).name != "layer by layer"


def test_large_weights_behind_small_maps_pass_once_a_group() -> None:
    tasks = chain([Plane(512, 7, 7)] * 5)
    plans = plans_of(tasks, [0, *[4 << 20] * 4, 0], 8)
    by_name = named(plans)
    deep, layers = by_name["depth first"], by_name["layer by layer"]
    assert layers.traffic.cycles < deep.traffic.cycles, "each row reads all weights again"
    assert cheapest(plans, 8).name == "layer by layer"


def test_a_plan_that_needs_too_much_memory_is_not_taken() -> None:
    tasks = chain([Plane(64, 56, 56)] * 4)
    plans = plans_of(tasks, [0, *[64 << 20] * 3, 0], 8)  # such weights ask for layer by layer
    small = cheapest(plans, 1)  # for one lane 2 MB may be used
    assert small.arena.nbytes == min(p.arena.nbytes for p in plans)
    assert "arena" in str(small) and "MB from memory" in str(small)


def test_orders_change_where_a_picture_shrinks_and_nothing_in_front_is_needed_any_more() -> None:
    big, small = Plane(8, 16, 16), Plane(16, 8, 8)
    tasks = chain([big, big, small, small])
    names = [p.name for p in plans_of(tasks, [0] * 5, 8)]
    assert names == ["depth first", "whole from v2 on", "layer by layer"]
    skip = Read("v1", big, Window(1, 2), padded=False)  # keeps v1 wanted behind v2
    tasks[3] = replace(tasks[3], reads=(*tasks[3].reads, skip))
    plans = plans_of(tasks, [0] * 5, 8)
    assert [p.name for p in plans] == ["depth first", "whole from v3 on", "layer by layer"]
    assert [len([v for v in p.visits if v.task == 3]) for p in plans] == [8, 8, 1]


def test_what_was_touched_a_moment_ago_costs_nothing() -> None:
    tasks = chain([Plane(4, 8, 8)] * 2)
    plans = plans_of(tasks, [0, 0, 0], 8)
    assert all(p.traffic.memory_nbytes == 0 for p in plans)
