"""From a job's spec to all that is decided before its first shard is lent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engine
from engine.pixels import Pixels, with_pixels
from engine.stages import Cuttable, compile_stage, cuttable
from jobs.errors import InfrastructureError
from jobs.memory import check_memory, fits
from jobs.prepared import Piece, Prepared
from jobs.spec import AUTO, engine_switches
from numa.errors import NumaError
from pipeline.binding import Binding, TokenRules, bind
from pipeline.conforming import to_text
from pipeline.dataset import Dataset
from pipeline.fingerprint import fingerprint, model_sha256
from pipeline.hooks import AFTER, BEFORE, Hook
from pipeline.manifest import RunRecord, read_run
from pipeline.picture_binding import pixels
from pipeline.picture_rules import PictureRules, parse
from pipeline.pictures import check_pillow
from pipeline.plan import make_plan, read_fields
from pipeline.scorer_spec import ScorerSpec
from pipeline.stage_spec import StagePlace
from pipeline.text import TokenizerFile, check_fits
from pipeline.where import parse as parse_where

if TYPE_CHECKING:
    from engine.confirming import Timer
    from jobs.executors import Seat
    from jobs.spec import JobSpec
    from pipeline.plan import Plan
    from pipeline.schemas import Unlike


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model that was compiled for rows of a schema, and bound to its fields."""

    program: engine.Program
    binding: Binding
    fed: Mapping[str, Pixels]
    """Inputs of pictures that the program normalises itself."""
    tokenizer: TokenizerFile | None
    pictures: PictureRules | None
    graph: engine.Graph
    """With the nodes that normalise pictures; its weights lie in the model's files."""
    pieces: tuple[Piece, ...] = ()
    """The same in --stages pieces, () for one."""

    def cuttable(self, spec: JobSpec) -> Cuttable:
        return cuttable(self.graph, **engine_switches(spec.off))

    def cut(self, model: Cuttable, count: int, spec: JobSpec) -> tuple[Piece, ...]:
        """Programs of `count` stages, hollow, one after the other."""
        return tuple(
            Piece(
                stage.begin,
                compile_stage(
                    stage, self.program.choices, hollow=True, **engine_switches(spec.off)
                ),
            )
            for stage in model.cut(count)
        )


def fit(
    spec: JobSpec,
    schema: Any,
    choices: Mapping[str, str] | None = None,
    timer: Timer | None = None,
    unlike: Sequence[Unlike] = (),
) -> Fitted:
    """Compiles the model, with the kernels that an earlier run chose if they are given, and binds
    fields of a pyarrow.Schema to its inputs; `unlike` are those that files do not have alike. A
    timer is for who compiles once for all engines."""
    tokenizer = TokenizerFile.of(spec.tokenizer) if spec.tokenizer else None
    pictures = parse(spec.image) if spec.image else None
    graph = engine.load(spec.model, tuple(spec.selection))
    fed = pixels(schema, graph.inputs, spec.bindings, pictures)
    whole, switches = with_pixels(graph, fed), engine_switches(spec.off)
    program = engine.compile(whole, choices=choices, timer=timer, hollow=True, **switches)
    binding = bind(
        schema, program.inputs, program.outputs, spec.bindings, spec.keep,
        on_error=spec.on_error, rules=_token_rules(spec, program), pictures=pictures,
        selected=spec.selection, unlike=unlike,
    )  # fmt: skip
    if any(f.picture for f in binding.fields):
        check_pillow()
    if tokenizer is not None:
        check_fits(tokenizer, binding)
    fitted = Fitted(program, binding, fed, tokenizer, pictures, whole)
    if spec.stages <= 1:
        return fitted
    return replace(fitted, pieces=fitted.cut(fitted.cuttable(spec), spec.stages, spec))


Reseat = Callable[[int], "tuple[Seat, ...]"]
"""Stages -> the seats of scorers that have so many."""


def prepare(spec: JobSpec, seats: tuple[Seat, ...], reseat: Reseat | None = None) -> Prepared:
    """Reads footers, compiles the model, binds fields to inputs and prices the plan.

    With --stages auto that is done for one stage and for more, until they fit; the first plan
    stands, for `check_memory` to refuse, where none does.
    """
    dataset = Dataset.discover(spec.input, parse_where(spec.where) if spec.where else None)
    dataset.refuse_output(spec.output)
    # A missing model is for the engine to explain.
    sha256 = model_sha256(spec.model) if Path(spec.model).is_file() else ""
    before, after = Hook.of(BEFORE, spec.before), Hook.of(AFTER, spec.after)
    schema, unlike = dataset.schema, dataset.unlike
    if before:  # it sees all fields, and what it makes of them is alike
        dataset.refuse_unlike(schema.names, str(before), nulls=True)
        schema, unlike = before.load().schema_of(schema), ()
    fitted = fit(spec, schema, _earlier_choices(spec, sha256), engine.Stopwatch(), unlike)
    written = fitted.binding.output_schema(schema)
    if after:
        written = after.load().schema_of(written)

    def planned(fitted: Fitted, seats: tuple[Seat, ...]) -> Prepared:
        return _planned(spec, dataset, fitted, seats, written, (before, after), sha256)

    first = planned(fitted, seats)
    if spec.stages != AUTO or reseat is None or fits(first):
        return first
    return _fewest_stages(spec, fitted, planned, reseat) or first


