"""What a binding is: nouns that travel to the scorers, checked before they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from engine.graph import ROWS, TOKENS
from pipeline.hints import shaped
from pipeline.layout import arrow_type, list_type

UNLIMITED = 1 << 15
"""Tokens of a row at most where neither model nor --max-tokens tells: memory has to be bounded."""


class GraphValue(Protocol):
    """What a binding needs of engine.Value: only names, types and shapes matter."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int | str, ...] | None: ...


def wanted(value: GraphValue) -> str:
    """Its type and shape, as text."""
    return f"{value.dtype.name}{shaped(value.shape)}"


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
    """Of one row, or of one token, as the input wants it; () for a scalar."""
    cast: bool
    """Whether an inexact conversion was asked for (`--bind input=field:cast`)."""
    note: str
    """For people: what is widened, reshaped, copied or checked row by row."""
    tokens: bool = False
    """Whether a row is a sequence, of its own length or of `length`."""
    length: int | None = None
    """Tokens of every row, where the field's type tells."""
    entries: int | None = None
    """Of the table that the input's ids look up in: ids are from 0 to one less."""
    read_nbytes: int = 0
    """Of a token as it is read, where the field is a list."""
    text: str = ""
    """"ids" or "types" where the field is text: what of its tokens the input takes."""
    picture: bool = False
    """Whether the field holds encoded pictures."""
    axes: tuple[int, ...] = ()
    """Where the field's dimensions lie in another order: which of them each of `shape` is."""

    @property
    def column(self) -> str:
        """The column of a batch that is fed: the field, or what was made of it."""
        made = "pixels" if self.picture else self.text
        return f"\0{made} of {self.field}" if made else self.field

    @property
    def problems(self) -> str:
        """The column that says why rows of `column` are null where the field is not."""
        return f"\0problems of {self.field}"

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of one row, as the field has it."""
        if not self.axes:
            return self.shape
        sizes = dict(zip(self.axes, self.shape, strict=True))
        return tuple(sizes[axis] for axis in range(len(self.shape)))

    @property
    def row_nbytes(self) -> int:
        return 0 if self.tokens else math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def token_nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize if self.tokens else 0

    def __str__(self) -> str:
        dims = _dims(self.tokens, self.shape)
        return f"{self.input}: {self.dtype}[{dims}] <- {self.field}: {self.arrow} ({self.note})"


@dataclass(frozen=True, slots=True)
class OutputField:
    """One output of the model as a field of the parts.

    [N] becomes a primitive field, [N, K] fixed_size_list<K> (also for K = 1), and higher ranks
    arrow.fixed_shape_tensor. Of tokens, [N, S] becomes a list, [N, S, K] a list of
    fixed_size_list<K>. Not nullable, unless bad rows are to become nulls.
    """

    output: str
    field: str
    dtype: str
    shape: tuple[int, ...]
    nullable: bool
    tokens: bool = False
    """Whether a row is a sequence: `shape` is then that of one token."""

    @property
    def row_nbytes(self) -> int:
        """Of an offset, where a row is a sequence."""
        return 4 if self.tokens else math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def token_nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize if self.tokens else 0

    def to_arrow(self) -> pa.Field:
        make = list_type if self.tokens else arrow_type
        kind = make(np.dtype(self.dtype), self.shape, nullable=self.nullable)
        return pa.field(self.field, kind, nullable=self.nullable)

    def __str__(self) -> str:
        dims = _dims(self.tokens, self.shape)
        return f"{self.output}: {self.dtype}[{dims}] -> {self.field}: {self.to_arrow().type}"


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long sequences may be, and what becomes of longer ones."""

    most: int
    """Tokens of a row."""
    truncate: bool
    """Longer rows are cut; otherwise they are bad rows."""
    fixed: int | None = None
    """Tokens of every row as it is fed, where the fields' types tell."""
    told: bool = True
    """Whether footers tell of the fields, which a hook may make or change."""

    def __str__(self) -> str:
        end = "longer rows are " + ("cut" if self.truncate else "bad rows")
        return f"{self.fixed} tokens" if self.fixed else f"at most {self.most} tokens, {end}"


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a job and its model say of sequences, for `bind`."""

    id_limits: Mapping[str, int] = field(default_factory=dict)
    """engine.Program.id_limits"""
    model_most: int | None = None
    """engine.Program.max_tokens"""
    max_tokens: int | None = None
    """--max-tokens"""
    too_long: str = "reject"
    """--too-long"""
    tokenizer: str = ""
    """--tokenizer; "" for none."""
    hooked: bool = False
    """Whether there is --before."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Travels to the scorers as it is; everything in it was checked against both schemas."""

    fields: tuple[FieldBinding, ...]
    keep: tuple[str, ...]
    """In the order of the dataset's schema."""
    outputs: tuple[OutputField, ...]
    known: tuple[str, ...] = ()
    """Inputs that need no field: the lengths of the rows tell them."""
    lengths: Lengths | None = None
    """None where the model has no sequences."""

    @property
    def row_nbytes(self) -> int:
        """What feeds and outputs take of a row, besides its tokens."""
        fed = sum(f.row_nbytes for f in self.fields)
        return fed + sum(o.row_nbytes for o in self.outputs)

    @property
    def token_nbytes(self) -> int:
        """What they take of a token."""
        fed = sum(f.token_nbytes for f in self.fields)
        return fed + sum(o.token_nbytes for o in self.outputs)

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
        lines = [f"  {f}" for f in self.fields]
        lines += [f"  {name}: known from the lengths" for name in self.known]
        lines += [f"  lengths: {self.lengths}"] if self.lengths else []
        lines += [f"  {o}" for o in self.outputs]
        return "\n".join(["binding:", *lines, f"  kept: {', '.join(self.keep) or 'nothing'}"])


def _dims(tokens: bool, shape: tuple[int, ...]) -> str:
    return ", ".join([ROWS, *([TOKENS] if tokens else []), *map(str, shape)])
