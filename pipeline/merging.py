"""One Arrow type that holds the values of several exactly, as the files of a dataset may have a
field, or the reason why there is none.

    merged([pa.int32(), pa.int64()])        int64
    merged([pa.string(), pa.int64()])       "no type holds both exactly"

The order of the types does not matter for what is held. Nothing is rounded: int64 beside a floating
type has none. A finer unit of time may be too fine for a value, which reading it then says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.layout import exactly_widens

Kinds = Sequence[pa.DataType]

NO_TYPE = "no type holds both exactly"
NO_ZONE = "some have a time zone and some have none"
NO_SIZE = "lists of different sizes"


def merged(kinds: Kinds) -> pa.DataType | str:
    """The type, or why not. Types that differ in names of list elements alone are the first."""
    told = [kind for kind in kinds if not pa.types.is_null(kind)]
    if not told:
        return pa.null()
    if all(kind == told[0] for kind in told):
        return told[0]
    if any(map(pa.types.is_dictionary, told)):
        return merged([k.value_type if pa.types.is_dictionary(k) else k for k in told])
    for belongs, join in _FAMILIES:
        if all(map(belongs, told)):
            return join(told)
    return NO_TYPE


def merged_field(fields: Sequence[pa.Field], *, nullable: bool = False) -> pa.Field | str:
    """Of fields of one name: nullable where any of them is, with the first one's metadata."""
    kind = merged([field.type for field in fields])
    if isinstance(kind, str):
        return kind
    return fields[0].with_type(kind).with_nullable(nullable or any(f.nullable for f in fields))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


_INTEGERS = (
    pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(),
    pa.uint64(),
)  # fmt: skip
_FLOATS = (pa.float16(), pa.float32(), pa.float64())


def _number(kinds: Kinds) -> pa.DataType | str:
    """The smallest type that has each value of each."""
    choice = _FLOATS if any(map(pa.types.is_floating, kinds)) else _INTEGERS
    for kind in choice:
        if all(exactly_widens(_numpy(k), _numpy(kind)) for k in kinds):
            return kind
    return NO_TYPE


def _numpy(kind: pa.DataType) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return found


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


_UNITS = ("s", "ms", "us", "ns")
_UTC = frozenset({"UTC", "Etc/UTC", "Z", "+00:00", "GMT"})


def _finest(kinds: Kinds) -> str:
    return _UNITS[max(_UNITS.index(kind.unit) for kind in kinds)]


def _timestamp(kinds: Kinds) -> pa.DataType | str:
    """Moments of different zones are told in UTC."""
    zones = {"UTC" if kind.tz in _UTC else kind.tz for kind in kinds}
    if None in zones and len(zones) > 1:
        return NO_ZONE
    return pa.timestamp(_finest(kinds), zones.pop() if len(zones) == 1 else "UTC")


def _time(kinds: Kinds) -> pa.DataType:
    unit = _finest(kinds)
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def _decimal(kinds: Kinds) -> pa.DataType | str:
    scale = max(kind.scale for kind in kinds)
    precision = max(kind.precision - kind.scale for kind in kinds) + scale
    if precision > 76:
        return NO_TYPE
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _is_tensor(kind: pa.DataType) -> bool:
    """With its dimensions in their order: others cannot be told from lists of their elements."""
    if not isinstance(kind, pa.FixedShapeTensorType):
        return False
    return kind.permutation is None or list(kind.permutation) == sorted(kind.permutation)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return _is_tensor(kind) or bool(
        types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    )


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if _is_tensor(kind) else kind


def _list(kinds: Kinds) -> pa.DataType | str:
    """Lists of one size as such, beside others as lists of any. Tensors of one shape stay so."""
    stored = [_storage(kind) for kind in kinds]
    element = merged_field([kind.value_field for kind in stored])
    if isinstance(element, str):
        return element
    fixed = [kind for kind in stored if pa.types.is_fixed_size_list(kind)]
    if len({kind.list_size for kind in fixed}) > 1:
        return NO_SIZE
    element = pa.field("item", element.type, element.nullable)
    if len(fixed) == len(kinds):
        shapes = {tuple(kind.shape) for kind in kinds if _is_tensor(kind)}
        if all(map(_is_tensor, kinds)) and len(shapes) == 1:
            return pa.fixed_shape_tensor(element.type, shapes.pop())
        return pa.list_(element, fixed[0].list_size)
    large = any(map(pa.types.is_large_list, stored))
    return pa.large_list(element) if large else pa.list_(element)


def _struct(kinds: Kinds) -> pa.DataType | str:
    """All their fields, in the order in which they first come; of some missing ones, nulls."""
    names = list(dict.fromkeys(kind.field(i).name for kind in kinds for i in range(len(kind))))
    if any(len({field.name for field in kind}) != len(kind) for kind in kinds):
        return NO_TYPE  # which of two of one name is which?
    fields = []
    for name in names:
        own = [kind.field(kind.get_field_index(name)) for kind in kinds if _has(kind, name)]
        field = merged_field(own, nullable=len(own) < len(kinds))
        if isinstance(field, str):
            return f"{name}: {field}"
        fields.append(field)
    return pa.struct(fields)


def _has(kind: pa.DataType, name: str) -> bool:
    return bool(kind.get_field_index(name) >= 0)


def _map(kinds: Kinds) -> pa.DataType | str:
    key, item = merged([k.key_type for k in kinds]), merged_field([k.item_field for k in kinds])
    if isinstance(key, str) or isinstance(item, str):
        return key if isinstance(key, str) else str(item)
    return pa.map_(key, item, keys_sorted=all(kind.keys_sorted for kind in kinds))


_FAMILIES: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Kinds], pa.DataType | str]], ...]
_FAMILIES = (
    (_is_number, _number),
    (_is_text, lambda kinds: pa.large_string()),
    (_is_bytes, lambda kinds: pa.large_binary()),
    (pa.types.is_timestamp, _timestamp),
    (pa.types.is_time, _time),
    (pa.types.is_duration, lambda kinds: pa.duration(_finest(kinds))),
    (pa.types.is_date, lambda kinds: pa.date64()),
    (pa.types.is_decimal, _decimal),
    (_is_list, _list),
    (pa.types.is_struct, _struct),
    (pa.types.is_map, _map),
)
"""Types that may stand for each other, and what holds them all; different families have none."""


def null_nbytes(kind: pa.DataType) -> int:
    """What a row takes of a field that a file does not have."""
    return -(-int(pa.nulls(64, kind).nbytes) // 64)
