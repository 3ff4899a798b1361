"""From what was said on the command line and in a TOML file to a JobSpec, or to a SpecError."""

from __future__ import annotations

import csv
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

from jobs.errors import ConfigError, SpecError
from jobs.spec import AUTO, NUMBERS, OPTIONS, SPOKEN, JobSpec, fields_by_name
from pipeline.stores import REMOTE, as_path, is_url, scheme

_LISTS = {
    "input": "a string or a list of strings",
    "bind": "a list of strings or a table of them",
    "select": "a string, a list of strings or a table of them",
    "keep": "a string or a list of strings",
    "off": "a string or a list of strings",
}
"""Options that are lists, and what is taken for one."""

_PAIRS = ("bind", "select")
"""Of those, what names a field for something of the model's."""

_NEEDED = ("model", "input", "output")
_STORED = ("input", "output")
"""Paths that may lie in an object store, too."""
_PATHS = (*_NEEDED, "tokenizer", "metrics")

_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


def resolve(given: Mapping[str, Any], config: Path | None = None) -> JobSpec:
    """The JobSpec of a command line and an optional TOML file.

    `given` holds only what was said on the command line, which wins. Paths in the file are
    relative to the file, paths on the command line to the working directory. Raises ConfigError
    for a fault of the file, SpecError for any other.
    """
    values: dict[str, Any] = {}
    if config is not None:
        read = _Reading(str(config), config.absolute().parent, ConfigError)
        values |= read.options(_read_config(config))
    values |= _Reading("command line", Path.cwd(), SpecError).options(given)
    for name in _NEEDED:
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


def check_pairs(pairs: Iterable[str], where: str, error: type[SpecError] = SpecError) -> None:
    """Raises for a binding that is not INPUT=FIELD."""
    for item in pairs:
        if not all(part.strip() for part in item.partition("=")):
            raise error(
                f"{where}: bind: expected INPUT=FIELD, got {item!r}; "
                "name the model's input, then the dataset's field"
            )


def check_selection(
    selected: Iterable[str], where: str, error: type[SpecError] = SpecError
) -> None:
    """Raises for an output that is not OUTPUT or OUTPUT=FIELD, and for two of one name."""
    seen: dict[str, set[str]] = {"output": set(), "field": set()}
    for item in selected:
        ((output, field),) = fields_by_name([item]).items()
        if not output or not field:
            raise error(
                f"{where}: select: expected OUTPUT or OUTPUT=FIELD, got {item!r}; "
                "name the model's output, then the field it becomes"
            )
        for what, name in (("output", output), ("field", field)):
            if name in seen[what]:
                raise error(f"{where}: select: expected each {what} once, got {name!r} twice")
            seen[what].add(name)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, got {error}; mend the file") from error
    return {key.replace("-", "_"): value for key, value in table.items()}


