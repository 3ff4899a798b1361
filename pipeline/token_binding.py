"""Which fields feed sequences, and what their lengths tell: the rules for inputs `[N, S, ...]`.

| field                           | feeds                                                   |
|---------------------------------|---------------------------------------------------------|
| list<int>, list<float>          | [N, S]; each row at its own length                      |
| list<fixed_size_list<float>[K]> | [N, S, K]                                               |
| fixed_size_list<int>[L]         | [N, S], of L tokens in every row                        |
| text, with --tokenizer          | [N, S] of ids; token types where the model has an input |

Masks, positions and token types that no field feeds are known from the lengths (engine/batch.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa

from engine.batch import known_by_length
from engine.graph import ROWS, TOKENS, Value
from pipeline.bound import UNLIMITED, FieldBinding, GraphValue, Lengths, TokenRules, wanted
from pipeline.errors import BindingError
from pipeline.layout import Layout, conversion, is_text

IDS, TYPES = "ids", "types"
_TYPE_WORDS = ("type", "segment")


def is_sequence(value: GraphValue) -> bool:
    return value.shape is not None and value.shape[:2] == (ROWS, TOKENS)


def is_types(value: GraphValue) -> bool:
    """Whether an input that is known by its length is one of token types."""
    return any(word in value.name.lower() for word in _TYPE_WORDS)


def is_text_for(kind: pa.DataType, value: GraphValue, rules: TokenRules) -> bool:
    """Whether the tokenizer makes this input's ids from a field of that type."""
    of_ids = value.shape == (ROWS, TOKENS) and value.dtype.kind in "iu"
    return bool(rules.tokenizer) and of_ids and is_text(kind)


def texts(
    schema: pa.Schema, inputs: Sequence[GraphValue], requested: Mapping[str, str], rules: TokenRules
) -> tuple[str, ...]:
    """Fields of text that feed ids. Raises BindingError for more or fewer than one tokenizer."""
    asked = {
        value.name: requested.get(value.name, value.name)
        for value in inputs
        if value.name in requested or known_by_length(cast(Value, value)) is None
    }
    found = {
        value.name: asked[value.name]
        for value in inputs
        if asked.get(value.name) in schema.names
        and is_text_for(schema.field(asked[value.name]).type, value, rules)
    }
    if rules.tokenizer and len(found) != 1:
        got = ", ".join(f"{name}={field}" for name, field in found.items()) or "none"
        raise BindingError(
            f"--tokenizer: expected one input of token ids that is bound to a field of text, got "
            f"{got}; do --bind input_ids=TEXT"
        )
    return tuple(found.values())


def known(
    schema: pa.Schema, inputs: Sequence[GraphValue], requested: Mapping[str, str], text: bool
) -> tuple[GraphValue, ...]:
    """Inputs that lengths tell and nothing feeds. Beside text a field that only happens to have
    an input's name, of other tokens perhaps, feeds none."""
    return tuple(
        value
        for value in inputs
        if known_by_length(cast(Value, value)) is not None
        and value.name not in requested
        and (text or value.name not in schema.names)
    )


def sequence(
    name: str, kind: pa.DataType, found: Layout, value: GraphValue, cast: bool, rules: TokenRules
) -> FieldBinding:
    """A field of lists for an input of sequences."""
    shape = tuple(d for d in (value.shape or ())[2:] if isinstance(d, int))
    each = math.prod(shape)
    where = f"input {value.name!r} from field {name!r}"
    length = None
    fits = bool(found.dims) and len(shape) == len((value.shape or ())[2:]) and each > 0
    if found.dims and found.dims[0] is None:
        fits = fits and math.prod(d or 0 for d in found.dims[1:]) == each
    elif found.count is not None and each:
        fits = fits and found.count % each == 0 and found.count >= each
        length = found.count // each
    if not fits:
        token = f"fixed_size_list[{each}]" if shape else "number"
        raise BindingError(
            f"{where}: expected {wanted(value)}, a list with a {token} for each token, got {kind}; "
            "name another field with --bind, or store it so"
        )
    note = conversion(found.dtype, value.dtype)
    note += ", each row at its own length" if length is None else f", {length} tokens a row"
    return FieldBinding(
        value.name, name, str(kind), value.dtype.name, shape, cast, note,
        tokens=True, length=length, entries=rules.id_limits.get(value.name),
        read_nbytes=each * found.dtype.itemsize,
    )  # fmt: skip


def ids_of_text(name: str, kind: pa.DataType, value: GraphValue, rules: TokenRules) -> FieldBinding:
    """A field of text for an input of ids."""
    note = f"ids of tokens, by {Path(rules.tokenizer).name}"
    return FieldBinding(
        value.name, name, str(kind), value.dtype.name, (), False, note,
        tokens=True, entries=rules.id_limits.get(value.name), text=IDS,
    )  # fmt: skip


def types_of_text(
    schema: pa.Schema, value: GraphValue, name: str, rules: TokenRules
) -> FieldBinding:
    """The same text for an input of token types."""
    kind = str(schema.field(name).type)
    note = "types of its tokens"
    return FieldBinding(
        value.name, name, kind, value.dtype.name, (), False, note,
        tokens=True, entries=rules.id_limits.get(value.name), text=TYPES,
    )  # fmt: skip


def lengths(fields: Sequence[FieldBinding], rules: TokenRules) -> Lengths | None:
    """How long rows may be; None where nothing is a sequence. Raises BindingError."""
    truncate = rules.too_long == "truncate"
    tokens = [f for f in fields if f.tokens]
    if not tokens:
        if truncate or rules.max_tokens is not None:
            option = "--too-long" if truncate else "--max-tokens"
            raise BindingError(f"{option}: expected a model of sequences, got none; leave it out")
        return None
    model_most = rules.model_most or UNLIMITED
    if rules.model_most is not None and (rules.max_tokens or 0) > rules.model_most:
        raise BindingError(
            f"--max-tokens {rules.max_tokens}: expected at most {rules.model_most}, which is all "
            "that the model has positions for; give less"
        )
    most = rules.max_tokens or model_most
    fixed = {f.length for f in tokens}
    if len(fixed) > 1 and None not in fixed:
        got = ", ".join(f"{f.field} of {f.length}" for f in tokens)
        raise BindingError(f"inputs of tokens: expected fields of one length, got {got}")
    length = tokens[0].length if len(fixed) == 1 else None
    longest = max((f.length or 0 for f in tokens), default=0)
    if longest > most and not truncate:
        raise BindingError(
            f"fields of {longest} tokens a row: expected at most {most}; do --too-long truncate"
        )
    fixed_length = None if length is None else min(length, most)
    return Lengths(most, truncate, fixed_length, told=not rules.hooked)


def output_shape(
    value: GraphValue, lengths: Lengths | None
) -> tuple[tuple[int | str, ...] | None, bool]:
    """The shape of an output with its length where that is fixed, or of a row with a token's
    shape behind the rows, and that it is one of tokens."""
    shape = value.shape
    if shape is None or lengths is None:
        return shape, False
    if lengths.fixed is not None:
        return tuple(lengths.fixed if d == TOKENS else d for d in shape), False
    return (shape[:1] + shape[2:], True) if is_sequence(value) else (shape, False)
