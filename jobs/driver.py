"""The driver: one job from its spec to _SUCCESS, the same for every executor.

In order: read the footers, compile the model, bind fields to inputs, price the plan, while
empty scorers start on the executor's seats; then open the output folder (or resume what is
there), give the scorers their spec, lend shards until nothing is left, and finish. What runs on
a scorer is pipeline.scorer; how it gets there is the executor's; who commits is decided here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import engine
from engine.settings import switches_of
from jobs.errors import DONE, InfrastructureError
from jobs.leases import LeaseTable
from jobs.lending import Ending, Lending, Limits
from jobs.tally import Summary, Tally
from pipeline.binding import bind
from pipeline.dataset import Dataset
from pipeline.errors import OutputError
from pipeline.events import JobEnded, JobStarted
from pipeline.fingerprint import fingerprint, model_sha256
from pipeline.manifest import RunFolder, RunRecord, read_run
from pipeline.plan import make_plan, price
from pipeline.scorer_spec import ScorerSpec

if TYPE_CHECKING:
    from jobs.executors import Executor, Seat
    from jobs.interrupts import Interrupts
    from jobs.spec import JobSpec
    from pipeline.events import Event
    from pipeline.plan import MemoryPrice, Plan

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
"""What a disk says when it is not the user's command that is at fault."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that is decided before the first shard is lent."""

    plan: Plan
    run: RunRecord
    specs: tuple[ScorerSpec, ...]


