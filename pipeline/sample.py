"""The first rows of a dataset as feeds: real rows for a bench, through the reader of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.graph import Value
from pipeline.binding import Binding, bind
from pipeline.dataset import Dataset
from pipeline.errors import InputError
from pipeline.reader import ShardReader
from pipeline.shards import plan_shards
from pipeline.tensors import bad_rows, to_feeds, without_rows

Array = np.ndarray[Any, Any]


def sample_feeds(
    inputs: Sequence[str],
    graph_inputs: Sequence[Value],
    rows: int,
    requested: Mapping[str, str],
) -> dict[str, Array]:
    """At most `rows` rows that can be fed, from the dataset's beginning, by input name.

    Fields are bound and checked as `run` does; raises InputError or BindingError.
    """
    dataset = Dataset.discover(inputs)
    binding = bind(dataset.schema, graph_inputs, (), requested, keep=())
    batches = _batches(dataset, binding, rows)
    if not batches:
        raise InputError(f"{', '.join(inputs)}: expected rows that can be fed, got none")
    feeds = [to_feeds(batch, binding) for batch in batches]
    return {name: np.concatenate([f[name] for f in feeds]) for name in feeds[0]}


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
