"""The binding: which field feeds which input, which fields are kept, what outputs become."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.graph import ROWS
from pipeline import picture_binding, token_binding
from pipeline.bound import (
    Binding,
    FieldBinding,
    GraphValue,
    Lengths,
    OutputField,
    TokenRules,
    wanted,
)
from pipeline.errors import BindingError
from pipeline.hints import (
    CAST,
    did_you_mean,
    gather,
    hint,
    listed,
    refuse_inexact,
    shaped,
)
from pipeline.layout import Layout, conversion, is_encoded, is_text, layout
from pipeline.partitions import is_partition
from pipeline.picture_rules import PictureRules
from pipeline.schemas import Unlike, naming_files, refuse_unlike

__all__ = ["Binding", "FieldBinding", "GraphValue", "OutputField", "TokenRules", "bind"]


NAMED = 6
"""Fields that an advice names at most."""

KEPT = {True: "kept, as all fields are without --keep", False: "--keep"}


def bind(
    schema: pa.Schema,
    inputs: Sequence[GraphValue],
    outputs: Sequence[GraphValue],
    requested: Mapping[str, str] | None = None,
    keep: Sequence[str] | None = None,
    *,
    on_error: str = "fail",
    rules: TokenRules | None = None,
    pictures: PictureRules | None = None,
    selected: Mapping[str, str] | None = None,
    unlike: Sequence[Unlike] = (),
) -> Binding:
    """Checks everything that can be known before the start; raises BindingError otherwise.

    `requested` maps input -> field, or input -> "field:cast" to allow an inexact conversion
    (float64 to float32, int64 to float32). `keep` None keeps every field that is not bound, an
    empty sequence none. `selected` maps output -> field, where outputs were chosen. `unlike` are
    fields that not all files have alike: what is fed must be in each, what is kept may be null.
    Lengths of variable lists and nulls can only be checked row by row.
    Inputs of sequences, and what their lengths tell: pipeline/token_binding.py. Pictures:
    pipeline/picture_binding.py.
    """
    requested, selected = requested or {}, selected or {}
    _check_inputs(requested, [value.name for value in inputs], selected)
    rules = rules or TokenRules()
    texts = token_binding.texts(schema, inputs, requested, rules)
    known = token_binding.known(schema, inputs, requested, bool(texts))
    fed = [value for value in inputs if value not in known]

    def bound(value: GraphValue) -> FieldBinding:
        name, _ = _asked(schema, value, requested)
        refuse_unlike(unlike, [name], f"input {value.name!r}", nulls=False)
        with naming_files(unlike, name):
            return _bind_input(schema, value, requested, rules, pictures)

    fields = [bound(value) for value in fed]
    if known and not any(f.tokens for f in fields):  # lengths of what?
        fields += [bound(value) for value in known]
    typed = [value for value in known if texts and token_binding.is_types(value)]
    fields += [token_binding.types_of_text(schema, value, texts[0], rules) for value in typed]
    lengths = token_binding.lengths(fields, rules)
    kept = _kept(schema, {f.field for f in fields}, keep)
    refuse_unlike(unlike, kept, KEPT[keep is None], nulls=True, way=_without(kept, unlike))
    nullable = on_error == "null"
    named = [(value, selected.get(value.name, value.name)) for value in outputs]
    made = tuple(_output_field(value, name, kept, nullable, lengths) for value, name in named)
    told = tuple(value.name for value in known if value not in typed)
    return Binding(tuple(fields), kept, made, told, lengths)


def _check_inputs(
    requested: Mapping[str, str], names: Sequence[str], selected: Mapping[str, str]
) -> None:
    needed = f" that {', '.join(selected)} needs" if selected else ""
    for name in requested:
        if name not in names:
            raise BindingError(
                f"--bind {name}: expected an input of the model{needed} ({listed(names)}), "
                f"got {name!r}{did_you_mean(name, names) or '; check --bind'}"
            )


def _bind_input(
    schema: pa.Schema,
    value: GraphValue,
    requested: Mapping[str, str],
    rules: TokenRules,
    pictures: PictureRules | None,
) -> FieldBinding:
    name, cast = _asked(schema, value, requested)
    if value.shape is None or not value.shape or value.shape[0] != ROWS:
        raise BindingError(
            f"input {value.name!r}: expected a shape that starts with the rows, got "
            f"{shaped(value.shape)}; give the model a free batch dimension"
        )
    if value.dtype.hasobject:
        raise BindingError(
            f"input {value.name!r}: expected numbers, got a model that takes strings there; make "
            "numbers of them before (--before), and cut the model behind its encoder "
            "(onnx.utils.extract_model)"
        )
    if name not in schema.names:
        raise BindingError(
            f"input {value.name!r}: expected a field {name!r}, got {listed(schema.names)}"
            f"{_missing(schema, value, name if value.name in requested else None)}"
        )
    kind = schema.field(name).type
    found = layout(kind)
    where = f"input {value.name!r} from field {name!r}"
    if token_binding.is_text_for(kind, value, rules):
        return token_binding.ids_of_text(name, kind, value, rules)
    if is_encoded(kind) and picture_binding.channel_axis(value.shape) is not None:
        return picture_binding.encoded((name, kind), value, pictures)
    if isinstance(found, str):
        more = hint(schema, value.name, value.shape, value.dtype, name)
        if is_text(kind) and token_binding.is_sequence(value):
            more = "; give --tokenizer FILE to make tokens of text"
        raise BindingError(f"{where}: expected {wanted(value)}, got {kind}: {found}{more}")
    if token_binding.is_sequence(value):
        refuse_inexact(where, (value.name, value.dtype), (name, found.dtype), cast)
        return token_binding.sequence(name, kind, found, value, cast, rules)
    shape = _row_shape(where, value, found, kind)
    refuse_inexact(where, (value.name, value.dtype), (name, found.dtype), cast)
    axes = picture_binding.turned(found, shape)
    note = _note(found, value.dtype, shape, axes)
    return FieldBinding(value.name, name, str(kind), value.dtype.name, shape, cast, note, axes=axes)


def _asked(schema: pa.Schema, value: GraphValue, requested: Mapping[str, str]) -> tuple[str, bool]:
    """The field that an input is fed from, and whether it may be rounded."""
    asked = requested.get(value.name, value.name)
    cast = asked not in schema.names and asked.endswith(CAST)
    return asked.removesuffix(CAST) if cast else asked, cast


def _missing(schema: pa.Schema, value: GraphValue, asked: str | None) -> str:
    """What to do where no field has the name that was asked for, or (None) the input's own."""
    if asked is None:
        return hint(schema, value.name, value.shape, value.dtype, value.name)
    if "," in asked and all(part.strip() in schema.names for part in asked.split(",")):
        return gather(len(asked.split(",")), value.dtype)
    return did_you_mean(asked, schema.names) or "; check --bind"


