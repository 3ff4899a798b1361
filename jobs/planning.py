"""From a job's spec to all that is decided before its first shard is lent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engine
from engine.pixels import Pixels, with_pixels
from engine.settings import switches_of
from engine.stages import compile_stage, cut
from numa.notation import cpulist, size
from pipeline.binding import Binding, TokenRules, bind
from pipeline.dataset import Dataset
from pipeline.errors import MemoryPlanError
from pipeline.fingerprint import fingerprint, model_sha256
from pipeline.hooks import AFTER, BEFORE, Hook
from pipeline.manifest import RunRecord, read_run
from pipeline.picture_binding import pixels
from pipeline.picture_rules import PictureRules, parse
from pipeline.pictures import check_pillow
from pipeline.plan import make_plan, price, read_fields
from pipeline.price import stage_prices
from pipeline.scorer_spec import ScorerSpec
from pipeline.stage_spec import StagePlace
from pipeline.text import TokenizerFile, check_fits
from pipeline.where import parse as parse_where

if TYPE_CHECKING:
    from engine.confirming import Timer
    from jobs.executors import Seat
    from jobs.spec import JobSpec
    from pipeline.plan import MemoryPrice, Plan


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that is decided before the first shard is lent."""

    plan: Plan
    run: RunRecord
    specs: tuple[ScorerSpec, ...]
    program: engine.Program
    stages: tuple[engine.Program, ...]
    """Of a model in stages; () for one in one piece."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model that was compiled for rows of a schema, and bound to its fields."""

    program: engine.Program
    binding: Binding
    fed: Mapping[str, Pixels]
    """Inputs of pictures that the program normalises itself."""
    tokenizer: TokenizerFile | None
    pictures: PictureRules | None
    stages: tuple[engine.Program, ...]
    """The same in --stages pieces, () for one."""


def fit(
    spec: JobSpec,
    schema: Any,
    choices: Mapping[str, str] | None = None,
    timer: Timer | None = None,
) -> Fitted:
    """Compiles the model, with the kernels that an earlier run chose if they are given, and binds
    fields of a pyarrow.Schema to its inputs. A timer is for who compiles once for all engines."""
    tokenizer = TokenizerFile.of(spec.tokenizer) if spec.tokenizer else None
    pictures = parse(spec.image) if spec.image else None
    graph = engine.load(spec.model)
    fed = pixels(schema, graph.inputs, spec.bindings, pictures)
    whole, switches = with_pixels(graph, fed), switches_of(spec.off)
    program = engine.compile(whole, choices=choices, timer=timer, **switches)
    stages = cut(whole, spec.stages, **switches) if spec.stages > 1 else ()
    binding = bind(
        schema, program.inputs, program.outputs, spec.bindings, spec.keep,
        on_error=spec.on_error, rules=_token_rules(spec, program), pictures=pictures,
    )  # fmt: skip
    if any(f.picture for f in binding.fields):
        check_pillow()
    if tokenizer is not None:
        check_fits(tokenizer, binding)
    pieces = tuple(compile_stage(stage, program.choices, **switches) for stage in stages)
    return Fitted(program, binding, fed, tokenizer, pictures, pieces)


def prepare(spec: JobSpec, seats: tuple[Seat, ...]) -> Prepared:
    """Reads footers, compiles the model, binds fields to inputs and prices the plan."""
    dataset = Dataset.discover(spec.input, parse_where(spec.where) if spec.where else None)
    dataset.refuse_output(spec.output)
    # A missing model is for the engine to explain.
    sha256 = model_sha256(spec.model) if Path(spec.model).is_file() else ""
    before, after = Hook.of(BEFORE, spec.before), Hook.of(AFTER, spec.after)
    schema = before.load().schema_of(dataset.schema) if before else dataset.schema
    fitted = fit(spec, schema, _earlier_choices(spec, sha256), engine.Stopwatch())
    program, binding = fitted.program, fitted.binding
    tokenizer, pictures = fitted.tokenizer, fitted.pictures
    written = binding.output_schema(schema)
    if after:
        written = after.load().schema_of(written)
    limits = {seat.machine: seat.memory_limit_nbytes for seat in seats}
    plan = make_plan(
        dataset, program, binding, tuple(seat.place for seat in seats),
        model=spec.model, batch_rows=spec.batch_rows, output=spec.output, format=spec.format,
        on_error=spec.on_error, memory_limit_nbytes=sum(limits.values()),
        tokenizer=tokenizer, pictures=pictures, before=before, after=after, written=written,
        stages=fitted.stages,
    )  # fmt: skip
    run = RunRecord(
        fingerprint=fingerprint(
            dataset, plan.shards, binding, model_sha256=sha256, program=program.fingerprint,
            format=spec.format, on_error=spec.on_error, compression=spec.compression,
            tokenizer=tokenizer.sha256 if tokenizer else "", image=str(pictures or ""),
            hooks=(before, after),
        ),
        choices=program.choices, model=spec.model, format=spec.format,
    )  # fmt: skip
    specs = _scorer_specs(spec, plan, run, fitted, seats)
    return Prepared(plan, run, specs, program, fitted.stages)


