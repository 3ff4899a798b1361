"""A plan that fits the machine but not one of its NUMA nodes is refused before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import small_job
from small_job import Source

import engine
from jobs.driver import Driver
from jobs.executors import Seat
from jobs.interrupts import Interrupts
from jobs.resolving import resolve
from numa.placement import Place
from pipeline.errors import MemoryPlanError
from pipeline.plan import Plan

GIB = 1 << 30


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return small_job.write(tmp_path)


def dry_run(source: Source, tmp_path: Path, seats: tuple[Seat, ...]) -> Plan:
    """What the driver plans for these seats; no executor is asked for anything."""
    given = {
        "model": str(source.model),
        "input": (str(source.data),),
        "output": str(tmp_path / "out"),
        "dry_run": True,
    }
    plans: list[Plan] = []
    with Interrupts() as interrupts:
        driver = Driver(resolve(given), None, lambda event, tally: None, interrupts)  # type: ignore[arg-type]
        assert driver.run(seats, plans.append) is None
    return plans[0]


def test_each_numa_node_must_hold_its_engines(source: Source, tmp_path: Path) -> None:
    seats = tuple(
        Seat(n, "host", Place(n, n // 2, (n,)), 16 * GIB, node_memory_nbytes=8 * GIB)
        for n in range(4)
    )
    plan = dry_run(source, tmp_path, seats)
    small = 2 * plan.memory.engine - 1  # two engines sit on each node
    tight = (*seats[:2], *(replace(s, node_memory_nbytes=small) for s in seats[2:]))
    with pytest.raises(MemoryPlanError, match="NUMA node 1 of host"):
        dry_run(source, tmp_path, tight)
    dry_run(source, tmp_path, tuple(replace(s, node_memory_nbytes=small + 1) for s in seats))


def test_a_place_over_two_nodes_has_the_memory_of_both_and_weights_on_each(
    source: Source, tmp_path: Path
) -> None:
    place = Place(0, 2, (0, 1), others=(3,))
    wide = Seat(0, "host", place, 16 * GIB, node_memory_nbytes=8 * GIB)
    narrow = replace(wide, place=replace(place, others=()))
    program = engine.compile(engine.load(source.model))
    held, alone = dry_run(source, tmp_path, (wide,)), dry_run(source, tmp_path, (narrow,))
    assert held.memory.session - alone.memory.session == program.held_nbytes > 0
    tight = replace(wide, node_memory_nbytes=held.memory.engine - 1)
    with pytest.raises(MemoryPlanError, match="NUMA node 2-3 of host"):
        dry_run(source, tmp_path, (tight,))
    dry_run(source, tmp_path, (replace(wide, node_memory_nbytes=held.memory.engine),))