def _row_shape(where: str, value: GraphValue, found: Layout, kind: pa.DataType) -> tuple[int, ...]:
    """The input's shape of one row, an open dimension filled from the field where it can be."""
    dims = (value.shape or ())[1:]
    known = math.prod(d for d in dims if isinstance(d, int))
    open_dims = [d for d in dims if not isinstance(d, int)]
    count = found.count
    if open_dims:
        opened = picture_binding.opened(found, dims)
        if opened is not None:
            return opened
        if len(open_dims) > 1 or count is None or known == 0 or count % known:
            raise BindingError(
                f"{where}: the model leaves {', '.join(map(str, open_dims))} open and {kind} does "
                "not tell; store the field with its shape (arrow.fixed_shape_tensor, or nested "
                "fixed_size_lists) or fix the model's dimensions"
            )
        return tuple(d if isinstance(d, int) else count // known for d in dims)
    if count is not None and count != known:
        raise BindingError(
            f"{where}: expected {known} elements a row ({wanted(value)}), got {count} ({found})"
            f"{'' if found.dims else gather(known, value.dtype)}"
        )
    return tuple(d for d in dims if isinstance(d, int))


def _note(
    found: Layout, dtype: np.dtype[Any], shape: tuple[int, ...], axes: tuple[int, ...]
) -> str:
    if axes:
        how = conversion(found.dtype, dtype).removesuffix("copied").removesuffix("no copy")
        return f"{how}channels turned to the {'front' if axes[0] else 'end'}, copied"
    notes = [conversion(found.dtype, dtype)]
    if found.count is None:
        notes.append("lengths checked row by row")
    elif found.dims != shape:
        notes.append(f"reshaped from [{', '.join(map(str, found.dims))}]")
    return ", ".join(notes)


def _kept(schema: pa.Schema, bound: set[str], keep: Sequence[str] | None) -> tuple[str, ...]:
    if keep is None:  # a partition's value stands in the name of the part's folder
        return tuple(f.name for f in schema if f.name not in bound and not is_partition(f))
    for name in keep:
        if name not in schema.names:
            raise BindingError(
                f"--keep {name}: expected a field ({listed(schema.names)}), got {name!r}"
                f"{did_you_mean(name, schema.names) or '; check --keep'}"
            )
    return tuple(n for n in schema.names if n in set(keep))


def _without(kept: Sequence[str], unlike: Sequence[Unlike]) -> str:
    """How to keep the others, which are named if they are few."""
    apart = {each.name for each in unlike if not each.common}
    others = [name for name in kept if name not in apart]
    few = 0 < len(others) <= NAMED and not any(set(name) & set(',"') for name in others)
    told = f" {shlex.quote(','.join(others))}" if few else ""
    return f"leave it out with --keep{told}, or "


def _output_field(
    value: GraphValue, name: str, kept: Sequence[str], nullable: bool, lengths: Lengths | None
) -> OutputField:
    where = f"output {value.name!r}"
    shape, tokens = token_binding.output_shape(value, lengths)
    if not shape or shape[0] != ROWS or any(not isinstance(d, int) for d in shape[1:]):
        raise BindingError(
            f"{where}: expected a known shape that starts with the rows, got {shaped(value.shape)}"
        )
    if value.dtype.kind not in "iufb":
        kind = "strings" if value.dtype.hasobject else value.dtype.name
        raise BindingError(
            f"{where}: expected numbers, got {kind}; choose other outputs with --select"
        )
    if name in kept:
        raise BindingError(
            f"{where}: the dataset has a field {name!r}, too; leave it out with --keep, or name "
            f"the output's with --select {value.name}=FIELD"
        )
    row = tuple(d for d in shape[1:] if isinstance(d, int))
    return OutputField(value.name, name, value.dtype.name, row, nullable, tokens)
