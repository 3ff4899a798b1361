"""What stands in front of each page of a Parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.thrift import I32, OddThrift, parsed, serialised

DATA, DICTIONARY, DATA_V2 = 0, 2, 3
"""Types of pages."""
PLAIN, RLE = 0, 3
"""Encodings of values, and of levels."""


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
    try:
        found, header = parsed(data)
        kind, nbytes, stored = (_size(found[n]) for n in (1, 2, 3))
        if kind == DATA:
            page = found[5]
            return PageHeader(
                kind, nbytes, stored, header, _size(page[1]), page[2], (page[4], page[3])
            )
        if kind == DATA_V2:
            page = found[8]
            levels = _size(page[6]), _size(page[5])
            return PageHeader(
                kind, nbytes, stored, header, _size(page[1]), page[4],
                level_nbytes=levels, compressed=page.get(7, True),
            )  # fmt: skip
        return PageHeader(kind, nbytes, stored, header)
    except (OddThrift, LookupError, TypeError, AttributeError) as e:
        raise OddHeader(f"a page's header: {e!r}") from e


def plain_header(values: int, nbytes: int) -> bytes:
    """Of a data page of so many values as they are, in so many bytes with their levels."""
    page = {1: I32(values), 2: I32(PLAIN), 3: I32(RLE), 4: I32(RLE)}
    return serialised({1: I32(DATA), 2: I32(nbytes), 3: I32(nbytes), 5: page})


def _size(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise OddHeader(f"a page's header: expected a size, got {value}")
    return value
