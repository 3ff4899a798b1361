"""The command `colonnade`: run, submit, status, stop, explain, bench, topology, verify.

Nothing heavy is imported at the top: `--help` must answer at once, and the local executor must
never import ray.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.attempts import leave_with
from jobs.bench.spec import BenchSpec, options
from jobs.errors import USER, SpecError
from jobs.resolving import check_pairs, check_selection
from jobs.run import run
from jobs.spec import OPTIONS, Asked
from jobs.submit import status, stop, submit

if TYPE_CHECKING:
    from engine.explanation import Explanation
    from engine.measuring import Measurement


def _show_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"colonnade {version('colonnade')}")
    except PackageNotFoundError:  # run from a clone
        click.echo("colonnade, not installed")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the version and exit.",
)  # fmt: skip
def main() -> None:
    """Score large datasets with pruned neural networks, on ordinary CPUs.

    ONNX model and Parquet dataset in, Parquet dataset out; every row exactly once.
    """


for command in (run, submit, status, stop):
    main.add_command(command)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--input", "inputs", multiple=True, metavar="PATH",
              help="Dataset to bind to the model's inputs, as `run` would.")  # fmt: skip
@click.option("--bind", multiple=True, metavar="INPUT=FIELD", help="As for `run`.")
@click.option("--select", multiple=True, metavar="OUTPUT[=FIELD]", help="As for `run`.")
@click.option("--tokenizer", metavar="FILE", default="", help="As for `run`.")
@click.option("--image", metavar="KEY=VALUE,...", default="", help="As for `run`.")
@click.option("--off", multiple=True, metavar="NAME", help="As for `run`.")
@click.option("--measure", is_flag=True,
              help="Time every kernel that a layer could have, on one core.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def explain(
    model: Path, inputs: tuple[str, ...], bind: tuple[str, ...], select: tuple[str, ...],
    tokenizer: str, image: str, off: tuple[str, ...], measure: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show what the engine makes of MODEL: rewrites, kernels, sparsity, fallbacks, and why."""
    asked = Asked(inputs, bind, select, tokenizer, image)
    leave_with(lambda: _explain(model, asked, off, measure, as_json))


def _explain(model: Path, asked: Asked, off: tuple[str, ...], measure: bool, as_json: bool) -> int:
    check_pairs(asked.bind, "explain")
    check_selection(asked.select, "explain")
    for option in ("bind", "image"):
        if getattr(asked, option) and not asked.inputs:
            raise SpecError(
                f"explain: {option}: expected --input too; give the dataset with the fields"
            )
    from jobs.explaining import explained

    explanation, binding, differ = explained(model, asked, off)
    measured = _measured(explanation) if measure else None
    if as_json:
        from pipeline.wire import to_plain

        plain = dict(explanation.to_json())
        if measured is not None:
            plain["measured"] = measured.to_json()
        if binding is not None:
            plain["binding"] = to_plain(binding)
            plain["differ"] = differ
        print(json.dumps(plain))
        return 0
    print(explanation)
    if measured is not None:
        print(f"\n{measured}")
    if binding is not None:
        print(f"\n{binding}")
    if differ:
        print(f"  files differ: {differ}")
    return 0


def _measured(explanation: Explanation) -> Measurement:
    from engine.measuring import measure_choices  # machine code comes with it

    return measure_choices(explanation)


@options
@main.command()
@click.argument("model", type=click.Path(path_type=Path))
def bench(**given: Any) -> None:
    """Measure MODEL here: rows a second, against onnxruntime where it is, and time by node."""
    from jobs.bench import command  # numpy and onnx come with it

    leave_with(lambda: command.bench(BenchSpec(**given)))


@main.command()
@click.option("--engines", type=click.IntRange(1), metavar="N", help="As for `run`.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="As for `run`.")
@click.option("--domain", type=click.Choice(OPTIONS["domain"].metadata["choices"]),
              default="node", help="As for `run`.")  # fmt: skip
@click.option("--smt", is_flag=True, help="As for `run`.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def topology(as_json: bool, **wanted: Any) -> None:
    """Show this machine's NUMA nodes, sockets, caches and limits, and where engines would go."""
    leave_with(lambda: _topology(wanted, as_json))


def _topology(wanted: dict[str, Any], as_json: bool) -> int:
    from dataclasses import asdict

    from numa.placement import places
    from numa.topology import Topology

    found = Topology.discover()
    chosen = places(found, **wanted)
    if as_json:
        print(json.dumps(found.to_json() | {"places": [asdict(place) for place in chosen]}))
        return 0
    print(f"{found}\n")
    for place in chosen:
        print(place)
    return 0


@main.command()
@click.argument("output", metavar="FOLDER")
@click.option("--input", "inputs", multiple=True, metavar="PATH",
              help="Check against these files rather than those the run recorded.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def verify(output: str, inputs: tuple[str, ...], as_json: bool) -> None:
    """Check the parts in FOLDER against their manifest and their input: rows, checksums."""
    leave_with(lambda: _verify(output, inputs, as_json))


def _verify(output: str, inputs: tuple[str, ...], as_json: bool) -> int:
    from pipeline.verify import verify as check
    from pipeline.wire import to_plain

    report = check(output, inputs or None)
    print(json.dumps(to_plain(report) | {"ok": report.ok}) if as_json else report)
    return 0 if report.ok else USER


if __name__ == "__main__":
    main(prog_name="colonnade")
