"""The command `colonnade`: run, explain, bench, topology, verify.

Nothing heavy is imported at the top: `--help` must answer at once, and the local executor must
never import ray. Options of `run` come from jobs.spec, help texts included.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import MISSING
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import click

from engine.errors import EngineError
from jobs.bench.spec import BenchSpec, options
from jobs.errors import INFRASTRUCTURE, INTERRUPTED, USER, Interrupted, JobError
from jobs.spec import NUMBERS, OPTIONS, JobSpec, resolve
from numa.errors import NumaError
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from jobs.executors import Executor, Seat
    from jobs.interrupts import Interrupts
    from jobs.tally import Summary
    from pipeline.plan import Plan

_STARTED = monotonic()

_SWITCH_FLAGS = ("restart", "dry_run", "json")

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
4 infrastructure gave up, 130/143 interrupted and resumable.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="colonnade", message="%(package)s %(version)s")
def main() -> None:
    """Score large datasets with pruned neural networks, on ordinary CPUs.

    ONNX model and Parquet dataset in, Parquet dataset out; every row exactly once.
    """


def _run_options(command: click.Command) -> click.Command:
    """An option for every field of JobSpec."""
    for name, option in OPTIONS.items():
        command.params.append(_as_click(name, option.default, option.metadata))
    return command


def _as_click(name: str, default: Any, metadata: Any) -> click.Option:
    flag = f"--{name.replace('_', '-')}"
    text = metadata["help"]
    if name in _SWITCH_FLAGS:
        return click.Option([flag, name], is_flag=True, default=None, help=text)
    if default is not MISSING and default not in (None, ()):
        text += f"  [default: {default:g}]" if name in NUMBERS else f"  [default: {default}]"
    kind: Any = NUMBERS.get(name, str)
    if metadata["choices"]:
        kind = click.Choice(metadata["choices"])
    return click.Option(
        [flag, name], type=kind, default=None, help=text, multiple=name in ("input", "bind", "off"),
        metavar=_METAVARS.get(name),
    )  # fmt: skip


_METAVARS = {
    "model": "FILE", "input": "PATH", "output": "FOLDER", "bind": "INPUT=FIELD",
    "keep": "FIELDS", "off": "NAME", "address": "ADDRESS", "engines": "N", "threads": "N",
    "batch_rows": "N", "max_errors": "N", "stall_seconds": "SECONDS", "max_restarts": "N",
}  # fmt: skip


@_run_options
@main.command(epilog=_EXAMPLES)
@click.option(
    "--config", metavar="FILE", type=click.Path(path_type=Path),
    help="TOML file with the same options; what is given here wins.",
)  # fmt: skip
def run(config: Path | None, **given: Any) -> None:
    """Score a dataset: every row exactly once, in parts that appear whole."""
    said = {name: value for name, value in given.items() if value not in (None, ())}
    _exit(_attempt(lambda: _run(resolve(said, config))))


def _run(spec: JobSpec) -> int:
    from contextlib import closing

    from jobs import executors
    from jobs.interrupts import Interrupts

    with Interrupts() as interrupts, closing(executors.make(spec)) as executor:
        try:
            seats = executor.seats(spec.engines, spec.threads, warm=_will_score(spec))
            interrupts.arm()  # Ray takes SIGTERM for itself
            return _drive(spec, executor, seats, interrupts)
        except Interrupted as error:
            _advise(spec)
            return error.exit_code


def _will_score(spec: JobSpec) -> bool:
    """Whether it is worth starting scorers before anything has been checked."""
    done = Path(spec.output, "_SUCCESS").exists() and not spec.restart
    return not spec.dry_run and not done and Path(spec.model).is_file()


def _drive(
    spec: JobSpec, executor: Executor, seats: tuple[Seat, ...], interrupts: Interrupts
) -> int:
    # Heavy: half a second of imports, while the scorers have theirs on other cores.
    from jobs.driver import Driver
    from jobs.progress import make

    progress = make(spec.progress)
    driver = Driver(spec, executor, progress.show, interrupts, started=_STARTED)
    try:
        summary = driver.run(seats, lambda plan: _show_plan(plan, spec))
    finally:
        progress.close()
    if summary is None:
        return 0
    _show_summary(summary, spec)
    return summary.exit_code


def _show_plan(plan: Plan, spec: JobSpec) -> None:
    """Plans are for people on stdout, unless stdout is a machine's."""
    if spec.json and spec.dry_run:
        from pipeline.wire import to_plain

        print(json.dumps(to_plain(plan), default=str))
        return
    machine = spec.json or spec.progress == "json"
    if not machine:
        print(plan, flush=True)


