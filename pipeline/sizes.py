"""What footers tell of a dataset's rows: their bytes by field, and their tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.bound import Binding, FieldBinding
from pipeline.dataset import Dataset
from pipeline.remembered import remembered
from pipeline.row_groups import RowGroups
from pipeline.shards import FIRST_GROUP, plan_shards

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """How many tokens rows have."""

    mean: int
    """Of a row, rounded up, in the row group where that is most; `longest` where none tells."""
    longest: int
    """Of a row that is scored, at most."""
    shard: int
    """Of a shard's rows together, at most."""
    told: bool
    """Whether footers told, or only how long rows may be."""

    def of(self, rows: int) -> int:
        """Of so many rows that are read together, of which some may be too long to be scored."""
        return min(self.shard, rows * max(self.longest, self.mean))


def token_counts(dataset: Dataset, binding: Binding) -> TokenCounts | None:
    """None where the model has no sequences."""
    lengths = binding.lengths
    if lengths is None:
        return None
    fields = [f for f in binding.fields if f.tokens]
    names = dataset.schema.names if lengths.told else []
    lists = [f for f in fields if not f.text and f.field in names]
    if not lists:  # one more than may be scored: text that is too long is cut there
        longest, rows = lengths.most + 1, plan_shards(dataset).most_rows
        return TokenCounts(longest, longest, rows * longest, False)
    most, mean = 0, 0
    for groups in dataset.groups():
        tokens, some = _tokens(groups, dataset, lists[0]), groups.rows > 0
        most = max(most, _most(tokens))
        mean = max(mean, _most(_rounded_up(tokens[some], groups.rows[some])))
    shard = _most_of_a_shard(dataset, lists[0])
    return TokenCounts(mean, min(lengths.most, most), shard, True)


def _most_of_a_shard(dataset: Dataset, field: FieldBinding) -> int:
    """Tokens of the shard that has most."""
    most = 0
    for file, own in plan_shards(dataset).by_file():
        if len(file.row_groups):
            tokens = _tokens(file.row_groups, dataset, field)
            most = max(most, _most(np.add.reduceat(tokens, own[:, FIRST_GROUP])))
    return most


def _tokens(groups: RowGroups, dataset: Dataset, field: FieldBinding) -> Array:
    """Of each row group."""
    index = dataset.schema.get_field_index(field.field)
    return groups.field_elements[:, index] // math.prod(field.shape)


@remembered
def row_nbytes(dataset: Dataset, names: tuple[str, ...]) -> int:
    """Decoded bytes of a row of these fields, in the row group where that is most.

    A field that a hook makes counts as much as all fields of the dataset.
    """
    indices = _indices(dataset, names)
    made = len(names) - len(indices)
    most = 0
    for groups in dataset.groups():
        some = groups.rows > 0
        nbytes = groups.field_nbytes[:, indices].sum(1) + made * groups.nbytes
        most = max(most, _most(_rounded_up(nbytes[some], groups.rows[some])))
    return most


@remembered
def dictionary_nbytes(dataset: Dataset, names: tuple[str, ...]) -> int:
    """Bytes of these fields' dictionaries in the row group where that is most."""
    indices = _indices(dataset, names)
    sums = (_most(g.dictionary_nbytes[:, indices].sum(1)) for g in dataset.groups())
    return max(sums, default=0)


@remembered
def mapped_nbytes(dataset: Dataset, names: tuple[str, ...]) -> int:
    """The largest record batch of an Arrow file: they are mapped or decompressed whole."""
    indices = _indices(dataset, names)
    groups = dataset.groups("arrow")
    return max((_most(g.field_nbytes[:, indices].sum(1)) for g in groups), default=0)


def _rounded_up(numbers: Array, by: Array) -> Array:
    return -(-numbers // by)


def _most(numbers: Array) -> int:
    return int(numbers.max(initial=0))


def _indices(dataset: Dataset, names: tuple[str, ...]) -> list[int]:
    """Of those that are the dataset's."""
    found = (dataset.schema.get_field_index(name) for name in names)
    return [index for index in found if index >= 0]
