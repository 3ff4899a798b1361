"""Hooks: functions of the user's that change batches before their fields are bound, and before
they are written.

    --before module:function      what is read -> what is bound and kept
    --after  module:function      kept fields and outputs -> what is written

Each takes a RecordBatch and gives one of as many rows in the same order; on a batch of no rows it
gives the schema, which is how the plan knows it. How rows come in batches, nobody promises.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from pipeline.dictionaries import decoded
from pipeline.errors import InputError
from pipeline.shards import Shard

BEFORE, AFTER = "--before", "--after"


class HookError(InputError):
    """A hook cannot be imported, fails, or gives what it should not."""


@dataclass(frozen=True, slots=True)
class Hook:
    """Which function, and what its module's file held when the job was planned."""

    option: str
    """--before or --after."""
    name: str
    """module:function"""
    sha256: str
    """Of the module's source; "" where it has none."""

    @classmethod
    def of(cls, option: str, name: str | None) -> Hook | None:
        """None where the option was not given. Raises HookError."""
        if name is None:
            return None
        return cls(option, name, _source_sha256(_import(option, name)))

    def load(self) -> LoadedHook:
        """Raises HookError where it is missing, or not as planned."""
        module = _import(self.option, self.name)
        if _source_sha256(module) != self.sha256:
            raise HookError(
                f"{self}: expected the source that was planned, got another in {module.__file__}; "
                "it changed after the start, or is another file here"
            )
        return LoadedHook(self, getattr(module, self.name.partition(":")[2]))

    def __str__(self) -> str:
        return f"{self.option} {self.name}"


class LoadedHook:
    """Checks what the function makes of batches."""

    def __init__(self, hook: Hook, function: Callable[[pa.RecordBatch], Any]) -> None:
        self.hook = hook
        self._function = function
        self._told: tuple[pa.Schema, pa.Schema] | None = None

    def schema_of(self, schema: pa.Schema) -> pa.Schema:
        """The schema that it gives for batches of `schema`."""
        if self._told is None or self._told[0] is not schema:
            self._told = (schema, self._schema_of(schema))
        return self._told[1]

    def _schema_of(self, schema: pa.Schema) -> pa.Schema:
        plain = pa.schema(list(schema))
        empty = pa.RecordBatch.from_arrays(
            [column.combine_chunks() for column in plain.empty_table().columns], schema=plain
        )
        made = self._call(empty, "on a batch of no rows, which tells the schema").schema
        twice = sorted({n for n in made.names if made.names.count(n) > 1})
        if twice:
            raise HookError(f"{self.hook}: expected each field once, got {', '.join(twice)} twice")
        return pa.schema(list(made))

    def over(self, batch: pa.RecordBatch, schema: pa.Schema, shard: Shard) -> Iterator[Any]:
        """What becomes of a batch, whose fields have the types of `schema` once its dictionaries
        are decoded."""
        expected = self.schema_of(schema)
        for piece in decoded(batch, schema):
            made = self._call(piece, str(shard))
            if not made.schema.equals(expected, check_metadata=False):
                raise HookError(
                    f"{self.hook}: {shard}: expected {_fields(expected)}, as for a batch of no "
                    f"rows, got {_fields(made.schema)}; give the same fields for every batch"
                )
            yield made

    def _call(self, batch: pa.RecordBatch, where: str) -> pa.RecordBatch:
        try:
            made = self._function(batch)
        except BaseException as e:
            if _interrupts(e):
                raise
            code = getattr(self._function, "__code__", None)
            what = _what(e, code.co_filename if code else "")
            raise HookError(f"{self.hook}: {where}: {what}") from e
        if not isinstance(made, pa.RecordBatch):
            raise HookError(
                f"{self.hook}: {where}: expected a pyarrow.RecordBatch, got "
                f"{type(made).__name__}; return one"
            )
        if made.num_rows != batch.num_rows:
            raise HookError(
                f"{self.hook}: {where}: expected {batch.num_rows} rows, got {made.num_rows}; "
                "a hook gives a row for each row that it gets"
            )
        try:
            made.validate()
        except pa.ArrowException as e:
            raise HookError(f"{self.hook}: {where}: expected a sound RecordBatch: {e}") from e
        return made


def _import(option: str, name: str) -> ModuleType:
    """The module, from the working folder, too, as `python -m` finds it."""
    module_name, _, function = name.partition(":")
    if not module_name or not function.isidentifier():
        raise HookError(f"{option}: expected MODULE:FUNCTION, got {name!r}")
    here = str(Path.cwd())
    if not {here, ""} & set(sys.path):
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except BaseException as e:
        if _interrupts(e):
            raise
        raise HookError(
            f"{option} {name}: cannot be imported: {_what(e)}; it is looked for in {here}, too"
        ) from e
    if not callable(getattr(module, function, None)):
        raise HookError(f"{option} {name}: expected a function {function!r}, got none of that name")
    return module


def _source_sha256(module: ModuleType) -> str:
    try:
        path = inspect.getsourcefile(module)
        return "" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""


def _interrupts(error: BaseException) -> bool:
    """Whether it may be the user's Ctrl-C and no doing of the hook: only the main thread is
    interrupted, and sys.exit() is not how."""
    hooks_own = isinstance(error, Exception | SystemExit)
    return not hooks_own and threading.current_thread() is threading.main_thread()


def _what(error: BaseException, source: str = "") -> str:
    """An exception in a line, with the place in `source`, or else wherever it was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
    own = [frame for frame in frames if frame.filename == source] or frames
    return f"{type(error).__name__}: {error} ({Path(own[-1].filename).name}:{own[-1].lineno})"


def _fields(schema: pa.Schema) -> str:
    return ", ".join(
        f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in schema
    )
