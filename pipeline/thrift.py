"""Thrift's compact protocol, in which Parquet's footers and page headers are written.

    footer, nbytes = parsed(data)      # {3: I64(1000), 4: Items(12, [...]), ...} by field numbers
    serialised(footer)                 # the same bytes

The protocol tells types and no names, so this needs no schema: a struct is a dict from numbers of
fields to values, which are Python's own, and integers remember how wide they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

Struct = dict[int, Any]

_DEEPEST = 16
"""Structs and lists within each other; a footer has nine."""


class OddThrift(ValueError):
    """Not this protocol, or cut off, or more than Parquet uses of it."""


class I8(int): ...


class I16(int): ...


class I32(int): ...


class I64(int): ...


class Items(list[Any]):
    """A list, which says of what even when there is nothing in it."""

    def __init__(self, kind: int, items: Iterable[Any] = ()) -> None:
        super().__init__(items)
        self.kind = kind


TRUE, FALSE, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 7, 8, 9, 12
"""Kinds of values, beside those of integers."""

_INTEGERS: dict[int, type[int]] = {3: I8, 4: I16, 5: I32, 6: I64}

KINDS: dict[type, int] = {
    **{of: kind for kind, of in _INTEGERS.items()},
    float: DOUBLE, bytes: BINARY, Items: LIST, dict: STRUCT,
}  # fmt: skip


def parsed(data: bytes) -> tuple[Struct, int]:
    """The struct at the beginning of `data`, and how many bytes it takes. Raises OddThrift."""
    reader = _Reader(data)
    try:
        return reader.read(0), reader.at
    except (IndexError, struct.error) as e:
        raise OddThrift("expected more bytes") from e


def serialised(value: Struct) -> bytes:
    out = bytearray()
    _put_struct(out, value)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def read(self, depth: int) -> Struct:
        if depth > _DEEPEST:
            raise OddThrift("structs too deep in each other")
        fields: Struct = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            fields[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind == 3:
            return I8(self._byte())
        if kind in _INTEGERS:
            return _INTEGERS[kind](self._zigzag())
        if kind == DOUBLE:
            return struct.unpack("<d", self._bytes(8))[0]
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind == LIST:
            return self._items(depth + 1)
        if kind == STRUCT:
            return self.read(depth + 1)
        raise OddThrift(f"expected no value of type {kind}")

    def _items(self, depth: int) -> Items:
        if depth > _DEEPEST:
            raise OddThrift("lists too deep in each other")
        head = self._byte()
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self._varint()
        if kind in (TRUE, FALSE):  # a byte each
            return Items(kind, (byte == TRUE for byte in self._bytes(count)))
        return Items(kind, (self._value(kind, depth) for _ in range(count)))

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _bytes(self, nbytes: int) -> bytes:
        """Fewer at the end of the data, where the byte that ends each struct will be missed."""
        self.at += nbytes
        return bytes(self.data[self.at - nbytes : self.at])

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise OddThrift("a number without an end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; Parquet's levels have them, too."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _zigzag(value: int) -> bytes:
    return varint(2 * value if value >= 0 else -2 * value - 1)


def _put_struct(out: bytearray, fields: Struct) -> None:
    before = 0
    for number, value in fields.items():
        kind = (TRUE if value else FALSE) if isinstance(value, bool) else KINDS[type(value)]
        if 0 < number - before <= 15:
            out.append((number - before) << 4 | kind)
        else:
            out.append(kind)
            out += _zigzag(number)
        if not isinstance(value, bool):
            _put(out, value)
        before = number
    out.append(0)


def _put(out: bytearray, value: Any) -> None:
    match value:
        case bool():  # in a list
            out.append(TRUE if value else FALSE)
        case I8():
            out.append(value & 0xFF)
        case int():
            out += _zigzag(value)
        case float():
            out += struct.pack("<d", value)
        case bytes():
            out += varint(len(value)) + value
        case Items():
            long = len(value) >= 15
            out.append((15 if long else len(value)) << 4 | value.kind)
            out += varint(len(value)) if long else b""
            for item in value:
                _put(out, item)
        case dict():
            _put_struct(out, value)
