"""The binding: which field feeds which input, which fields are kept, what outputs become."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from engine.graph import ROWS
from pipeline.errors import BindingError
from pipeline.layout import Layout, arrow_type, exactly_widens, layout, may_cast

CAST = ":cast"
"""Suffix of a requested field that allows an inexact conversion."""


class GraphValue(Protocol):
    """What a binding needs of engine.Value: only names, types and shapes matter."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int | str, ...] | None: ...


@dataclass(frozen=True, slots=True)
class FieldBinding:
    """One field of the dataset feeding one input of the model."""

    input: str
    field: str
    arrow: str
    """Arrow type of the field, as text."""
    dtype: str
    """numpy element type that the input wants."""
    shape: tuple[int, ...]
    """Of one row, as the input wants it; () for a scalar a row."""
    cast: bool
    """Whether an inexact conversion was asked for (`--bind input=field:cast`)."""
    note: str
    """For people: what is widened, reshaped, copied or checked row by row."""

    @property
    def row_nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        dims = ", ".join([ROWS, *map(str, self.shape)])
        return f"{self.input}: {self.dtype}[{dims}] <- {self.field}: {self.arrow} ({self.note})"


@dataclass(frozen=True, slots=True)
class OutputField:
    """One output of the model as a field of the parts.

    [N] becomes a primitive field, [N, K] fixed_size_list<K> (also for K = 1), and higher ranks
    arrow.fixed_shape_tensor. Not nullable, unless bad rows are to become nulls.
    """

    output: str
    field: str
    dtype: str
    shape: tuple[int, ...]
    nullable: bool

    @property
    def row_nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def to_arrow(self) -> pa.Field:
        kind = arrow_type(np.dtype(self.dtype), self.shape, nullable=self.nullable)
        return pa.field(self.field, kind, nullable=self.nullable)

    def __str__(self) -> str:
        dims = ", ".join([ROWS, *map(str, self.shape)])
        return f"{self.output}: {self.dtype}[{dims}] -> {self.field}: {self.to_arrow().type}"