@dataclass(frozen=True, slots=True)
class _Reading:
    """Options from one source."""

    where: str
    folder: Path
    """Paths are relative to it."""
    error: type[SpecError]

    def options(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Known names with values of the right kind; lists as tuples, paths made absolute."""
        result: dict[str, Any] = {}
        for name, value in values.items():
            if name not in OPTIONS:
                raise self.error(
                    f"{self.where}: unknown option {name!r}"
                    f"{did_you_mean(name, OPTIONS) or ';'} known options: {', '.join(OPTIONS)}"
                )
            value = self._typed(name, value)
            if name in _PATHS:
                value = self._absolute(name, value)
            result[name] = value
        return result

    def _typed(self, name: str, value: Any) -> Any:
        """The value as JobSpec holds it."""
        if name in _LISTS:
            return self._list(name, value)
        if name in NUMBERS:
            return self._number(name, value)
        if isinstance(OPTIONS[name].default, bool):
            if not isinstance(value, bool):
                raise self._unfit(name, _NAMES[bool], value)
            return value
        return self._text(name, value)

    def _text(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self._unfit(name, _NAMES[str], value)
        choices: tuple[str, ...] = OPTIONS[name].metadata["choices"]
        if choices and value not in choices:
            near = did_you_mean(value, choices)
            raise self._unfit(name, f"one of {', '.join(choices)}", value, near)
        if not value.strip():
            # A path of nothing would be the working folder, which nobody means by it.
            raise self._unfit(name, "a path" if name in _PATHS else "some text", value)
        return value

    def _number(self, name: str, value: Any) -> Any:
        wanted = NUMBERS[name]
        if name in SPOKEN and isinstance(value, str):
            read, _, expected = SPOKEN[name]
            try:
                value = read(value)
            except (ValueError, OverflowError):
                raise self._unfit(name, expected, value) from None
            if name == "stages" and value == AUTO:
                return value
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise self._unfit(name, _NAMES[wanted], value)
        least, most = (OPTIONS[name].metadata[bound] for bound in ("least", "most"))
        if least is not None and not value >= least:  # nan is not, either
            raise self._unfit(name, f"at least {least:g}", value)
        if most is not None and value > most:
            raise self._unfit(name, f"at most {most:,}", value)
        return value

    def _list(self, name: str, value: Any) -> tuple[str, ...]:
        items = value
        if name in _PAIRS and isinstance(value, Mapping):  # [bind] as a TOML table
            if not all(isinstance(v, str) for v in value.values()):
                raise self._unfit(name, _LISTS[name], value)
            items = [f"{key}={item}" for key, item in value.items()]
        elif isinstance(value, str):
            items = self._keep(value) if name == "keep" else [value]
        if not isinstance(items, list | tuple) or not all(isinstance(v, str) for v in items):
            raise self._unfit(name, _LISTS[name], value)
        if name == "bind":
            check_pairs(items, self.where, self.error)
        if name == "select":
            check_selection(items, self.where, self.error)
        if name == "keep":
            items = [item.strip() for item in items]
        if name == "input":
            return tuple(self._text(name, item) for item in items)
        return tuple(v for v in items if v)

    def _keep(self, text: str) -> list[str]:
        """Names between commas; one with a comma of its own stands in quotes, as in CSV."""
        try:
            rows = list(csv.reader(StringIO(text, newline=""), skipinitialspace=True, strict=True))
        except csv.Error as e:
            raise self._unfit("keep", f'names as a,"b,c" ({e})', text) from e
        if len(rows) > 1:
            raise self._unfit("keep", "names in one line", text)
        return rows[0] if rows else []

    def _absolute(self, name: str, value: Any) -> Any:
        """Without following links: an input folder may be a link that is moved later."""
        if isinstance(value, tuple):
            return tuple(self._absolute(name, item) for item in value)
        value = as_path(value)
        if scheme(value):
            return self._url(name, value)
        try:
            return os.path.normpath(self.folder / Path(value).expanduser())
        except RuntimeError as error:  # ~nobody
            raise self._unfit(name, "a path", value, f"; {error}") from error

    def _url(self, name: str, value: str) -> str:
        if name not in _STORED:
            raise self._unfit(name, "a file of this machine", value, "; copy it here first")
        if not is_url(value):
            known = ", ".join(f"{known}://" for known in ("file", *REMOTE))
            raise self._unfit(name, f"a path, or a URL that starts with one of {known}", value)
        if not value.partition("://")[2].strip("/"):
            raise self._unfit(name, "the name of a bucket", value)
        return value.rstrip("/")

    def _unfit(self, name: str, wanted: str, value: Any, more: str = "") -> SpecError:
        return self.error(f"{self.where}: {name}: expected {wanted}, got {value!r}{more}")


def _check_together(spec: JobSpec) -> None:
    names = list(spec.bindings)
    if len(names) < len(spec.bind):
        twice = [item.partition("=")[0] for item in spec.bind]
        name = next(n for n in twice if twice.count(n) > 1)
        raise SpecError(f"bind: input {name!r} is bound twice; give --bind {name}=... once")
    if spec.address is not None and spec.executor != "ray":
        raise SpecError("address: only the Ray executor joins a cluster; add --executor ray")
    if spec.format == "arrow" and spec.compression == "snappy":
        raise SpecError(
            "compression: Arrow files know zstd and lz4, not snappy; take one of them, or auto"
        )
    if spec.stages != 1 and spec.domain == "socket":
        raise SpecError(
            "stages: expected a NUMA node for each, got --domain socket, which has several; "
            "do without one of them, or take --domain l3"
        )
    if spec.max_errors is not None and spec.on_error == "fail":
        raise SpecError(
            "max_errors: --on-error fail stops at the first bad row; "
            "add --on-error skip or --on-error null"
        )
