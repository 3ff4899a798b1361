"""What to do when a field does not fit an input: the end of the binding's refusals."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipeline.errors import BindingError
from pipeline.layout import Layout, exactly_widens, layout, may_cast

CAST = ":cast"
"""Suffix of a requested field that allows an inexact conversion."""


def listed(names: Iterable[str]) -> str:
    """The names in a row; never a blank."""
    return ", ".join(names) or "none"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def hint(
    schema: pa.Schema,
    name: str,
    shape: tuple[int | str, ...] | None,
    dtype: np.dtype[np.generic],
    tried: str,
) -> str:
    """For the input `name`, which the field `tried` did not fit, or which found none of its name.

    `--bind input=field` for the first field that would fit; else what the data lack; else the
    field with a like name, for the next message to be about.
    """
    want = math.prod(d for d in (shape or ())[1:] if isinstance(d, int))
    for field in schema:
        found = layout(field.type)
        if field.name == tried or not isinstance(found, Layout):
            continue
        if found.dims and found.count in (want, None):
            exact = exactly_widens(found.dtype, dtype)
            if exact or may_cast(found.dtype, dtype):
                return f"; did you mean --bind {name}={field.name}{'' if exact else CAST}?"
    if 1 < want <= len(scalars(schema)):
        return gather(want, dtype)
    if tried in schema.names:
        return "; convert the field to numbers first, or name another with --bind"
    close = difflib.get_close_matches(name, schema.names, n=1)
    return f"; name it with --bind {name}={close[0] if close else 'FIELD'}"


def scalars(schema: pa.Schema) -> list[str]:
    """Fields that are one number a row."""
    layouts = ((field.name, layout(field.type)) for field in schema)
    return [name for name, found in layouts if isinstance(found, Layout) and not found.dims]


def gather(count: int, dtype: np.dtype[np.generic]) -> str:
    """What to do with numbers that lie in fields of their own."""
    kind = f"fixed_size_list<{pa.from_numpy_dtype(dtype)}>[{count}]"
    return (
        "; an input is fed from one field, several cannot be joined here yet: "
        f"write them into one {kind} field first"
    )


def refuse_inexact(
    where: str,
    target: tuple[str, np.dtype[np.generic]],
    source: tuple[str, np.dtype[np.generic]],
    cast: bool,
) -> None:
    """Raises BindingError for a field (name, type) whose numbers do not fit an input's exactly,
    unless that was asked for."""
    (name, wanted), (field, found) = target, source
    if exactly_widens(found, wanted) or (cast and may_cast(found, wanted)):
        return
    round_it = f"do --bind {name}={field}{CAST} to round"
    advice = round_it if may_cast(found, wanted) else "convert the field first"
    raise BindingError(
        f"{where}: expected {wanted.name}, got {found.name}, which does not fit exactly; {advice}"
    )


def shaped(shape: tuple[int | str, ...] | None) -> str:
    return "none" if shape is None else f"[{', '.join(map(str, shape))}]"
