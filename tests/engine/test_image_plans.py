"""The planner's choice among orders of visits, and what it says of each."""

from __future__ import annotations

import itertools
from dataclasses import replace

from engine.arena import Arena
from engine.images.planning import ARENA_NBYTES, Plan, cheapest, plans_of
from engine.images.pricing import Traffic
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
    assert cheapest(plans).name != "layer by layer"


def test_large_weights_behind_small_maps_pass_once_a_group() -> None:
    tasks = chain([Plane(512, 7, 7)] * 5)
    plans = plans_of(tasks, [0, *[4 << 20] * 4, 0], 8)
    by_name = named(plans)
    deep, layers = by_name["depth first"], by_name["layer by layer"]
    assert layers.traffic.cycles < deep.traffic.cycles, "each row reads all weights again"
    assert cheapest(plans).name == "layer by layer"


def test_a_plan_that_needs_too_much_memory_is_not_taken() -> None:
    tasks = chain([Plane(128, 56, 56)] * 4)
    weights = [0, *[64 << 20] * 3, 0]  # such weights ask for layer by layer
    layers = plans_of(chain([Plane(64, 28, 28)] * 4), weights, 8)
    assert cheapest(layers).name == "layer by layer" and not cheapest(layers).too_large
    plans = plans_of(tasks, weights, 16)
    small, whole = cheapest(plans), named(plans)["layer by layer"]
    assert whole.arena.nbytes > ARENA_NBYTES and whole.too_large and not small.too_large
    assert small.arena.nbytes == min(p.arena.nbytes for p in plans)
    assert whole.traffic.cycles < small.traffic.cycles
    assert "too large" in str(whole.order(chosen=False))
    assert str(small.order(chosen=True)).startswith("* depth first: arena")


def test_where_all_are_too_large_the_smallest_is_taken() -> None:
    plans = plans_of(chain([Plane(1024, 112, 112)] * 3), [0, 1 << 30, 1 << 30, 0], 16)
    assert all(p.too_large for p in plans)
    assert cheapest(plans).arena.nbytes == min(p.arena.nbytes for p in plans)


def test_of_plans_that_cost_alike_the_one_with_the_smaller_arena_is_taken() -> None:
    large, small, dear = (
        replace(plan, name=name, traffic=Traffic(0, cycles * 4), arena=Arena((), nbytes))
        for plan, name, cycles, nbytes in (
            (plans_of(chain([Plane(4, 8, 8)] * 2), [0] * 3, 8)[0], "large", 1000, 9 << 20),
            (plans_of(chain([Plane(4, 8, 8)] * 2), [0] * 3, 8)[0], "small", 1090, 4 << 20),
            (plans_of(chain([Plane(4, 8, 8)] * 2), [0] * 3, 8)[0], "dear", 1110, 2 << 20),
        )
    )
    assert cheapest([large, small, dear]).name == "small"


def test_a_band_knows_its_halo_and_what_a_visit_touches() -> None:
    """Rows of 16 pixels (17 with padding that keeps sets of L1 apart) of 8 channels and 8 lanes."""
    tasks = chain([Plane(8, 16, 16), Plane(8, 16, 16), Plane(16, 8, 8)], band=2)
    deep = plans_of(tasks, [0, 100, 200, 0], 8)[0]
    source, same, half = deep.bands
    slots = {n: layout.slot_nbytes for n, layout in deep.layouts.items()}
    assert [(b.value, b.rows, b.height, b.halo) for b in deep.bands] == [
        ("v0", 2, 16, 0),
        ("v1", 2, 16, 2),  # a window of 3 rows moves on by 2, of the 4 that it read
        ("v2", 2, 8, 1),
    ]
    assert [b.visits for b in deep.bands] == [8, 8, 4]
    assert source.nbytes == 2 * slots["v0"]
    assert same.nbytes == 3 * slots["v0"] + 2 * slots["v1"] + 100  # a row less at the upper edge
    assert half.rows_nbytes == 4 * slots["v1"] + 2 * slots["v2"] and half.weights_nbytes == 200
    assert str(same) == "band 2 of 16, halo 2"


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
