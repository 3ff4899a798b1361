"""BenchSpec: every option of `colonnade bench`, from which its command line is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from jobs.errors import SpecError
from jobs.resolving import check_pairs, check_selection
from jobs.spec import fields_by_name


def _option(help: str, default: Any, kind: Any = str, metavar: str = "") -> Any:
    """A field of BenchSpec with its help."""
    metadata = {"help": help, "kind": kind, "metavar": metavar or None}
    return field(default=default, metadata=metadata)


_LEAST = {"rows": 1, "tokens": 1, "rounds": 1, "threads": 1, "seconds": 0.001}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSpec:
    """One bench. None means "decided by the bench", which reports what it chose."""

    model: Path
    input: tuple[str, ...] = _option(
        "Dataset to take real rows from, as `run` would; without it rows are made up, seeded.",
        (),
        metavar="PATH",
    )
    bind: tuple[str, ...] = _option("As for `run`.", (), metavar="INPUT=FIELD")
    select: tuple[str, ...] = _option(
        "As for `run`; onnxruntime runs only what they need, too.", (), metavar="OUTPUT[=FIELD]"
    )
    image: str | None = _option(
        "As for `run`, with --input. Pictures are decoded and normalised before anyone is timed.",
        None,
        metavar="KEY=VALUE,...",
    )
    rows: int | None = _option(
        "Rows of a batch. Default: 1024, fewer if feeds are above 16 MiB then; of sequences, as "
        "many as have 1024 tokens, at least 8.",
        None,
        int,
        "N",
    )
    tokens: int | None = _option(
        "Tokens of a made-up row. Default: 128, fewer if the model has fewer positions.",
        None,
        int,
        "N",
    )
    seconds: float = _option("Length of each measurement.", 0.5, float, "S")
    rounds: int = _option("Turns of every contender; medians are shown.", 5, int, "R")
    threads: int | None = _option(
        "Cores for the measurements on all cores. Default: all of a NUMA node.", None, int, "N"
    )
    engine_only: bool = _option("Leave out onnxruntime even where it is installed.", False, bool)
    json: bool = _option("For machines.", False, bool)
    html: Path | None = _option(  # noqa: RUF009 - _option is a field
        "Also write one self-contained page, with the network drawn as columns.", None, Path, "FILE"
    )

    def __post_init__(self) -> None:
        for name, least in (
            ("rows", 1),
            ("tokens", 1),
            ("rounds", 1),
            ("threads", 1),
            ("seconds", 0.001),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise SpecError(f"bench: {name}: expected at least {least}, got {value}")
        check_pairs(self.bind, "bench")
        check_selection(self.select, "bench")
        if self.bind and not self.input:
            raise SpecError("bench: bind: expected --input too; give the dataset with the fields")
        if self.image and not self.input:
            raise SpecError(
                "bench: image: expected --input too; give the dataset with the pictures"
            )
        if self.tokens is not None and self.input:
            raise SpecError("bench: tokens: rows of --input have their own lengths; leave it out")
        if self.html is not None and (self.html.is_dir() or not self.html.parent.is_dir()):
            raise SpecError(f"{self.html}: expected a file in a folder that exists; choose another")

    @property
    def bindings(self) -> dict[str, str]:
        """Graph input -> field."""
        return fields_by_name(self.bind)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Those that are wanted; () for all."""
        return tuple(fields_by_name(self.select))


def options(command: click.Command) -> click.Command:
    """An option for every field of BenchSpec that has a default, in their order."""
    for option in fields(BenchSpec):
        if option.default is not MISSING:
            command.params.append(_as_click(option.name, option.default, option.metadata))
    return command


def _as_click(name: str, default: Any, metadata: Any) -> click.Option:
    flag, text = f"--{name.replace('_', '-')}", metadata["help"]
    if metadata["kind"] is bool:
        return click.Option([flag, name], is_flag=True, help=text)
    if default not in (None, ()):
        text += f"  [default: {default:g}]"
    kind: Any = metadata["kind"]
    if kind is Path:
        kind = click.Path(path_type=Path)
    converted: Callable[..., Any] | Any = kind
    return click.Option(
        [flag, name], type=converted, default=default, help=text,
        multiple=default == (), metavar=metadata["metavar"],
    )  # fmt: skip
