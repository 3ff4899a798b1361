"""The binding: which field feeds which input, which fields are kept, what outputs become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

KEEP_ALL: None = None


class GraphValue(Protocol):
    """What a binding needs of engine.Value; a protocol because only shapes and types matter."""

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
    """For people: what is widened, reshaped or copied; "" when the buffer is the tensor."""


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


@dataclass(frozen=True, slots=True)
class Binding:
    fields: tuple[FieldBinding, ...]
    keep: tuple[str, ...]
    """In the order of the dataset's schema."""
    outputs: tuple[OutputField, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Fields that must be read: bound and kept, each once."""
        return tuple(dict.fromkeys([*(f.field for f in self.fields), *self.keep]))


def bind(
    schema: pa.Schema,
    inputs: Sequence[GraphValue],
    outputs: Sequence[GraphValue],
    requested: Mapping[str, str] | None = None,
    keep: Sequence[str] | None = KEEP_ALL,
    *,
    on_error: str = "fail",
) -> Binding:
    """Checks everything that can be known before the start; raises BindingError otherwise.

    `requested` maps input -> field, or input -> "field:cast" to allow an inexact conversion.
    `keep` None keeps every field that is not bound; an empty sequence keeps none.
    """
    raise NotImplementedError
