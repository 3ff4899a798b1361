"""The driver: one job from its spec to _SUCCESS, the same for every executor.

In order: read the footers, compile the model, bind fields to inputs, price the plan, while
empty scorers start on the executor's seats; then open the output folder (or resume what is
there), give the scorers their spec, lend shards until nothing is left, and finish. What runs on
a scorer is pipeline.scorer; how it gets there is the executor's; who commits is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from jobs.endings import Ending, Limits, over_budget
from jobs.errors import DONE
from jobs.leases import LeaseTable
from jobs.lending import Lending
from jobs.memory import check_memory
from jobs.planning import admit, prepare
from jobs.prepared import Prepared
from jobs.report.history import History
from jobs.tally import Summary, Tally
from pipeline.durable import DISK_TROUBLE
from pipeline.errors import OutputError
from pipeline.events import JobEnded, JobStarted
from pipeline.manifest import RunFolder, Standing
from pipeline.parts import REJECTS
from pipeline.stores import joined, store_at

if TYPE_CHECKING:
    from jobs.executors import Executor, Seat
    from jobs.interrupts import Interrupts
    from jobs.spec import JobSpec
    from pipeline.events import Event
    from pipeline.plan import Plan


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
        self.history = History()
        self.plan: Plan | None = None
        self.standing: Standing | None = None
        """How far the output folder was when it was opened, or looked at by a dry run."""
        self._executor = executor
        self._tell_outside = tell
        self._interrupts = interrupts
        self._started = monotonic() if started is None else started

    def run(self, seats: tuple[Seat, ...], show_plan: Callable[[Plan], None]) -> Summary | None:
        """The whole job on the executor's seats; None after a dry run."""
        prepared = prepare(self.spec, seats, lambda stages: self._executor.reseat(stages))
        self.plan = prepared.plan
        show_plan(prepared.plan)
        check_memory(prepared, prepared.seats)
        try:
            if self.spec.dry_run:
                self.standing = RunFolder.look(
                    self.spec.output, prepared.run, self.plan.shards, restart=self.spec.restart
                )
                return None
            return self._score(prepared)
        except OSError as error:
            if error.errno not in DISK_TROUBLE:
                raise
            raise store_at(self.spec.output).trouble(error) from error

    def _score(self, prepared: Prepared) -> Summary:
        spec, shards = self.spec, prepared.plan.shards
        with RunFolder.open(spec.output, prepared.run, shards, restart=spec.restart) as folder:
            earlier = folder.committed.totals()
            self.standing = Standing(
                resumed=folder.resumed,
                committed_shards=len(folder.committed),
                committed_rows=earlier.rows_in,
                rejects=earlier.rejects,
                complete=folder.complete,
            )
            self._tell(
                JobStarted(
                    output=spec.output,
                    shards=len(shards),
                    rows=prepared.plan.dataset.rows,
                    engines=len(prepared.specs),
                    committed_shards=self.standing.committed_shards,
                    committed_rows=self.standing.committed_rows,
                    uncompiled=self._uncompiled(prepared, folder),
                )
            )
            ending = self._lend(prepared, folder)
            if folder.complete:
                return self._end(folder, ending)
            if ending.exit_code == DONE:
                folder.finish()
            else:  # while the folder is still ours: nobody writes after the lock is gone
                self._executor.close()
            return self._end(folder, ending)

    def _uncompiled(self, prepared: Prepared, folder: RunFolder) -> int:
        """Kernels that scorers wait for; of other machines nobody here knows."""
        here = self.spec.executor == "local" and not folder.complete
        return len(prepared.program.uncompiled) if here else 0

    def _lend(self, prepared: Prepared, folder: RunFolder) -> Ending:
        """The loop, over the shards that are not committed yet."""
        shards, done = prepared.plan.shards, folder.committed
        left = shards.without(done) if done else shards
        rejects = folder.committed.totals().rejects
        limits = self._limits()
        if not left:  # done before, or killed between the last commit and _SUCCESS
            said = "nothing to do: the job was done before" if folder.complete else ""
            return over_budget(rejects, limits) or Ending(DONE, said)
        lending = Lending(
            self._executor, [spec.scorer for spec in prepared.specs], LeaseTable(left), folder,
            limits, self._tell, admit=partial(admit, prepared), rejects=rejects,
        )  # fmt: skip

        def notice(number: int) -> None:
            lending.signal = number

        self._interrupts.notice = notice
        self._executor.start(prepared.specs)
        return lending.run()

    def _limits(self) -> Limits:
        spec = self.spec
        return Limits(
            stall_seconds=spec.stall_seconds,
            max_restarts=spec.max_restarts,
            max_errors=spec.max_errors,
            stop_on_bad_input=spec.on_error == "fail",
            rejects=joined(spec.output, REJECTS),
        )

    def _end(self, folder: RunFolder, ending: Ending) -> Summary:
        found = folder.committed.totals()
        seconds = monotonic() - self._started
        summary = Summary(
            exit_code=ending.exit_code,
            message=ending.message,
            over_budget=ending.over_budget,
            output=self.spec.output,
            rows_in=found.rows_in,
            rows_out=found.rows_out,
            rejects=found.rejects,
            parts=len(folder.committed),
            seconds=seconds,
            rows_per_second=(found.rows_in - self.tally.earlier_rows) / seconds,
            nbytes=self.tally.nbytes,
            scorers=_whereabouts(self.tally),
            filtered=found.filtered,
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
        return replace(summary, report=self._report(folder, summary))

    def _report(self, folder: RunFolder, summary: Summary) -> str:
        """Writes the page of a run that did something; where it lies, or why it does not."""
        if self.spec.report == "none" or not self.tally.reports:
            return ""
        from jobs.report.page import page

        assert self.plan is not None, "it was made before the first lease"
        try:
            return folder.report(page(self.history, self.tally, self.plan, summary))
        except OutputError as error:  # the parts are there all the same
            return f"not written: {error}"

    def _tell(self, event: Event) -> None:
        self.tally.add(event)
        self.history.add(event)
        self._tell_outside(event, self.tally)


def _whereabouts(tally: Tally) -> dict[int, str]:
    """Scorer -> its placement report and its share of the rows."""
    return {
        scorer: f"{tally.shares[scorer].rows:,} rows; {report.get('placement', '')}"
        for scorer, report in tally.reports.items()
    }