@dataclass(frozen=True, slots=True)
class Binding:
    """Travels to the scorers as it is; everything in it was checked against both schemas."""

    fields: tuple[FieldBinding, ...]
    keep: tuple[str, ...]
    """In the order of the dataset's schema."""
    outputs: tuple[OutputField, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields that must be read: bound and kept, each once."""
        return tuple(dict.fromkeys([*(f.field for f in self.fields), *self.keep]))

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        """Kept fields as they are, then the outputs.

        Field metadata and nullability stay; the schema's own metadata does not: what pandas and
        others write there speaks of the input file as a whole.
        """
        kept = [schema.field(name) for name in self.keep]
        return pa.schema([*kept, *(o.to_arrow() for o in self.outputs)])

    def __str__(self) -> str:
        lines = [f"  {f}" for f in self.fields] + [f"  {o}" for o in self.outputs]
        return "\n".join(["binding:", *lines, f"  kept: {', '.join(self.keep) or 'nothing'}"])


def bind(
    schema: pa.Schema,
    inputs: Sequence[GraphValue],
    outputs: Sequence[GraphValue],
    requested: Mapping[str, str] | None = None,
    keep: Sequence[str] | None = None,
    *,
    on_error: str = "fail",
) -> Binding:
    """Checks everything that can be known before the start; raises BindingError otherwise.

    `requested` maps input -> field, or input -> "field:cast" to allow an inexact conversion
    (float64 to float32, int64 to float32). `keep` None keeps every field that is not bound, an
    empty sequence none. Lengths of variable lists and nulls can only be checked row by row.
    """
    requested = requested or {}
    names = [value.name for value in inputs]
    for name in requested:
        if name not in names:
            raise BindingError(
                f"--bind {name}: expected an input of the model ({', '.join(names)}), "
                f"got {name!r}{_did_you_mean(name, names)}"
            )
    fields = tuple(_bind_input(schema, value, requested) for value in inputs)
    kept = _kept(schema, {f.field for f in fields}, keep)
    nullable = on_error == "null"
    return Binding(fields, kept, tuple(_output_field(value, kept, nullable) for value in outputs))


def _bind_input(schema: pa.Schema, value: GraphValue, requested: Mapping[str, str]) -> FieldBinding:
    wanted = requested.get(value.name, value.name)
    cast = wanted not in schema.names and wanted.endswith(CAST)
    name = wanted.removesuffix(CAST) if cast else wanted
    if value.shape is None or not value.shape or value.shape[0] != ROWS:
        raise BindingError(
            f"input {value.name!r}: expected a shape that starts with the rows, got "
            f"{_shape(value.shape)}; give the model a free batch dimension"
        )
    if name not in schema.names:
        explicit = value.name in requested
        raise BindingError(
            f"input {value.name!r}: expected a field {name!r}, got {', '.join(schema.names)}"
            f"{_did_you_mean(name, schema.names) if explicit else _hint(schema, value)}"
        )
    kind = schema.field(name).type
    found = layout(kind)
    where = f"input {value.name!r} from field {name!r}"
    if isinstance(found, str):
        raise BindingError(
            f"{where}: expected {_wanted(value)}, got {kind}: {found}{_hint(schema, value)}"
        )
    shape = _row_shape(where, value, found, kind)
    if not exactly_widens(found.dtype, value.dtype) and not (
        cast and may_cast(found.dtype, value.dtype)
    ):
        advice = (
            f"do --bind {value.name}={name}{CAST} to round"
            if may_cast(found.dtype, value.dtype)
            else "convert the field first"
        )
        raise BindingError(
            f"{where}: expected {value.dtype.name}, got {found.dtype.name}, which does not fit "
            f"exactly; {advice}"
        )
    note = _note(found, value.dtype, shape)
    return FieldBinding(value.name, name, str(kind), value.dtype.name, shape, cast, note)


def _row_shape(where: str, value: GraphValue, found: Layout, kind: pa.DataType) -> tuple[int, ...]:
    """The input's shape of one row, an open dimension filled from the field where it can be."""
    dims = (value.shape or ())[1:]
    known = math.prod(d for d in dims if isinstance(d, int))
    open_dims = [d for d in dims if not isinstance(d, int)]
    count = found.count
    if open_dims:
        if len(open_dims) > 1 or count is None or known == 0 or count % known:
            raise BindingError(
                f"{where}: the model leaves {', '.join(map(str, open_dims))} open and {kind} does "
                "not tell; store the field as fixed_size_list or fix the model's dimension"
            )
        return tuple(d if isinstance(d, int) else count // known for d in dims)
    if count is not None and count != known:
        raise BindingError(
            f"{where}: expected {known} elements a row ({_wanted(value)}), got {count} ({found})"
        )
    return tuple(d for d in dims if isinstance(d, int))


def _note(found: Layout, dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    notes = []
    if not exactly_widens(found.dtype, dtype):
        notes.append(f"rounded from {found.dtype.name}, copied")
    elif found.dtype != dtype:
        notes.append(f"widened from {found.dtype.name}, copied")
    elif found.dtype == np.bool_:
        notes.append("bits unpacked, copied")
    else:
        notes.append("no copy")
    if found.count is None:
        notes.append("lengths checked row by row")
    elif found.dims != shape:
        notes.append(f"reshaped from [{', '.join(map(str, found.dims))}]")
    return ", ".join(notes)


def _kept(schema: pa.Schema, bound: set[str], keep: Sequence[str] | None) -> tuple[str, ...]:
    if keep is None:
        return tuple(n for n in schema.names if n not in bound)
    for name in keep:
        if name not in schema.names:
            raise BindingError(
                f"--keep {name}: expected a field ({', '.join(schema.names)}), got {name!r}"
                f"{_did_you_mean(name, schema.names)}"
            )
    return tuple(n for n in schema.names if n in set(keep))


def _output_field(value: GraphValue, kept: Sequence[str], nullable: bool) -> OutputField:
    where = f"output {value.name!r}"
    shape = value.shape
    if not shape or shape[0] != ROWS or any(not isinstance(d, int) for d in shape[1:]):
        raise BindingError(
            f"{where}: expected a known shape that starts with the rows, got {_shape(shape)}"
        )
    if value.dtype.kind not in "iufb":
        raise BindingError(f"{where}: expected numbers, got {value.dtype.name}")
    if value.name in kept:
        raise BindingError(
            f"{where}: the dataset has a field of that name too; leave it out with --keep"
        )
    row = tuple(d for d in shape[1:] if isinstance(d, int))
    return OutputField(value.name, value.name, value.dtype.name, row, nullable)


def _shape(shape: tuple[int | str, ...] | None) -> str:
    return "none" if shape is None else f"[{', '.join(map(str, shape))}]"


def _wanted(value: GraphValue) -> str:
    return f"{value.dtype.name}{_shape(value.shape)}"


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _hint(schema: pa.Schema, value: GraphValue) -> str:
    """`--bind input=field` for the first field that would fit, or the one with a like name."""
    want = math.prod(d for d in (value.shape or ())[1:] if isinstance(d, int))
    for field in schema:
        found = layout(field.type)
        if isinstance(found, Layout) and found.dims and found.count in (want, None):
            exact = exactly_widens(found.dtype, value.dtype)
            if exact or may_cast(found.dtype, value.dtype):
                suffix = "" if exact else CAST
                return f"; did you mean --bind {value.name}={field.name}{suffix}?"
    close = difflib.get_close_matches(value.name, schema.names, n=1)
    guess = close[0] if close else "FIELD"
    return f"; name it with --bind {value.name}={guess}"
