"""Whether a plan fits the machines: engines against machines, NUMA nodes and their own bound."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from numa.notation import cpulist, size
from pipeline.errors import MemoryPlanError
from pipeline.plan import price, read_fields
from pipeline.price import stage_prices

if TYPE_CHECKING:
    from jobs.executors import Seat
    from jobs.prepared import Prepared
    from pipeline.price import MemoryPrice


def fits(prepared: Prepared) -> bool:
    """Whether `check_memory` has nothing against the plan on its own seats."""
    try:
        check_memory(prepared, prepared.seats)
    except MemoryPlanError:
        return False
    return True


def check_memory(prepared: Prepared, seats: tuple[Seat, ...], *, joining: bool = False) -> None:
    """Each machine's engines against what that machine can give; the first has the driver,
    unless the machines are `joining` it.

    Where a machine has several NUMA nodes, each node's engines against that node, too: memory
    that is bound to a full node is not taken from another, the kernel kills instead.
    """
    if any(stage.machine != seat.machine for seat in seats for stage in seat.stages):
        _check_across(prepared, seats, driver=not joining)
        return
    for number, (machine, group) in enumerate(groupby(seats, key=lambda seat: seat.machine)):
        here = sorted(group, key=lambda seat: seat.place.nodes)
        driver = number == 0 and not joining
        _bound(prepared, here, driver=driver).check(here[0].memory_limit_nbytes, machine)
        _check_processes(prepared, here[0], machine)
        if prepared.stages:
            _check_stages(prepared, here)
            continue
        for nodes, group_of_nodes in groupby(here, key=lambda seat: seat.place.nodes):
            there = list(group_of_nodes)
            where = f"NUMA node {cpulist(nodes)} of {machine}"
            _bound(prepared, there, driver=False).check(there[0].node_memory_nbytes, where)


def _check_across(prepared: Prepared, seats: Sequence[Seat], *, driver: bool) -> None:
    """Machines against the stages that live there, where scorers have several machines."""
    held: dict[str, list[tuple[str, int]]] = {}
    limits: dict[str, int] = {}
    if driver:
        held[seats[0].machine] = [("driver", prepared.plan.memory.driver)]
    for seat in seats:
        _check_processes(prepared, seat, seat.machine)
        prices = _processes(prepared, seat)
        for number, (stage, nbytes) in enumerate(zip(seat.stages, prices, strict=True)):
            held.setdefault(stage.machine, []).append((f"stage {number}", nbytes))
            limits[stage.machine] = stage.memory_limit_nbytes
    for machine, all_of_it in held.items():
        _expect(all_of_it, limits[machine], machine)
    _check_stages(prepared, seats)


def _expect(held: Sequence[tuple[str, int]], limit: int, where: str) -> None:
    total = sum(nbytes for _, nbytes in held)
    if total > limit:
        said = ", ".join(f"{what} {size(nbytes)}" for what, nbytes in held)
        raise MemoryPlanError(
            f"{where}: expected stages within {size(limit)} of memory, got {size(total)} ({said}); "
            "do more --stages, fewer --engines or a smaller --batch-rows"
        )


def _check_processes(prepared: Prepared, seat: Seat, machine: str) -> None:
    """Each process of a scorer against what one may take, where that was said."""
    limit = prepared.process_limit_nbytes
    prices = _processes(prepared, seat)
    if limit is not None and max(prices) > limit:
        of_stages = (f"stage {number} {size(nbytes)}" for number, nbytes in enumerate(prices))
        said = ", ".join(of_stages) if len(prices) > 1 else f"{size(prices[0])} of one piece"
        more = "do more --stages" if len(prices) == 1 else "do more --stages or fewer --threads"
        raise MemoryPlanError(
            f"{machine}: expected each process of a scorer within {size(limit)} of memory "
            f"(--scorer-memory), got {said}; "
            f"{more}, or a smaller --batch-rows"
        )


def _processes(prepared: Prepared, seat: Seat) -> tuple[int, ...]:
    """Bytes of each process of the seat's scorer: the first, then one for each later stage."""
    plan, front = prepared.plan, _bound(prepared, [seat], driver=False)
    if not prepared.stages:
        return (front.engine,)
    _, *later = stage_prices(
        plan.dataset, prepared.stages, plan.binding,
        threads=max(len(stage.place.cpus) for stage in seat.stages),
        batch_rows=plan.batch_rows, batch_tokens=plan.batch_tokens,
        compiling_nbytes=prepared.program.compiling_nbytes,
    )  # fmt: skip
    return (front.engine - front.later, *later)


def _check_stages(prepared: Prepared, seats: Sequence[Seat]) -> None:
    """Each NUMA node against the stages that live there."""
    held: dict[tuple[str, int], list[tuple[str, int]]] = {}
    limits: dict[tuple[str, int], int] = {}
    for seat in seats:
        prices = _processes(prepared, seat)
        for number, (stage, nbytes) in enumerate(zip(seat.stages, prices, strict=True)):
            key = stage.machine, stage.place.node
            held.setdefault(key, []).append((f"stage {number}", nbytes))
            limits[key] = stage.node_memory_nbytes
    for (machine, node), stages in sorted(held.items()):
        _expect(stages, limits[machine, node], f"NUMA node {node} of {machine}")


def _bound(prepared: Prepared, seats: Sequence[Seat], *, driver: bool) -> MemoryPrice:
    plan = prepared.plan
    return price(
        plan.dataset, prepared.program, plan.binding, engines=len(seats),
        threads=max(len(seat.place.cpus) for seat in seats), batch_rows=plan.batch_rows,
        batch_tokens=plan.batch_tokens, tokenizer=plan.tokenizer,
        fields=read_fields(plan.dataset, plan.before), output=plan.output,
        driver=driver, stages=prepared.stages,
        copies=max(len(seat.place.nodes) for seat in seats),
    )  # fmt: skip
