"""Ledger: the entries of committed parts, in about 150 bytes each.

A driver keeps all of them until the manifest is written, and a job may have a million: what the
plan of shards tells anyway (paths, first rows) is not kept again, and hashes are kept as bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError

from pipeline.parts import part_of, rejects_name
from pipeline.records import ManifestEntry
from pipeline.shards import Shard

_NUMBERS = Struct("<qqqqqqBB")
"""Six counts of an entry; whether it has rejects; bytes of the first hash."""

_HASH = "sha256:"


@dataclass(frozen=True, slots=True)
class Totals:
    """Rows of all committed parts."""

    rows_in: int
    rows_out: int
    rejects: int
    filtered: int


class Ledger(MutableMapping[int, ManifestEntry]):
    """Shard index -> entry, for the shards of one plan."""

    def __init__(self, shards: Sequence[Shard], format: str) -> None:
        self._shards = shards
        self._format = format
        self._packed: list[bytes] = [b""] * len(shards)
        self._count = 0

    def __setitem__(self, index: int, entry: ManifestEntry) -> None:
        first, second = _squeezed(entry.checksum), _squeezed(entry.rejects_checksum)
        self._count += not self._packed[index]
        numbers = _NUMBERS.pack(
            entry.rows_in, entry.rows_out, entry.rejects, entry.filtered, entry.nbytes,
            entry.rejects_nbytes, bool(entry.rejects_path), len(first),
        )  # fmt: skip
        self._packed[index] = numbers + first + second

    def __getitem__(self, index: int) -> ManifestEntry:
        if index not in self:
            raise KeyError(index)
        packed, shard = self._packed[index], self._shards[index]
        numbers = _NUMBERS.unpack_from(packed)
        rows_in, rows_out, rejects, filtered, nbytes, rejects_nbytes, has_rejects, size = numbers
        hashes = packed[_NUMBERS.size :]
        return ManifestEntry(
            shard=index,
            path=part_of(shard, self._format),
            source=shard.path,
            first_row=shard.first_row,
            rows_in=rows_in,
            rows_out=rows_out,
            rejects=rejects,
            nbytes=nbytes,
            checksum=_unsqueezed(hashes[:size]),
            rejects_path=rejects_name(index) if has_rejects else "",
            rejects_nbytes=rejects_nbytes,
            rejects_checksum=_unsqueezed(hashes[size:]),
            filtered=filtered,
        )

    def take(self, entry: ManifestEntry) -> None:
        """Sets an entry of a journal; one that is no entry of this plan is passed over."""
        if 0 <= entry.shard < len(self._packed):
            with contextlib.suppress(ValueError, StructError):
                self[entry.shard] = entry

    def keep(self, index: int, of: Ledger) -> None:
        """Another ledger's entry, not copied."""
        self._count += not self._packed[index]
        self._packed[index] = of._packed[index]

    def totals(self) -> Totals:
        """Of all entries, without making each again."""
        sums = [0] * 4
        for packed in self._packed:
            if packed:
                for place, number in enumerate(_NUMBERS.unpack_from(packed)[:4]):
                    sums[place] += number
        return Totals(*sums)

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int) or not 0 <= index < len(self._packed):
            return False
        return bool(self._packed[index])

    def __delitem__(self, index: int) -> None:
        self._count -= index in self
        self._packed[index] = b""

    def __iter__(self) -> Iterator[int]:
        return (index for index, packed in enumerate(self._packed) if packed)

    def __len__(self) -> int:
        return self._count


def _squeezed(checksum: str) -> bytes:
    """32 bytes, or none for the empty string."""
    return bytes.fromhex(checksum.removeprefix(_HASH))


def _unsqueezed(hash: bytes) -> str:
    return f"{_HASH}{hash.hex()}" if hash else ""
