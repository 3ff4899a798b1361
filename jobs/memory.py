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
    from jobs.planning import Prepared
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
    for number, (machine, group) in enumerate(groupby(seats, key=lambda seat: seat.machine)):
        here = sorted(group, key=lambda seat: seat.place.nodes)
        driver = number == 0 and not joining
        _bound(prepared, here, driver=driver).check(here[0].memory_limit_nbytes, machine)
        _check_processes(prepared, here[0], machine)
        if prepared.stages:
            _check_stages(prepared, here, machine)
            continue
        for nodes, group_of_nodes in groupby(here, key=lambda seat: seat.place.nodes):
            there = list(group_of_nodes)
            where = f"NUMA node {cpulist(nodes)} of {machine}"
            _bound(prepared, there, driver=False).check(there[0].node_memory_nbytes, where)


def _check_processes(prepared: Prepared, seat: Seat, machine: str) -> None:
    """Each process of a scorer against what one may take, where that was said."""
    limit = prepared.process_limit_nbytes
    prices = _processes(prepared, seat)
    if limit is not None and max(prices) > limit:
        more = "do more --stages" if len(prices) == 1 else "do more --stages or fewer --threads"
        raise MemoryPlanError(
            f"{machine}: expected each process of a scorer within {size(limit)} of memory "
            f"(--scorer-memory), got {_said(dict(enumerate(prices)))}; "
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
    )  # fmt: skip
    return (front.engine - front.later, *later)


def _said(prices: dict[int, int]) -> str:
    return ", ".join(f"stage {number} {size(nbytes)}" for number, nbytes in prices.items())


def _check_stages(prepared: Prepared, seats: Sequence[Seat], machine: str) -> None:
    """Each NUMA node against the stages that live there."""
    held: dict[int, list[tuple[int, int]]] = {}
    limits: dict[int, int] = {}
    for seat in seats:
        prices = _processes(prepared, seat)
        for number, (stage, nbytes) in enumerate(zip(seat.stages, prices, strict=True)):
            held.setdefault(stage.place.node, []).append((number, nbytes))
            limits[stage.place.node] = stage.node_memory_nbytes
    for node, stages in sorted(held.items()):
        if (total := sum(nbytes for _, nbytes in stages)) > limits[node]:
            said = ", ".join(f"stage {number} {size(nbytes)}" for number, nbytes in stages)
            raise MemoryPlanError(
                f"NUMA node {node} of {machine}: expected stages within {size(limits[node])} of "
                f"memory, got {size(total)} ({said}); do more --stages, fewer --engines or a "
                "smaller --batch-rows"
            )


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