def _show_summary(summary: Summary, spec: JobSpec) -> None:
    from jobs.progress import print_summary

    if spec.json:
        print(json.dumps(summary.to_json()))
    elif spec.progress != "json":
        print_summary(summary)
    if summary.message:
        click.echo(f"colonnade: {summary.message}", err=True)
    if summary.exit_code >= 3:
        _advise(spec)


def _advise(spec: JobSpec) -> None:
    click.echo(f"colonnade: to go on, run\n  {spec.command()}", err=True)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--input", "inputs", multiple=True, metavar="PATH",
              help="Dataset to bind to the model's inputs, as `run` would.")  # fmt: skip
@click.option("--bind", multiple=True, metavar="INPUT=FIELD", help="As for `run`.")
@click.option("--off", multiple=True, metavar="NAME", help="As for `run`.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def explain(
    model: Path, inputs: tuple[str, ...], bind: tuple[str, ...], off: tuple[str, ...], as_json: bool
) -> None:
    """Show what the engine makes of MODEL: rewrites, kernels, sparsity, fallbacks, and why."""
    _exit(_attempt(lambda: _explain(model, inputs, bind, off, as_json)))


def _explain(
    model: Path, inputs: tuple[str, ...], bind: tuple[str, ...], off: tuple[str, ...], as_json: bool
) -> int:
    import engine
    from engine.settings import switches_of

    explanation = engine.explain(model, **switches_of(off))
    binding = _bound(model, inputs, bind) if inputs else None
    if as_json:
        from pipeline.wire import to_plain

        plain = dict(explanation.to_json())
        if binding is not None:
            plain["binding"] = to_plain(binding)
        print(json.dumps(plain))
        return 0
    print(explanation)
    if binding is not None:
        print(f"\n{binding}")
    return 0


def _bound(model: Path, inputs: tuple[str, ...], pairs: tuple[str, ...]) -> Any:
    import engine
    from pipeline.binding import bind
    from pipeline.dataset import Dataset

    requested = {name: field for name, _, field in (pair.partition("=") for pair in pairs)}
    dataset = Dataset.discover(inputs)
    program = engine.compile(model)
    return bind(dataset.schema, program.inputs, program.outputs, requested)


@options
@main.command()
@click.argument("model", type=click.Path(path_type=Path))
def bench(**given: Any) -> None:
    """Measure MODEL here: rows a second, against onnxruntime where it is, and time by node."""
    from jobs.bench import command  # numpy and onnx come with it

    _exit(_attempt(lambda: command.bench(BenchSpec(**given))))


@main.command()
@click.option("--engines", type=int, metavar="N", help="As for `run`.")
@click.option("--threads", type=int, metavar="N", help="As for `run`.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def topology(engines: int | None, threads: int | None, as_json: bool) -> None:
    """Show this machine's NUMA nodes, caches and limits, and where engines would go."""
    _exit(_attempt(lambda: _topology(engines, threads, as_json)))


def _topology(engines: int | None, threads: int | None, as_json: bool) -> int:
    from dataclasses import asdict

    from numa.placement import places
    from numa.topology import Topology

    found = Topology.discover()
    chosen = places(found, engines=engines, threads=threads)
    if as_json:
        print(json.dumps(found.to_json() | {"places": [asdict(place) for place in chosen]}))
        return 0
    print(found)
    print()
    for place in chosen:
        print(place)
    return 0


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--input", "inputs", multiple=True, metavar="PATH",
              help="Check against these files rather than those the run recorded.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def verify(output: Path, inputs: tuple[str, ...], as_json: bool) -> None:
    """Check the parts in OUTPUT against their manifest and their input: rows, checksums."""
    _exit(_attempt(lambda: _verify(output, inputs, as_json)))


def _verify(output: Path, inputs: tuple[str, ...], as_json: bool) -> int:
    from pipeline.verify import verify as check
    from pipeline.wire import to_plain

    report = check(output, inputs or None)
    print(json.dumps(to_plain(report) | {"ok": report.ok}) if as_json else report)
    return 0 if report.ok else USER


def _attempt(action: Any) -> int:
    """The action's exit code; errors made on purpose become one line on stderr and their code."""
    try:
        code: int = action()
    except (EngineError, NumaError, PipelineError, JobError) as error:
        click.echo(f"colonnade: {error}", err=True)
        return int(getattr(error, "exit_code", USER))
    except BrokenPipeError:  # `| head`: click ends the process quietly
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"colonnade: {where}{error.strerror or error}", err=True)
        return USER
    except KeyboardInterrupt as error:  # outside of `run`'s handlers; click would exit with 1
        return int(getattr(error, "exit_code", INTERRUPTED + signal.SIGINT))
    except MemoryError:
        click.echo("colonnade: out of memory; try fewer --engines or --batch-rows", err=True)
        return INFRASTRUCTURE
    return code


def _exit(code: int) -> NoReturn:
    sys.exit(code)


if __name__ == "__main__":
    main(prog_name="colonnade")
