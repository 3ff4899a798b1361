"""JobSpec: every option of a job with its default and its unit, in one place.

The command line, the TOML file and the printed resume command are all made from the fields
below. Nothing heavy is imported here: `colonnade --help` shows this table.
"""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Collection, Iterable
from dataclasses import MISSING, Field, dataclass, field, fields
from io import StringIO
from typing import Any

from engine.settings import switches_of
from numa.notation import amount


def _option(
    help: str,
    default: Any = MISSING,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of JobSpec; `least` and `most` are the bounds of a number, in the field's unit."""
    metadata = {"help": help, "choices": choices, "least": least, "most": most}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job. Paths are absolute; None means "decided by the plan", which prints what it chose."""

    model: str = _option("ONNX model file.")
    input: tuple[str, ...] = _option(
        "Parquet or Arrow IPC file, folder or glob, local or s3://..., gs://...; may be given "
        "several times."
    )
    output: str = _option("Folder for the parts, local or s3://..., gs://...; made if missing.")
    bind: tuple[str, ...] = _option(
        "INPUT=FIELD: feed the model's input INPUT from the dataset's field FIELD. "
        "Inputs bind to fields of their own name by default. INPUT=FIELD:cast rounds a field "
        "whose numbers do not fit exactly (float64 to float32, int64 to float32).",
        (),
    )
    select: tuple[str, ...] = _option(
        "OUTPUT or OUTPUT=FIELD: write only this output of the model, as a field of that name; "
        "may be given several times, in the order of the fields. What only other outputs need is "
        "not computed, nor has it to be bound. A value between two nodes may be named, too.",
        (),
    )
    keep: tuple[str, ...] | None = _option(
        "Fields to carry into the output, separated by commas ('' for none); may be given several "
        "times. "
        "Default: all that are not bound.",
        None,
    )
    executor: str = _option(
        "Where scorers run: processes of this machine, or actors of a Ray cluster.",
        "local",
        choices=("local", "ray"),
    )
    address: str | None = _option(
        "Ray cluster to join ('auto' finds it); without it, Ray is started on this machine.", None
    )
    engines: int | None = _option("Scorers a machine. Default: one a --domain.", None, least=1)
    threads: int | None = _option("Threads a scorer. Default: one a physical core.", None, least=1)
    domain: str = _option(
        "What one scorer is for, unless --engines says how many: a NUMA node, a socket with all "
        "its nodes (each gets a copy of the weights), or the cores of a node that share an L3.",
        "node",
        choices=("node", "socket", "l3"),
    )
    smt: bool = _option(
        "Threads on every CPU, not one a physical core: siblings share what kernels keep busy.",
        False,
    )
    stages: int = _option(
        "Cut the model into so many stages, each with weights of its own on a NUMA node of its "
        "own: for models too large for one. A scorer then takes so many places. 'auto': as few as "
        "fit the machines' memory and --scorer-memory.",
        1,
        least=1,
        most=1024,
    )
    scorer_memory: int | None = _option(
        "Memory that each process of a scorer may take, as 2GiB or 500MB: a plan that needs more "
        "is refused.",
        None,
        least=1,
    )
    batch_rows: int | None = _option(
        "Rows given to the model at a time. Default: chosen by the plan.",
        None,
        least=1,
        most=1 << 24,
    )
    tokenizer: str | None = _option(
        "tokenizer.json of the `tokenizers` package (extra `text`): makes token ids, and token "
        "types where the model has an input of them, of the field of text that --bind names.",
        None,
    )
    image: str | None = _option(
        "KEY=VALUE,...: the model wants pictures normalised, and encoded ones (JPEG, PNG; extra "
        "`image`) decoded: mean=...,std=...,range=1|255,size=HxW,resize=HxW|stretch,filter=....",
        None,
    )
    too_long: str = _option(
        "A row with more tokens than the model has positions for, or than --max-tokens: a row "
        "that cannot be scored, or one that is cut.",
        "reject",
        choices=("reject", "truncate"),
    )
    max_tokens: int | None = _option(
        "Tokens of a row at most. Default: as many as the model has positions for.",
        None,
        least=1,
        most=1 << 24,
    )
    before: str | None = _option(
        "MODULE:FUNCTION that makes of a pyarrow.RecordBatch as it is read another one of as many "
        "rows, whose fields are then bound and kept. It runs in the scorers; modules are found "
        "as Python finds them, for local runs in the working folder, too.",
        None,
    )
    after: str | None = _option(
        "MODULE:FUNCTION that makes of a batch of kept fields and outputs the one that is "
        "written, of as many rows.",
        None,
    )
    where: str | None = _option(
        "Score only rows of which this is true, such as \"day >= '2024-01-01' and kind in "
        "['a', 'b']\": and, or, not, comparisons, in [...], is None, over fields of the dataset. "
        "Row groups whose statistics rule it out are not read.",
        None,
    )
    format: str = _option("Format of the parts.", "parquet", choices=("parquet", "arrow"))
    compression: str = _option(
        "How parts are compressed. 'auto': Parquet by zstd, floating fields at its fastest and "
        "only where that makes a part's first rows smaller; Arrow files not at all, so that they "
        "can be memory-mapped.",
        "auto",
        choices=("auto", "zstd", "lz4", "snappy", "none"),
    )
    on_error: str = _option(
        "A row that cannot be scored: stop the job, leave it out, or write nulls for it. "
        "'skip' and 'null' also list it in the rejects.",
        "fail",
        choices=("fail", "skip", "null"),
    )
    max_errors: int | None = _option(
        "Rejected rows to tolerate before the job stops with exit code 3. Default: any number.",
        None,
        least=0,
    )
    stall_seconds: float = _option(
        "A scorer that holds a shard and says nothing for so many seconds is replaced.",
        600.0,
        least=0.1,
        most=7 * 86400,
    )
    max_restarts: int = _option(
        "Times a scorer is started anew without finishing a shard before it is given up.",
        3,
        least=0,
    )
    off: tuple[str, ...] = _option(
        "Turn off 'columns', 'sparse' kernels, 'confirm' (timing kernels that are predicted to be "
        "close), large 'pages' of memory, 'groups' (the planner's choice of how many images go "
        "side by side), 'splice' (pages of Parquet that are not pyarrow's) or a rewrite that "
        "`explain` names, to measure what it gains or to find a wrong result; may be given several "
        "times.",
        (),
    )
    restart: bool = _option("Discard what the output folder holds of an earlier run.", False)
    dry_run: bool = _option(
        "Print the plan with its memory bound and how far the output folder is, then stop.", False
    )
    progress: str = _option(
        "A bar, log lines, one JSON line an event, or nothing. 'auto': a bar on a terminal.",
        "auto",
        choices=("auto", "bar", "log", "json", "none"),
    )
    report: str = _option(
        "A page beside the manifest with throughput over time, where time went, what went wrong "
        "and the slowest shards; or none.",
        "page",
        choices=("page", "none"),
    )
    metrics: str | None = _option(
        "File for Prometheus (textfile format), rewritten every few seconds while the job runs: "
        "rows, bytes, seconds in read, run, write and wait, retries, by scorer.",
        None,
    )
    json: bool = _option(
        "Print one JSON object: the summary, the plan, and how far the output folder was.", False
    )

    @property
    def splice(self) -> bool:
        """Whether pages of plain tensors are ours: pipeline/splicing.py."""
        return SPLICE not in self.off

    @property
    def bindings(self) -> dict[str, str]:
        """Graph input -> field, as asked for with --bind."""
        return fields_by_name(self.bind)

    @property
    def selection(self) -> dict[str, str]:
        """Output of the model -> field it becomes, as asked for with --select; {} for all."""
        return fields_by_name(self.select)

    def command(self, without: Collection[str] = ()) -> str:
        """The shell command that resumes this job: same options, without --restart."""
        return shlex.join(["colonnade", "run", *self.words(("restart", "dry_run", *without))])

    def words(self, without: Collection[str] = ()) -> list[str]:
        """The options that are not at their defaults, as the command line takes them."""
        words: list[str] = []
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in without and value != option.default:
                words += _words(option.name, value)
        return words


@dataclass(frozen=True, slots=True)
class Asked:
    """What `explain` is told of a dataset, as `run` takes it."""

    inputs: tuple[str, ...]
    bind: tuple[str, ...]
    select: tuple[str, ...]
    tokenizer: str
    image: str


def engine_switches(off: Iterable[str]) -> dict[str, Any]:
    """Of what --off names, that which the engine is told."""
    return switches_of(name for name in off if name != SPLICE)


def fields_by_name(pairs: Iterable[str]) -> dict[str, str]:
    """What --bind and --select say, NAME=FIELD; NAME alone is a field of that name."""
    halves = ([half.strip() for half in pair.split("=", 1)] for pair in pairs)
    return {name: (more or [name])[0] for name, *more in halves}


def _counted(text: str) -> int:
    return AUTO if text == "auto" else int(text)


OPTIONS: dict[str, Field[Any]] = {f.name: f for f in fields(JobSpec)}
"""Every option by name, in the order of the help text."""

NUMBERS: dict[str, type] = {
    "engines": int,
    "threads": int,
    "stages": int,
    "scorer_memory": int,
    "batch_rows": int,
    "max_tokens": int,
    "max_errors": int,
    "stall_seconds": float,
    "max_restarts": int,
}
"""Options that are numbers, and of which kind."""

SPLICE = "splice"
"""The switch that is no matter of the engine."""

AUTO = 0
"""--stages auto."""

SPOKEN: dict[str, tuple[Callable[[str], int], Callable[[int], str], str]] = {
    "stages": (_counted, lambda count: str(count or "auto"), "an integer or 'auto'"),
    "scorer_memory": (amount, str, "bytes as 2GiB or 500MB"),
}
"""Numbers that people write in words: read (raises ValueError), written, and what is expected."""


def _words(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag]
    if name == "keep":
        line = StringIO()
        csv.writer(line, lineterminator="").writerow(value)
        return [flag, line.getvalue()]
    if isinstance(value, tuple):
        return [word for item in value for word in (flag, item)]
    if name in SPOKEN:
        return [flag, SPOKEN[name][1](value)]
    return [flag, f"{value:g}" if isinstance(value, float) else str(value)]
