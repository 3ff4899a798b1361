"""Row groups of a file as footers tell them, in columns: a dataset may have a million."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

Array = np.ndarray[Any, Any]

_ROWS, _SKIPPED, _FIELDS = 0, 1, 2
"""Columns of a table; from the third on, three a field."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A Parquet row group, or a record batch of an Arrow file."""

    rows: int
    field_nbytes: tuple[int, ...]
    """Bytes by field as they are read, in the schema's order: decoded, but for the strings that
    a dictionary holds, which count as they are encoded."""
    dictionary_nbytes: tuple[int, ...] = ()
    """By field: what each batch of it holds beside its rows, the dictionaries of the group. ():
    none has one."""
    field_elements: tuple[int, ...] = ()
    """By field: numbers in all its rows and their lists; an empty list counts one at most. ():
    as many as bytes."""
    skipped: bool = False
    """No row of it can be scored: it is not read."""

    @property
    def nbytes(self) -> int:
        """Decoded bytes of all fields."""
        return sum(self.field_nbytes)


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How row groups of a file tell of a dataset's fields, whose file has others."""

    sources: tuple[int, ...]
    """By field of the dataset, the number of the file's; -1 for one that it lacks."""
    element_nbytes: tuple[int, ...]
    """More that each element takes."""
    row_nbytes: tuple[int, ...]
    """More that each row takes."""


class RowGroups(Sequence[RowGroup]):
    """Those of one file or of many with the same fields; a RowGroup is made when it is asked for.

    A RowGroup of two fields takes 400 bytes, its row here 64.
    """

    __slots__ = ("_table",)

    def __init__(self, table: Array) -> None:
        """int64[groups, 2 + 3 * fields]; use `RowGroups.of`."""
        self._table = table

    @classmethod
    def of(cls, groups: Iterable[RowGroup]) -> RowGroups:
        found = []
        for g in groups:
            dictionaries = g.dictionary_nbytes or (0,) * len(g.field_nbytes)
            elements = g.field_elements or g.field_nbytes
            found.append((g.rows, g.skipped, *g.field_nbytes, *dictionaries, *elements))
        width = len(found[0]) if found else _FIELDS
        return cls(np.array(found, np.int64).reshape(len(found), width))

    @classmethod
    def joined(cls, many: Sequence[RowGroups]) -> RowGroups:
        """Of files with the same fields; one without row groups does not know of any."""
        return cls(np.concatenate([groups._table for groups in many]))

    def arranged(self, how: Arrangement) -> RowGroups:
        """The same, with the fields of a dataset."""
        if not len(self):
            return self
        sources = np.array(how.sources)
        there = np.flatnonzero(sources >= 0)
        rows = self.rows[:, np.newaxis]
        nbytes, dictionaries, elements = (
            np.zeros((len(self), len(sources)), np.int64) for _ in range(3)
        )
        nbytes[:, there] = self.field_nbytes[:, sources[there]]
        dictionaries[:, there] = self.dictionary_nbytes[:, sources[there]]
        elements[:, there] = self.field_elements[:, sources[there]]
        nbytes += elements * np.array(how.element_nbytes, np.int64)
        nbytes += rows * np.array(how.row_nbytes, np.int64)
        elements[:, sources < 0] = rows
        return RowGroups(np.hstack([self._table[:, :_FIELDS], nbytes, dictionaries, elements]))

    def skipping(self, skipped: Sequence[bool]) -> RowGroups:
        """The same, with marks on those that need not be read."""
        table = self._table.copy()
        table[:, _SKIPPED] = skipped
        return RowGroups(table)

    @property
    def rows(self) -> Array:
        """int64[groups], as all that follow but for fields: int64[groups, fields]."""
        return self._table[:, _ROWS]

    @property
    def skipped(self) -> Array:
        found: Array = self._table[:, _SKIPPED] != 0
        return found

    @property
    def field_nbytes(self) -> Array:
        return self._by_field(0)

    @property
    def dictionary_nbytes(self) -> Array:
        return self._by_field(1)

    @property
    def field_elements(self) -> Array:
        return self._by_field(2)

    @property
    def nbytes(self) -> Array:
        found: Array = self.field_nbytes.sum(1)
        return found

    @property
    def read_nbytes(self) -> Array:
        """What is skipped costs nothing, and goes with its neighbours."""
        return np.asarray(np.where(self.skipped, 0, self.nbytes))

    def skipped_in(self, first: int, groups: int) -> tuple[int, ...]:
        """Numbers of those that are skipped of so many row groups."""
        found = np.flatnonzero(self._table[first : first + groups, _SKIPPED])
        return tuple((found + first).tolist())

    def _by_field(self, number: int) -> Array:
        fields = (self._table.shape[1] - _FIELDS) // 3
        return self._table[:, _FIELDS + number * fields : _FIELDS + (number + 1) * fields]

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> RowGroup: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RowGroup, ...]: ...
    def __getitem__(self, index: int | slice) -> RowGroup | tuple[RowGroup, ...]:
        if isinstance(index, slice):
            return tuple(map(_row_group, self._table[index].tolist()))
        return _row_group(self._table[index].tolist())

    def __iter__(self) -> Iterator[RowGroup]:
        return map(_row_group, self._table.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowGroups) and np.array_equal(self._table, other._table)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RowGroups({list(self)})"


def _row_group(row: list[int]) -> RowGroup:
    fields = (len(row) - _FIELDS) // 3
    nbytes, dictionaries, elements = (
        tuple(row[_FIELDS + n * fields : _FIELDS + (n + 1) * fields]) for n in range(3)
    )
    return RowGroup(row[_ROWS], nbytes, dictionaries, elements, bool(row[_SKIPPED]))
