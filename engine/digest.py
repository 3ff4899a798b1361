"""digest(): a hash of plain values and frozen nouns, the same in every process and machine.

Each value is written with its kind and its length, so that no two trees of values give the same
bytes. Floats count to the last bit, arrays by type, shape and content, subgraphs as protobuf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from engine.mapped import release

Array = np.ndarray[Any, Any]
SIZE = 16
"""Bytes of a digest."""
STRETCH_NBYTES = 64 << 20
"""Of a mapped file that are looked at at once."""


def digest(value: Any) -> str:
    """`value`: None, numbers, text, bytes, arrays, types of elements, protobuf messages; and
    dataclasses, sequences and mappings of them, the latter in the order of their keys."""
    return _Writer().digest(value).hex()


class _Writer:
    """Hashes each array once, however many steps read it."""

    def __init__(self) -> None:
        self._arrays: dict[int, tuple[Array, bytes]] = {}
        """By identity; held, because the next array could get the identity of one that is gone."""

    def digest(self, value: Any) -> bytes:
        found = hashlib.blake2b(digest_size=SIZE)
        for kind, content in self._pieces(value):
            found.update(f"{kind}:{len(content)}:".encode())
            found.update(content)
        return found.digest()

    def _pieces(self, value: Any) -> Iterator[tuple[str, bytes]]:
        """(kind, content) of a value and of all that it holds."""
        match value:
            case None | bool() | int():
                yield type(value).__name__, str(value).encode()
            case np.generic() | np.ndarray():
                yield "array", self._array(np.asanyarray(value))  # hollow ones stay so
            case float():
                yield "float", value.hex().encode()
            case str():
                yield "str", value.encode(errors="surrogatepass")
            case bytes():
                yield "bytes", value
            case np.dtype():
                yield "dtype", _name(value)
            case Mapping():
                yield "mapping", str(len(value)).encode()
                for key in sorted(value):
                    yield from self._pieces(key)
                    yield from self._pieces(value[key])
            case list() | tuple():
                yield "sequence", str(len(value)).encode()
                for item in value:
                    yield from self._pieces(item)
            case _ if is_dataclass(value):
                yield "noun", type(value).__name__.encode()
                for field in fields(value):
                    yield from self._pieces(getattr(value, field.name))
            case _ if hasattr(value, "SerializeToString"):
                yield type(value).__name__, value.SerializeToString(deterministic=True)
            case _:
                raise TypeError(f"digest: expected a plain value, got {type(value).__name__}")

    def _array(self, array: Array) -> bytes:
        if id(array) not in self._arrays:
            self._arrays[id(array)] = array, content_of(array)
        return self._arrays[id(array)][1]


def content_of(array: Array) -> bytes:
    """Hash of an array's type, shape and elements. What stands for another says that one's."""
    if (told := getattr(array, "content", None)) is not None:
        return bytes(told)
    found = hashlib.blake2b(_name(array.dtype), digest_size=SIZE)
    found.update(str(array.shape).encode())
    if array.dtype.hasobject:  # strings: their addresses would say nothing
        found.update(_Writer().digest(array.reshape(-1).tolist()))
    elif array.nbytes:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for first in range(0, flat.size, STRETCH_NBYTES):
            stretch = flat[first : first + STRETCH_NBYTES]
            found.update(stretch.data)
            release(stretch)
    return found.digest()


def _name(dtype: np.dtype[Any]) -> bytes:
    """With byte order; the name tells apart what numpy itself takes for so many bytes."""
    return f"{dtype.str} {dtype.name} ".encode()
