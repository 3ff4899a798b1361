"""What footers tell of a dataset's rows: their bytes by field, and their tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.bound import Binding, FieldBinding
from pipeline.dataset import Dataset
from pipeline.footers import RowGroup
from pipeline.remembered import remembered
from pipeline.shards import plan_shards


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
        longest, rows = lengths.most + 1, max((s.rows for s in plan_shards(dataset)), default=0)
        return TokenCounts(longest, longest, rows * longest, False)
    groups = [(g.rows, _tokens(g, dataset, lists[0])) for f in dataset.files for g in f.row_groups]
    most = max((tokens for _, tokens in groups), default=0)
    mean = max((-(-tokens // rows) for rows, tokens in groups if rows), default=0)
    files = {f.path: f for f in dataset.files}
    shards = (
        sum(_tokens(files[shard.path].row_groups[g], dataset, lists[0]) for g in shard.row_groups)
        for shard in plan_shards(dataset)
    )
    return TokenCounts(mean, min(lengths.most, most), max(shards, default=0), True)


def _tokens(group: RowGroup, dataset: Dataset, field: FieldBinding) -> int:
    index = dataset.schema.get_field_index(field.field)
    numbers = group.field_elements or group.field_nbytes
    return int(numbers[index]) // math.prod(field.shape)


@remembered
def row_nbytes(dataset: Dataset, names: tuple[str, ...]) -> int:
    """Decoded bytes of a row of these fields, in the row group where that is most.

    A field that a hook makes counts as much as all fields of the dataset.
    """
    indices = _indices(dataset, names)
    made = len(names) - len(indices)
    groups = (g for f in dataset.files for g in f.row_groups if g.rows)
    sizes = ((sum(g.field_nbytes[i] for i in indices) + made * g.nbytes, g.rows) for g in groups)
    return max((-(-nbytes // rows) for nbytes, rows in sizes), default=0)


@remembered
def dictionary_nbytes(dataset: Dataset, names: tuple[str, ...]) -> int:
    """Bytes of these fields' dictionaries in the row group where that is most."""
    indices = _indices(dataset, names)
    groups = (g.dictionary_nbytes for f in dataset.files for g in f.row_groups)
    return max((sum(sizes[i] for i in indices) for sizes in groups if sizes), default=0)


@remembered
def mapped_nbytes(dataset: Dataset, names: tuple[str, ...]) -> int:
    """The largest record batch of an Arrow file: they are mapped or decompressed whole."""
    indices = _indices(dataset, names)
    groups = (g for f in dataset.files if f.format == "arrow" for g in f.row_groups)
    return max((sum(g.field_nbytes[i] for i in indices) for g in groups), default=0)


def _indices(dataset: Dataset, names: tuple[str, ...]) -> list[int]:
    """Of those that are the dataset's."""
    found = (dataset.schema.get_field_index(name) for name in names)
    return [index for index in found if index >= 0]
