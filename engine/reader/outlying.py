"""Weights inside a model file, left there: the model is parsed without them.

A ModelProto is walked field by field, down to the tensors of its graph's initializers. Raw data of
a megabyte or more is left out of what protobuf gets to parse, and looked at through a map of the
file. Whatever is not as expected is left for protobuf to take or to refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto

Array = np.ndarray[Any, Any]

OUTLYING_NBYTES = 1 << 20
"""Raw data from this size on stays in the file."""

_GRAPH, _INITIALIZER = 7, 5  # of ModelProto, of GraphProto
_TYPE, _NAME, _RAW = 2, 8, 9  # of TensorProto
_OTHER_HOMES = (13, 14)
"""External data, and where the data lies: a tensor with either is not ours to move."""

_OUTSIDE = bytes([14 << 3, TensorProto.EXTERNAL])
"""The field that says that a tensor's data lies elsewhere."""

_PLAIN = frozenset(
    {
        TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16,
        TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT16,
        TensorProto.DOUBLE, TensorProto.UINT32, TensorProto.UINT64, TensorProto.BFLOAT16,
    }
)  # fmt: skip
"""Element types whose raw data is the array."""

_FIXED_NBYTES = {1: 8, 5: 4}
_VARINT, _BYTES = 0, 2


class _Odd(Exception):
    """Something that this walk does not know."""


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a message, by offsets in the file."""

    number: int
    first: int
    """Where its tag begins."""
    start: int
    """Where its content begins; of a number, where it ends."""
    end: int
    value: int
    """Of a number; -1 where the content is bytes."""


@dataclass(slots=True)
class Lean:
    """A model's bytes without the raw data that stays in the file."""

    content: bytes
    outlying: Mapping[str, Array] = field(default_factory=dict)
    """Initializer -> uint8 of its raw data."""


def lean(content: Array) -> Lean:
    """Of a whole file's uint8; all of it where there is nothing to leave out."""
    outlying: dict[str, Array] = {}
    try:
        slim = b"".join(_model(memoryview(content), content, outlying))  # type: ignore[arg-type]
    except (_Odd, IndexError):
        return Lean(content.tobytes())
    return Lean(slim, outlying)


def _model(view: memoryview, content: Array, outlying: dict[str, Array]) -> Iterator[bytes]:
    for item in _fields(view, 0, len(view)):
        if item.number == _GRAPH and item.value < 0:
            graph = b"".join(_graph(view, item, content, outlying))
            yield _message(_GRAPH, graph)
        else:
            yield bytes(view[item.first : item.end])


def _graph(
    view: memoryview, graph: _Field, content: Array, outlying: dict[str, Array]
) -> Iterator[bytes]:
    for item in _fields(view, graph.start, graph.end):
        tensor = item.number == _INITIALIZER and item.value < 0
        large = tensor and item.end - item.start >= OUTLYING_NBYTES
        yield (
            _message(_INITIALIZER, _tensor(view, item, content, outlying))
            if large
            else bytes(view[item.first : item.end])
        )


def _tensor(view: memoryview, tensor: _Field, content: Array, outlying: dict[str, Array]) -> bytes:
    """The tensor, without its data if that can stay where it is."""
    items = list(_fields(view, tensor.start, tensor.end))
    raw = [i for i in items if i.number == _RAW]
    types = [i.value for i in items if i.number == _TYPE]
    names = [bytes(view[i.start : i.end]) for i in items if i.number == _NAME]
    plain = len(types) == 1 and types[0] in _PLAIN and len(raw) == len(names) == 1
    if (
        not plain
        or any(i.number in _OTHER_HOMES for i in items)
        or raw[0].end - raw[0].start < OUTLYING_NBYTES
    ):
        return bytes(view[tensor.start : tensor.end])
    name = names[0].decode(errors="replace")
    if name in outlying:
        raise _Odd(name)
    outlying[name] = content[raw[0].start : raw[0].end]
    return b"".join(bytes(view[i.first : i.end]) for i in items if i is not raw[0]) + _OUTSIDE


def _fields(view: memoryview, start: int, end: int) -> Iterator[_Field]:
    at = start
    while at < end:
        first = at
        tag, at = _varint(view, at)
        number, kind = tag >> 3, tag & 7
        value = -1 if kind == _BYTES else 0
        if kind == _VARINT:
            value, at = _varint(view, at)
            inner = at
        elif kind == _BYTES:
            size, inner = _varint(view, at)
            at = inner + size
        elif kind in _FIXED_NBYTES:
            inner, at = at, at + _FIXED_NBYTES[kind]
        else:
            raise _Odd(kind)
        if at > end or not number:
            raise _Odd(at)
        yield _Field(number, first, inner, at, value)


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    number = shift = 0
    while True:
        byte = view[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
        if shift > 63:
            raise _Odd(at)


def _message(number: int, content: bytes) -> bytes:
    size, text = len(content), bytearray([number << 3 | _BYTES])
    while size > 0x7F:
        text.append(size & 0x7F | 0x80)
        size >>= 7
    text.append(size)
    return bytes(text) + content