def _fewest_stages(
    spec: JobSpec,
    fitted: Fitted,
    planned: Callable[[Fitted, tuple[Seat, ...]], Prepared],
    reseat: Reseat,
) -> Prepared | None:
    """The plan with the fewest stages, from two on, that fits; None where none does."""
    model = fitted.cuttable(spec)
    for count in range(2, model.most + 1):
        try:
            seats = reseat(count)
        except (NumaError, InfrastructureError):  # no places for so many
            return None
        found = planned(replace(fitted, pieces=fitted.cut(model, count, spec)), seats)
        if fits(found):
            return found
    return None


def _planned(
    spec: JobSpec,
    dataset: Dataset,
    fitted: Fitted,
    seats: tuple[Seat, ...],
    written: Any,
    hooks: tuple[Hook | None, Hook | None],
    sha256: str,
) -> Prepared:
    program, binding, (before, after) = fitted.program, fitted.binding, hooks
    tokenizer, pictures = fitted.tokenizer, fitted.pictures
    limits = {seat.machine: seat.memory_limit_nbytes for seat in seats}
    plan = make_plan(
        dataset, program, binding, tuple(seat.place for seat in seats),
        model=spec.model, batch_rows=spec.batch_rows, output=spec.output, format=spec.format,
        on_error=spec.on_error, memory_limit_nbytes=sum(limits.values()),
        tokenizer=tokenizer, pictures=pictures, before=before, after=after, written=written,
        stages=tuple(piece.program for piece in fitted.pieces),
    )  # fmt: skip
    run = RunRecord(
        fingerprint=fingerprint(
            dataset, plan.shards, binding, model_sha256=sha256, program=program.fingerprint,
            format=spec.format, on_error=spec.on_error, compression=spec.compression,
            splice=spec.splice,
            tokenizer=tokenizer.sha256 if tokenizer else "", image=str(pictures or ""),
            hooks=(before, after),
        ),
        choices=program.choices, model=spec.model, format=spec.format,
        selected=tuple(spec.selection),
    )  # fmt: skip
    specs = _scorer_specs(spec, plan, run, fitted, seats)
    return Prepared(plan, run, specs, program, fitted.pieces, seats, spec.scorer_memory)


def _earlier_choices(spec: JobSpec, sha256: str) -> Mapping[str, str] | None:
    """The kernels that the output folder's run began with: they add in different orders, so a
    resume must use them again. Of other outputs, nodes are others."""
    stored = None if spec.restart else read_run(spec.output)
    if stored is None or stored.fingerprint.model_sha256 != sha256:
        return None
    return stored.choices if stored.selected == tuple(spec.selection) else None


def admit(prepared: Prepared, seats: tuple[Seat, ...]) -> tuple[ScorerSpec, ...]:
    """Specs for seats on a machine that came while the job runs. MemoryPlanError if they do not
    fit there.
    """
    check_memory(prepared, seats, joining=True)
    return tuple(_seated(prepared.specs[0], seat, prepared.pieces) for seat in seats)


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
    first, dataset = seats[0], plan.dataset
    used = dataset.used(plan.binding.columns, hooked=plan.before is not None)
    planned = dataset.planned(used)
    common = ScorerSpec(
        scorer=first.scorer, model=spec.model, model_sha256=run.fingerprint.model_sha256,
        program=run.fingerprint.program, choices=run.choices, switches=engine_switches(spec.off),
        binding=plan.binding, batch_rows=plan.batch_rows, cpus=first.place.cpus,
        node=first.place.node, output=spec.output, format=spec.format,
        fingerprint=run.fingerprint.digest, on_error=spec.on_error,
        batch_tokens=plan.batch_tokens, tokenizer=plan.tokenizer, pictures=plan.pictures,
        pixels=fitted.fed, before=plan.before, after=plan.after,
        fields=read_fields(dataset, plan.before), where=spec.where or "",
        schema="" if planned is None else to_text(planned), compression=spec.compression,
        splice=spec.splice,
    )  # fmt: skip
    return tuple(_seated(common, seat, fitted.pieces) for seat in seats)


def _seated(spec: ScorerSpec, seat: Seat, pieces: Sequence[Piece]) -> ScorerSpec:
    """The same work at another place, or at a place for each stage."""
    places = tuple(
        StagePlace(stage.place.cpus, stage.place.node, piece.program.fingerprint, piece.begin)
        for stage, piece in zip(seat.stages, pieces, strict=True)
    )
    return replace(
        spec, scorer=seat.scorer, cpus=seat.place.cpus, node=seat.place.node,
        others=seat.place.others, stages=places,
    )  # fmt: skip
