"""What stands in front of each page of a Parquet file: Thrift's compact protocol, as far as it is
needed there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DATA, DICTIONARY, DATA_V2 = 0, 2, 3
"""Types of pages."""
PLAIN, RLE = 0, 3
"""Encodings of values, and of levels."""

_DEEPEST = 4
"""Structs within structs; a page's statistics are the third."""


class OddHeader(ValueError):
    """No page's header, or one that reads differently than we know."""


@dataclass(frozen=True, slots=True)
class PageHeader:
    """All sizes in bytes, and as large as a hostile file makes them."""

    kind: int
    nbytes: int
    """Of the page, uncompressed."""
    stored_nbytes: int
    header_nbytes: int
    values: int = 0
    """Of a data page, with nulls and empty lists."""
    encoding: int = PLAIN
    level_encodings: tuple[int, int] = (RLE, RLE)
    """Of repetition and definition."""
    level_nbytes: tuple[int, int] | None = None
    """In pages of version 2, whose levels are never compressed; others say it in front of each."""
    compressed: bool = True


def page_header(data: bytes) -> PageHeader:
    """The header at the beginning of `data`. OddHeader if it is none, or is cut off."""
    reader = _Compact(data)
    try:
        found = reader.struct(0)
        kind, nbytes, stored = (_size(found[n]) for n in (1, 2, 3))
        if kind == DATA:
            page = found[5]
            return PageHeader(
                kind, nbytes, stored, reader.at, _size(page[1]), page[2], (page[4], page[3])
            )
        if kind == DATA_V2:
            page = found[8]
            levels = _size(page[6]), _size(page[5])
            return PageHeader(
                kind, nbytes, stored, reader.at, _size(page[1]), page[4],
                level_nbytes=levels, compressed=page.get(7, True),
            )  # fmt: skip
        return PageHeader(kind, nbytes, stored, reader.at)
    except (IndexError, KeyError, TypeError) as e:
        raise OddHeader(f"a page's header: {e!r}") from e


def _size(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise OddHeader(f"a page's header: expected a size, got {value}")
    return value


class _Compact:
    """Reads structs as dicts from field numbers to values; what is no number is passed over."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise OddHeader("a page's header: structs too deep in each other")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2:
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._zigzag()
            case 8:  # bytes, of statistics
                nbytes = self._varint()
                self.at += nbytes
                return None
            case 12:
                return self.struct(depth + 1)
        raise OddHeader(f"a page's header: expected no field of Thrift's type {kind}")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise OddHeader("a page's header: a number without an end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