def _earlier_choices(spec: JobSpec, sha256: str) -> Mapping[str, str] | None:
    """The kernels that the output folder's run began with: they add in different orders, so a
    resume must use them again."""
    stored = None if spec.restart else read_run(spec.output)
    same_model = stored is not None and stored.fingerprint.model_sha256 == sha256
    return stored.choices if stored is not None and same_model else None


def admit(prepared: Prepared, seats: tuple[Seat, ...]) -> tuple[ScorerSpec, ...]:
    """Specs for seats on a machine that came while the job runs. MemoryPlanError if they do not
    fit there.
    """
    check_memory(prepared, seats, joining=True)
    return tuple(_seated(prepared.specs[0], seat, prepared.stages) for seat in seats)


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
        if prepared.stages:
            _check_stages(prepared, here, machine)
            continue
        for nodes, group_of_nodes in groupby(here, key=lambda seat: seat.place.nodes):
            there = list(group_of_nodes)
            where = f"NUMA node {cpulist(nodes)} of {machine}"
            _bound(prepared, there, driver=False).check(there[0].node_memory_nbytes, where)


def _check_stages(prepared: Prepared, seats: Sequence[Seat], machine: str) -> None:
    """Each NUMA node against the stages that live there."""
    plan = prepared.plan
    held: dict[int, list[tuple[int, int]]] = {}
    limits: dict[int, int] = {}
    for seat in seats:
        front = _bound(prepared, [seat], driver=False)
        prices = stage_prices(
            plan.dataset, prepared.stages, plan.binding,
            threads=max(len(stage.place.cpus) for stage in seat.stages),
            batch_rows=plan.batch_rows, batch_tokens=plan.batch_tokens,
        )  # fmt: skip
        prices = (front.engine - front.later, *prices[1:])
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


def _token_rules(spec: JobSpec, program: engine.Program) -> TokenRules:
    return TokenRules(
        program.id_limits, program.max_tokens, spec.max_tokens, spec.too_long, spec.tokenizer or "",
        hooked=spec.before is not None,
    )  # fmt: skip


def _scorer_specs(
    spec: JobSpec,
    plan: Plan,
    run: RunRecord,
    fitted: Fitted,
    seats: tuple[Seat, ...],
) -> tuple[ScorerSpec, ...]:
    first = seats[0]
    common = ScorerSpec(
        scorer=first.scorer, model=spec.model, model_sha256=run.fingerprint.model_sha256,
        program=run.fingerprint.program, choices=run.choices, switches=switches_of(spec.off),
        binding=plan.binding, batch_rows=plan.batch_rows, cpus=first.place.cpus,
        node=first.place.node, output=spec.output, format=spec.format,
        fingerprint=run.fingerprint.digest, on_error=spec.on_error,
        batch_tokens=plan.batch_tokens, tokenizer=plan.tokenizer, pictures=plan.pictures,
        pixels=fitted.fed, before=plan.before, after=plan.after,
        fields=read_fields(plan.dataset, plan.before), where=spec.where or "",
        compression=spec.compression,
    )  # fmt: skip
    return tuple(_seated(common, seat, fitted.stages) for seat in seats)


def _seated(spec: ScorerSpec, seat: Seat, stages: Sequence[engine.Program]) -> ScorerSpec:
    """The same work at another place, or at a place for each stage."""
    places = tuple(
        StagePlace(stage.place.cpus, stage.place.node, program.fingerprint)
        for stage, program in zip(seat.stages, stages, strict=True)
    )
    return replace(
        spec, scorer=seat.scorer, cpus=seat.place.cpus, node=seat.place.node,
        others=seat.place.others, stages=places,
    )  # fmt: skip
