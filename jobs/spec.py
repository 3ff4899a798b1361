"""JobSpec: every option of a job with its default and its unit, in one place.

The command line, the TOML file and the printed resume command are all made from the fields
below. Nothing heavy is imported here: `colonnade --help` shows this table.
"""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jobs.errors import SpecError


def _option(
    help: str, default: Any = MISSING, *, choices: tuple[str, ...] = (), least: float | None = None
) -> Any:
    """A field of JobSpec; `least` is the smallest value allowed, in the field's own unit."""
    metadata = {"help": help, "choices": choices, "least": least}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job. Paths are absolute; None means "decided by the plan", which prints what it chose."""

    model: str = _option("ONNX model file.")
    input: tuple[str, ...] = _option(
        "Parquet or Arrow IPC file, folder or glob; may be given several times."
    )
    output: str = _option("Folder for the parts; made if missing.")
    bind: tuple[str, ...] = _option(
        "INPUT=FIELD: feed the model's input INPUT from the dataset's field FIELD. "
        "Inputs bind to fields of their own name by default.",
        (),
    )
    keep: tuple[str, ...] | None = _option(
        "Fields to carry into the output, separated by commas ('' for none). "
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
    engines: int | None = _option("Scorers a machine. Default: one a NUMA node.", None, least=1)
    threads: int | None = _option("Threads a scorer. Default: one a physical core.", None, least=1)
    batch_rows: int | None = _option(
        "Rows given to the model at a time. Default: chosen by the plan.", None, least=1
    )
    format: str = _option("Format of the parts.", "parquet", choices=("parquet", "arrow"))
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
    )
    max_restarts: int = _option(
        "Times a scorer is started anew without finishing a shard before it is given up.",
        3,
        least=0,
    )
    off: tuple[str, ...] = _option(
        "Turn off 'columns', 'sparse' kernels or a rewrite that `explain` names, to measure what "
        "it gains or to find a wrong result; may be given several times.",
        (),
    )
    restart: bool = _option("Discard what the output folder holds of an earlier run.", False)
    dry_run: bool = _option("Print the plan with its memory bound, then stop.", False)
    progress: str = _option(
        "A bar, log lines, one JSON line an event, or nothing. 'auto': a bar on a terminal.",
        "auto",
        choices=("auto", "bar", "log", "json", "none"),
    )
    json: bool = _option("Print the plan and the summary as JSON, for machines.", False)

    @property
    def bindings(self) -> dict[str, str]:
        """Graph input -> field, as asked for with --bind."""
        pairs = [item.partition("=") for item in self.bind]
        return {name.strip(): dataset_field.strip() for name, _, dataset_field in pairs}

    def command(self) -> str:
        """The shell command that resumes this job: same options, without --restart."""
        words = ["colonnade", "run"]
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in ("restart", "dry_run") or value == option.default:
                continue
            words += _words(option.name, value)
        return shlex.join(words)


OPTIONS: dict[str, Field[Any]] = {f.name: f for f in fields(JobSpec)}
"""Every option by name, in the order of the help text."""

_LISTS = ("input", "bind", "keep", "off")
_PATHS = ("model", "input", "output")
NUMBERS: dict[str, type] = {
    "engines": int,
    "threads": int,
    "batch_rows": int,
    "max_errors": int,
    "stall_seconds": float,
    "max_restarts": int,
}
"""Options that are numbers, and of which kind."""


def resolve(given: Mapping[str, Any], config: Path | None = None) -> JobSpec:
    """The JobSpec of a command line and an optional TOML file.

    `given` holds only what was said on the command line, which wins. Paths in the file are
    relative to the file, paths on the command line to the working directory.
    """
    values: dict[str, Any] = {}
    if config is not None:
        values |= _checked(_read_config(config), config.absolute().parent, str(config))
    values |= _checked(given, Path.cwd(), "command line")
    for name in ("model", "input", "output"):
        if not values.get(name):
            raise SpecError(
                f"job: expected --{name}, got none; give it here or as `{name} = ...` in --config"
            )
    spec = JobSpec(**values)
    _check_together(spec)
    return spec


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of the known names, or the empty string."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _read_config(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); check --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: expected TOML, got {error}; mend the file") from error
    return {key.replace("-", "_"): value for key, value in table.items()}


def _checked(values: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """Known names with values of the right kind; lists as tuples, paths made absolute."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if name not in OPTIONS:
            raise SpecError(
                f"{where}: unknown option {name!r}{did_you_mean(name, OPTIONS)} "
                f"known options: {', '.join(OPTIONS)}"
            )
        value = _typed(name, value, where)
        if name in _PATHS:
            value = _absolute(value, folder)
        result[name] = value
    return result


def _typed(name: str, value: Any, where: str) -> Any:
    """The value as JobSpec holds it, or a SpecError that says what was expected."""
    option = OPTIONS[name]
    if name in _LISTS:
        return _list(name, value, where)
    if name in NUMBERS:
        wanted = NUMBERS[name]
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise SpecError(f"{where}: {name}: expected {wanted.__name__}, got {value!r}")
        least = option.metadata["least"]
        if least is not None and value < least:
            raise SpecError(f"{where}: {name}: expected at least {least}, got {value}")
        return value
    wanted = bool if isinstance(option.default, bool) else str
    if type(value) is not wanted:
        raise SpecError(f"{where}: {name}: expected {wanted.__name__}, got {value!r}")
    choices: tuple[str, ...] = option.metadata["choices"]
    if choices and value not in choices:
        raise SpecError(
            f"{where}: {name}: expected one of {', '.join(choices)}, got {value!r}"
            f"{did_you_mean(str(value), choices)}"
        )
    return value


def _list(name: str, value: Any, where: str) -> tuple[str, ...]:
    if name == "bind" and isinstance(value, Mapping):  # [bind] as a TOML table
        value = [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, str):
        value = value.split(",") if name == "keep" else [value]
    items = [str(v).strip() if name == "keep" else v for v in value]
    if not all(isinstance(v, str) for v in items):
        raise SpecError(f"{where}: {name}: expected a list of strings, got {value!r}")
    for item in items if name == "bind" else ():
        if not all(part.strip() for part in item.partition("=")):
            raise SpecError(f"{where}: bind: expected INPUT=FIELD, got {item!r}")
    return tuple(v for v in items if v)


def _absolute(value: Any, folder: Path) -> Any:
    """Without following links: an input folder may be a link that is moved later."""
    if isinstance(value, tuple):
        return tuple(_absolute(item, folder) for item in value)
    return os.path.normpath(folder / Path(value).expanduser())


def _check_together(spec: JobSpec) -> None:
    names = list(spec.bindings)
    if len(names) < len(spec.bind):
        twice = [item.partition("=")[0] for item in spec.bind]
        name = next(n for n in twice if twice.count(n) > 1)
        raise SpecError(f"bind: input {name!r} is bound twice; give --bind {name}=... once")
    if spec.address is not None and spec.executor != "ray":
        raise SpecError("address: only the Ray executor joins a cluster; add --executor ray")
    if spec.max_errors is not None and spec.on_error == "fail":
        raise SpecError(
            "max_errors: --on-error fail stops at the first bad row; "
            "add --on-error skip or --on-error null"
        )


def _words(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag]
    if name == "keep":
        return [flag, ",".join(value)]
    if isinstance(value, tuple):
        return [word for item in value for word in (flag, item)]
    return [flag, f"{value:g}" if isinstance(value, float) else str(value)]
