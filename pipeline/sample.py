"""The first rows of a dataset as feeds: real rows for a bench, through the reader of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from engine.graph import Value
from engine.ragged import Ragged
from pipeline.binding import Binding, TokenRules, bind
from pipeline.dataset import Dataset
from pipeline.errors import InputError
from pipeline.reader import ShardReader
from pipeline.sequences import Feed, joined, rows_of
from pipeline.shards import plan_shards
from pipeline.tensors import bad_rows, to_feeds, without_rows


def sample_feeds(
    inputs: Sequence[str],
    graph_inputs: Sequence[Value],
    rows: int,
    requested: Mapping[str, str],
    *,
    rules: TokenRules | None = None,
    tokens: int | None = None,
    least: int = 1,
) -> dict[str, Feed]:
    """At most `rows` rows that can be fed, from the dataset's beginning, by input name; of
    sequences as many as have `tokens` tokens together, but `least` rows if there are so many.

    Fields are bound and checked as `run` does; raises InputError or BindingError.
    """
    dataset = Dataset.discover(inputs)
    binding = bind(dataset.schema, graph_inputs, (), requested, keep=(), rules=rules)
    batches = _batches(dataset, binding, rows)
    if not batches:
        raise InputError(f"{', '.join(inputs)}: expected rows that can be fed, got none")
    parts = [to_feeds(batch, binding) for batch in batches]
    feeds = {name: joined([part[name] for part in parts]) for name in parts[0]}
    sequences = next((f for f in feeds.values() if isinstance(f, Ragged)), None)
    if tokens is None or sequences is None:
        return feeds
    fitting = int(np.searchsorted(sequences.offsets, tokens, side="right")) - 1
    return {n: rows_of(f, 0, min(len(f), max(fitting, least))) for n, f in feeds.items()}


def _batches(dataset: Dataset, binding: Binding, rows: int) -> list[pa.RecordBatch]:
    found: list[pa.RecordBatch] = []
    wanted = rows
    for shard in plan_shards(dataset):
        with ShardReader(shard, binding.columns, rows) as reader:
            for batch in reader:
                good = without_rows(batch, bad_rows(batch, binding)).slice(0, wanted)
                wanted -= good.num_rows
                found += [good] if good.num_rows else []
                if not wanted:
                    return found
    return found