class Driver:
    """Runs one job. `tell` gets every event once the tally has counted it."""

    def __init__(
        self,
        spec: JobSpec,
        executor: Executor,
        tell: Callable[[Event, Tally], None],
        interrupts: Interrupts,
        *,
        started: float | None = None,
    ) -> None:
        self.spec = spec
        self.tally = Tally()
        self._executor = executor
        self._tell_outside = tell
        self._interrupts = interrupts
        self._started = monotonic() if started is None else started
        self._output = Path(spec.output)

    def run(self, seats: tuple[Seat, ...], show_plan: Callable[[Plan], None]) -> Summary | None:
        """The whole job on the executor's seats; None after a dry run."""
        prepared = self._prepare(seats)
        show_plan(prepared.plan)
        self._check_memory(prepared.plan, seats)
        if self.spec.dry_run:
            return None
        try:
            return self._score(prepared)
        except (OSError, OutputError) as error:
            raise _disk_trouble(error, self._output) from error

    def _prepare(self, seats: tuple[Seat, ...]) -> Prepared:
        spec = self.spec
        dataset = Dataset.discover(spec.input)
        dataset.refuse_output(self._output)
        model = Path(spec.model)
        # A missing model is for the engine to explain.
        sha256 = model_sha256(spec.model) if model.is_file() else ""
        stored = None if spec.restart else read_run(self._output)
        # Kernels add in different orders: a resume must use the ones it began with.
        same_model = stored is not None and stored.fingerprint.model_sha256 == sha256
        choices = stored.choices if stored is not None and same_model else None
        switches = switches_of(spec.off)
        program = engine.compile(spec.model, choices=choices, **switches)
        binding = bind(
            dataset.schema, program.inputs, program.outputs, spec.bindings, spec.keep,
            on_error=spec.on_error,
        )  # fmt: skip
        limits = {seat.machine: seat.memory_limit_nbytes for seat in seats}
        plan = make_plan(
            dataset, program, binding, tuple(seat.place for seat in seats),
            model=spec.model, batch_rows=spec.batch_rows, output=spec.output,
            format=spec.format, on_error=spec.on_error,
            memory_limit_nbytes=sum(limits.values()),
        )  # fmt: skip
        self._program = program
        run = RunRecord(
            fingerprint=fingerprint(
                dataset, plan.shards, binding, model_sha256=sha256,
                program=program.fingerprint, format=spec.format, on_error=spec.on_error,
            ),
            choices=program.choices, model=spec.model, format=spec.format,
        )  # fmt: skip
        return Prepared(plan, run, _scorer_specs(spec, plan, run, seats))

    def _check_memory(self, plan: Plan, seats: tuple[Seat, ...]) -> None:
        """Each machine's engines against what that machine can give; the first has the driver.

        Where a machine has several NUMA nodes, each node's engines against that node, too: memory
        that is bound to a full node is not taken from another, the kernel kills instead.
        """
        for number, (machine, group) in enumerate(groupby(seats, key=lambda seat: seat.machine)):
            here = sorted(group, key=lambda seat: seat.place.node)
            self._bound(plan, here, driver=number == 0).check(here[0].memory_limit_nbytes, machine)
            for node, group_of_node in groupby(here, key=lambda seat: seat.place.node):
                there = list(group_of_node)
                where = f"NUMA node {node} of {machine}"
                self._bound(plan, there, driver=False).check(there[0].node_memory_nbytes, where)

    def _bound(self, plan: Plan, seats: Sequence[Seat], *, driver: bool) -> MemoryPrice:
        return price(
            plan.dataset, self._program, plan.binding, engines=len(seats),
            threads=max(len(seat.place.cpus) for seat in seats), batch_rows=plan.batch_rows,
            driver=driver,
        )  # fmt: skip

    def _score(self, prepared: Prepared) -> Summary:
        spec, shards = self.spec, prepared.plan.shards
        with RunFolder.open(self._output, prepared.run, shards, restart=spec.restart) as folder:
            earlier = folder.committed.values()
            self._tell(
                JobStarted(
                    output=spec.output,
                    shards=len(shards),
                    rows=prepared.plan.dataset.rows,
                    engines=len(prepared.specs),
                    committed_shards=len(earlier),
                    committed_rows=sum(entry.rows_in for entry in earlier),
                )
            )
            if folder.complete:
                return self._end(folder, Ending(DONE, "nothing to do: the job was done before"))
            ending = self._lend(prepared, folder)
            if ending.exit_code == DONE:
                folder.finish()
            else:  # while the folder is still ours: nobody writes after the lock is gone
                self._executor.close()
            return self._end(folder, ending)

    def _lend(self, prepared: Prepared, folder: RunFolder) -> Ending:
        """The loop, over the shards that are not committed yet."""
        spec = self.spec
        left = [s for s in prepared.plan.shards if s.index not in folder.committed]
        if not left:  # killed between the last commit and _SUCCESS
            return Ending(DONE, "")
        self._executor.start(prepared.specs)
        limits = Limits(
            stall_seconds=spec.stall_seconds,
            max_restarts=spec.max_restarts,
            max_errors=spec.max_errors,
            stop_on_bad_input=spec.on_error == "fail",
        )
        lending = Lending(
            self._executor, len(prepared.specs), LeaseTable(left), folder, limits, self._tell,
            rejects=sum(entry.rejects for entry in folder.committed.values()),
        )  # fmt: skip

        def notice(number: int) -> None:
            lending.signal = number

        self._interrupts.notice = notice
        return lending.run()

    def _end(self, folder: RunFolder, ending: Ending) -> Summary:
        entries = folder.committed.values()
        seconds = monotonic() - self._started
        rows_in = sum(entry.rows_in for entry in entries)
        summary = Summary(
            exit_code=ending.exit_code,
            message=ending.message,
            output=self.spec.output,
            rows_in=rows_in,
            rows_out=sum(entry.rows_out for entry in entries),
            rejects=sum(entry.rejects for entry in entries),
            parts=len(entries),
            seconds=seconds,
            rows_per_second=(rows_in - self.tally.earlier_rows) / seconds,
            nbytes=self.tally.nbytes,
            scorers=_whereabouts(self.tally),
        )
        self._tell(
            JobEnded(
                summary.exit_code,
                summary.rows_in,
                summary.rows_out,
                summary.rejects,
                seconds,
                summary.message,
            )
        )
        return summary

    def _tell(self, event: Event) -> None:
        self.tally.add(event)
        self._tell_outside(event, self.tally)


def _scorer_specs(
    spec: JobSpec, plan: Plan, run: RunRecord, seats: tuple[Seat, ...]
) -> tuple[ScorerSpec, ...]:
    digest = run.fingerprint.digest
    switches = switches_of(spec.off)
    return tuple(
        ScorerSpec(
            scorer=seat.scorer, model=spec.model, model_sha256=run.fingerprint.model_sha256,
            program=run.fingerprint.program, choices=run.choices, switches=switches,
            binding=plan.binding, batch_rows=plan.batch_rows, cpus=seat.place.cpus,
            node=seat.place.node, output=spec.output, format=spec.format,
            fingerprint=digest, on_error=spec.on_error,
        )
        for seat in seats
    )  # fmt: skip


def _whereabouts(tally: Tally) -> dict[int, str]:
    """Scorer -> its placement report and its share of the rows."""
    return {
        scorer: f"{tally.scored.get(scorer, 0):,} rows; {report.get('placement', '')}"
        for scorer, report in tally.reports.items()
    }


def _disk_trouble(error: OSError | OutputError, output: Path) -> Exception:
    """A full or failing disk as an InfrastructureError; anything else stays what it is."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(cause, OSError) or cause.errno not in _FULL:
        return error
    return InfrastructureError(
        f"{cause.filename or output}: expected to write, got: {cause.strerror}; "
        "make room, then run the same command to go on"
    )
