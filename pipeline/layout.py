"""How an Arrow type lays one row out: its dimensions and its element type."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_BINARIES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


@dataclass(frozen=True, slots=True)
class Layout:
    """`dims` of one row, outermost first; () for a scalar. None is a list of any length."""

    dims: tuple[int | None, ...]
    dtype: np.dtype[Any]

    @property
    def count(self) -> int | None:
        """Elements a row, or None where only the data can tell."""
        fixed = [d for d in self.dims if d is not None]
        return math.prod(fixed) if len(fixed) == len(self.dims) else None

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.dims)
        return f"{self.dtype.name}[{dims}]" if self.dims else self.dtype.name


def layout(kind: pa.DataType) -> Layout | str:
    """The layout of a field's type, or the reason why it cannot be a tensor."""
    dims: list[int | None] = []
    while True:
        if isinstance(kind, pa.FixedShapeTensorType):
            if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
                return "its tensor is stored with permuted dimensions"
            dims += list(kind.shape)
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_fixed_size_list(kind):
            dims.append(kind.list_size)
            kind = kind.value_type
        elif any(is_kind(kind) for is_kind in _LISTS):
            if dims:
                return "a list inside a list has no fixed shape"
            dims.append(None)
            kind = kind.value_type
        else:
            break
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return f"{kind} is no number"
    return Layout(tuple(dims), np.dtype(kind.to_pandas_dtype()))


def is_text(kind: pa.DataType) -> bool:
    """Whether a field holds texts, in a dictionary or not."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(is_kind(kind) for is_kind in _TEXTS)


def is_encoded(kind: pa.DataType) -> bool:
    """Whether a field may hold encoded pictures: bytes, or a struct with `bytes` as Hugging Face's
    datasets write it."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and is_encoded(kind.field(index).type)
    return any(is_kind(kind) for is_kind in _BINARIES)


def exactly_widens(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether every value of `source` has the same value in `target`.

    numpy calls int64 -> float64 safe; it is not exact above 2**53, so it is not here.
    """
    if source == target:
        return True
    if source.kind in "iu" and source.itemsize == 8 and target.kind == "f":
        return False
    return bool(np.can_cast(source, target, "safe"))


def may_cast(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether `--bind input=field:cast` may convert, rounding: floats and integers to floats.

    Never to a smaller integer: a value out of range would wrap around silently.
    """
    return target.kind == "f" and source.kind in "iuf"


def arrow_type(dtype: np.dtype[Any], shape: tuple[int, ...], *, nullable: bool) -> pa.DataType:
    """The Arrow type of an output: primitive, fixed_size_list or fixed_shape_tensor."""
    element = pa.from_numpy_dtype(dtype)
    if not shape:
        return element
    if len(shape) == 1:
        # Not-null elements decode and encode 15 % faster than nullable ones (pyarrow 26).
        return pa.list_(pa.field("item", element, nullable=nullable), shape[0])
    return pa.fixed_shape_tensor(element, shape)


def list_type(dtype: np.dtype[Any], shape: tuple[int, ...], *, nullable: bool) -> pa.DataType:
    """The Arrow type of an output of tokens: a list of numbers, or of fixed_size_lists."""
    kind = pa.from_numpy_dtype(dtype)
    for size in reversed(shape):
        kind = pa.list_(pa.field("item", kind, nullable=False), size)
    return pa.list_(pa.field("item", kind, nullable=False))


def conversion(source: np.dtype[Any], target: np.dtype[Any]) -> str:
    """For people: what has to be done with a field's elements, and whether that is a copy."""
    if not exactly_widens(source, target):
        return f"rounded from {source.name}, copied"
    if source != target:
        return f"widened from {source.name}, copied"
    return "bits unpacked, copied" if source == np.bool_ else "no copy"
