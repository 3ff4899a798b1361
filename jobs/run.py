"""The command `colonnade run`. Its options, help texts included, come from jobs.spec."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from jobs.attempts import leave_with
from jobs.errors import Interrupted
from jobs.resolving import resolve
from jobs.spec import AUTO, NUMBERS, OPTIONS, SPOKEN, JobSpec
from jobs.streams import heedless, others_aside, stdout

if TYPE_CHECKING:
    from jobs.driver import Driver
    from jobs.executors import Executor, Seat
    from jobs.interrupts import Interrupts
    from jobs.tally import Summary, Tally
    from pipeline.events import Event
    from pipeline.plan import Plan

_STARTED = monotonic()

_EXAMPLES = """
\b
Examples:
  colonnade run --model m.onnx --input data/ --output scores/
  colonnade run --model m.onnx --input 'in/*.parquet' --output scores/ \\
      --bind pixels=image --keep id,label
  colonnade run --config job.toml --executor ray --address auto
  colonnade run --config job.toml --dry-run

The same command resumes a job that was interrupted: committed parts are not
computed again. Exit codes: 0 done or nothing to do, 1 input or configuration,
2 usage, 3 finished with rejects over the budget or shards set aside,
4 infrastructure gave up, 129/130/143 interrupted and resumable.
"""


def job_options(without: Collection[str] = ()) -> Callable[[click.Command], click.Command]:
    """Gives a command an option for every field of JobSpec but those."""

    def give(command: click.Command) -> click.Command:
        for name, option in OPTIONS.items():
            if name not in without:
                command.params.append(_as_click(name, option.default, option.metadata))
        return command

    return give


def said(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of a command's options those that were given."""
    return {name: value for name, value in given.items() if value not in (None, ())}


def _as_click(name: str, default: Any, metadata: Any) -> click.Option:
    flag = f"--{name.replace('_', '-')}"
    text = metadata["help"]
    if isinstance(default, bool):
        return click.Option([flag, name], is_flag=True, default=None, help=text)
    if default is not MISSING and default not in (None, ()):
        text += f"  [default: {default:g}]" if name in NUMBERS else f"  [default: {default}]"
    kind: Any = str if name in SPOKEN else NUMBERS.get(name, str)
    if metadata["choices"]:
        kind = click.Choice(metadata["choices"])
    return click.Option(
        [flag, name], type=kind, default=None, help=text, multiple=name in _REPEATED,
        metavar=_METAVARS.get(name), callback=_joined if name == "keep" else None,
    )  # fmt: skip


def _joined(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> str | None:
    """One text of names with commas between, of several."""
    return ",".join(texts) if texts else None


_REPEATED = ("input", "bind", "select", "keep", "off")


_METAVARS = {
    "model": "FILE", "input": "PATH", "output": "FOLDER", "bind": "INPUT=FIELD",
    "select": "OUTPUT[=FIELD]", "keep": "FIELDS",
    "off": "NAME", "address": "ADDRESS", "engines": "N", "threads": "N",
    "stages": "N", "scorer_memory": "BYTES",
    "batch_rows": "N", "max_tokens": "N", "tokenizer": "FILE", "max_errors": "N",
    "image": "KEY=VALUE,...",
    "where": "CONDITION", "before": "MODULE:FUNCTION", "after": "MODULE:FUNCTION",
    "stall_seconds": "SECONDS", "max_restarts": "N", "metrics": "FILE",
}  # fmt: skip


@job_options()
@click.command(epilog=_EXAMPLES)
@click.option(
    "--config", metavar="FILE", type=click.Path(path_type=Path),
    help="TOML file with the same options; what is given here wins.",
)  # fmt: skip
def run(config: Path | None, **given: Any) -> None:
    """Score a dataset: every row exactly once, in parts that appear whole."""
    leave_with(lambda: score(resolve(said(given), config)))


def score(spec: JobSpec) -> int:
    """Runs the job, or plans it; the exit code."""
    from contextlib import closing

    from jobs import executors
    from jobs.interrupts import Interrupts

    with others_aside(), Interrupts() as interrupts, closing(executors.make(spec)) as executor:
        try:
            with interrupts.held():
                seats = executor.seats(spec.engines, spec.threads, warm=_will_score(spec))
            return _drive(spec, executor, seats, interrupts)
        except Interrupted as error:
            _advise(spec)
            return error.exit_code


def _will_score(spec: JobSpec) -> bool:
    """Whether it is worth starting scorers before anything has been checked."""
    done = Path(spec.output, "_SUCCESS").exists() and not spec.restart
    settled = spec.stages != AUTO and not spec.dry_run
    return settled and not done and Path(spec.model).is_file()


def _drive(
    spec: JobSpec, executor: Executor, seats: tuple[Seat, ...], interrupts: Interrupts
) -> int:
    # Heavy: half a second of imports, while the scorers have theirs on other cores.
    from jobs import metrics, progress
    from jobs.driver import Driver

    display, meter = progress.make(spec.progress), metrics.make(spec)
    show = heedless(display.show)

    def tell(event: Event, tally: Tally) -> None:
        show(event, tally)
        meter.show(event, tally)

    driver = Driver(spec, executor, tell, interrupts, started=_STARTED)
    try:
        summary = driver.run(seats, lambda plan: _show_plan(plan, spec))
    finally:
        heedless(display.close)()
        meter.close()
    if spec.json:
        _show_json(driver, summary)
    if summary is None:
        _show_standing(driver, spec)
        return 0
    _show_summary(summary, spec)
    return summary.exit_code


def _for_people(spec: JobSpec) -> bool:
    """Whether stdout is for people."""
    return not spec.json and spec.progress != "json"


@heedless
def _show_plan(plan: Plan, spec: JobSpec) -> None:
    if _for_people(spec):
        print(plan, file=stdout(), flush=True)


@heedless
def _show_standing(driver: Driver, spec: JobSpec) -> None:
    """The last line of a dry run: how much of the plan is done."""
    found, plan = driver.standing, driver.plan
    assert found is not None and plan is not None, "a dry run has looked"
    if not _for_people(spec):
        return
    text = str(found)
    if found.resumed and not found.complete:
        text = (
            f"resumes: {found.committed_shards:,} of {len(plan.shards):,} shards, "
            f"{found.committed_rows:,} of {plan.dataset.rows:,} rows are done"
        )
    print(f"  folder  {text}", file=stdout())


@heedless
def _show_json(driver: Driver, summary: Summary | None) -> None:
    """One object on stdout: the summary, unless this is a dry run, beside plan and standing."""
    from pipeline.wire import to_plain

    shown = {} if summary is None else summary.to_json()
    shown |= {"plan": to_plain(driver.plan), "standing": to_plain(driver.standing)}
    print(json.dumps(shown, default=str), file=stdout())


@heedless
def _show_summary(summary: Summary, spec: JobSpec) -> None:
    from jobs.progress import print_summary

    if _for_people(spec):
        print_summary(summary)
    if summary.message:
        click.echo(f"colonnade: {summary.message}", err=True)
    if summary.exit_code >= 3:
        _advise(spec, over_budget=summary.over_budget)


@heedless
def _advise(spec: JobSpec, *, over_budget: bool = False) -> None:
    """The command that resumes; with the same budget it would only stop again."""
    way = "to go on with any number of rejects" if over_budget else "to go on"
    command = spec.command(without=("max_errors",) if over_budget else ())
    click.echo(f"colonnade: {way}, run\n  {command}", err=True)
