"""Ledger: the entries of committed parts, in 74 bytes each.

A driver keeps all of them until the manifest is written, and a job may have a million: what the
plan of shards tells anyway (paths, first rows) is not kept again, and hashes are kept as bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.checksums import LONGEST, squeezed, unsqueezed
from pipeline.parts import part_of, rejects_name
from pipeline.records import ManifestEntry
from pipeline.shards import Shard, rows_of

_ENTRY = np.dtype(
    [
        ("rows_in", "<i8"), ("rows_out", "<i8"), ("rejects", "<i8"), ("filtered", "<i8"),
        ("nbytes", "<i8"), ("checksum", f"V{LONGEST}"), ("here", "?"),
    ]
)  # fmt: skip
"""`here` is false where there is no entry; checksums are squeezed."""

Array = np.ndarray[Any, Any]


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
        self._table = np.zeros(len(shards), _ENTRY)
        self._with_rejects: dict[int, tuple[int, bytes]] = {}
        """Bytes and hash of rejects files, of the entries that have one."""
        self._count = 0

    def __setitem__(self, index: int, entry: ManifestEntry) -> None:
        """Raises ValueError for a checksum that is none, UnknownAlgorithm for one not of ours."""
        hash = squeezed(entry.checksum, entry.path)
        rejects_hash = squeezed(entry.rejects_checksum, entry.rejects_path)
        row = (
            entry.rows_in, entry.rows_out, entry.rejects, entry.filtered, entry.nbytes, hash, True
        )  # fmt: skip
        here = index in self
        self._table[index] = row
        self._count += not here
        self._with_rejects.pop(index, None)
        if entry.rejects_path:
            self._with_rejects[index] = entry.rejects_nbytes, rejects_hash

    def __getitem__(self, index: int) -> ManifestEntry:
        if index not in self:
            raise KeyError(index)
        shard = self._shards[index]
        rows_in, rows_out, rejects, filtered, nbytes, hash, _ = self._table[index].tolist()
        has_rejects = index in self._with_rejects
        rejects_nbytes, rejects_hash = self._with_rejects.get(index, (0, b""))
        return ManifestEntry(
            shard=index,
            path=part_of(shard, self._format),
            source=shard.path,
            first_row=shard.first_row,
            rows_in=rows_in,
            rows_out=rows_out,
            rejects=rejects,
            nbytes=nbytes,
            checksum=unsqueezed(hash),
            rejects_path=rejects_name(index) if has_rejects else "",
            rejects_nbytes=rejects_nbytes,
            rejects_checksum=unsqueezed(rejects_hash),
            filtered=filtered,
        )

    def take(self, entry: ManifestEntry) -> None:
        """Sets an entry of a journal; one that is no entry of this plan is passed over. Raises
        UnknownAlgorithm, which is no damage."""
        if 0 <= entry.shard < len(self._table):
            with contextlib.suppress(ValueError, OverflowError):
                self[entry.shard] = entry

    def totals(self) -> Totals:
        """Of all entries, without making each again."""
        table = self._table
        return Totals(*(int(table[name].sum()) for name in Totals.__slots__))

    def odd(self) -> ManifestEntry | None:
        """The first entry that does not account for all rows of its shard, if there is one."""
        rows_in, rows_out = self._table["rows_in"], self._table["rows_out"]
        missing = rows_in - rows_out - self._table["filtered"]
        good = (missing == 0) | (missing == self._table["rejects"])
        good &= rows_in == rows_of(self._shards)
        odd = np.flatnonzero(~good & self._table["here"])
        return self[int(odd[0])] if len(odd) else None

    @property
    def missing(self) -> Array:
        """int64: indices of shards without an entry, in order."""
        return np.flatnonzero(~self._table["here"])

    @property
    def present(self) -> Array:
        """int64: the others, in order."""
        return np.flatnonzero(self._table["here"])

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int) or not 0 <= index < len(self._table):
            return False
        return bool(self._table["here"][index])

    def __delitem__(self, index: int) -> None:
        self._count -= index in self
        self._table[index] = np.zeros((), _ENTRY)
        self._with_rejects.pop(index, None)

    def __iter__(self) -> Iterator[int]:
        return iter(self.present.tolist())

    def __len__(self) -> int:
        return self._count
