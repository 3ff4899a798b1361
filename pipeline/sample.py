"""The first rows of a dataset as feeds: real rows for a bench, through the reader of jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from engine.graph import Value
from engine.pixels import Pixels
from engine.ragged import Ragged
from pipeline.binding import Binding, TokenRules, bind
from pipeline.dataset import Dataset
from pipeline.errors import InputError
from pipeline.picture_binding import pixels
from pipeline.picture_rules import PictureRules
from pipeline.pictures import THREADS, Decoder
from pipeline.reader import ShardReader
from pipeline.sequences import Feed, joined, rows_of
from pipeline.shards import plan_shards
from pipeline.tensors import bad_rows, to_feeds, without_rows

Array = np.ndarray[Any, Any]


def sample_feeds(
    inputs: Sequence[str],
    graph_inputs: Sequence[Value],
    rows: int,
    requested: Mapping[str, str],
    *,
    rules: TokenRules | None = None,
    pictures: PictureRules | None = None,
    tokens: int | None = None,
    least: int = 1,
) -> dict[str, Feed]:
    """At most `rows` rows that can be fed, from the dataset's beginning, by input name; of
    sequences as many as have `tokens` tokens together, but `least` rows if there are so many.

    Fields are bound and checked as `run` does; raises InputError or BindingError. Pictures are
    decoded and normalised here, so that any engine takes them as the model does.
    """
    dataset = Dataset.discover(inputs)
    fed = pixels(dataset.schema, graph_inputs, requested, pictures)
    taken = [
        replace(value, dtype=np.dtype(fed[value.name].dtype)) if value.name in fed else value
        for value in graph_inputs
    ]
    binding = bind(
        dataset.schema, taken, (), requested, (),
        rules=rules, pictures=pictures, unlike=dataset.unlike,
    )  # fmt: skip
    batches = _batches(dataset, binding, rows, pictures)
    if not batches:
        raise InputError(f"{', '.join(inputs)}: expected rows that can be fed, got none")
    parts = [to_feeds(batch, binding) for batch in batches]
    feeds = {name: joined([part[name] for part in parts]) for name in parts[0]}
    for value in graph_inputs:
        if value.name in fed:
            feeds[value.name] = _normalised(np.asarray(feeds[value.name]), fed[value.name], value)
    sequences = next((f for f in feeds.values() if isinstance(f, Ragged)), None)
    if tokens is None or sequences is None:
        return feeds
    fitting = int(np.searchsorted(sequences.offsets, tokens, side="right")) - 1
    return {n: rows_of(f, 0, min(len(f), max(fitting, least))) for n, f in feeds.items()}


def _normalised(pictures: Array, how: Pixels, value: Value) -> Array:
    """As the nodes of engine/pixels.py do it."""
    shape = [1] * (pictures.ndim - 1)
    shape[how.channel_axis - 1] = len(how.mean)
    mean, std = (np.array(n, np.float32).reshape(shape) for n in (how.mean, how.std))
    return ((pictures - mean) / std).astype(value.dtype)


def _batches(
    dataset: Dataset, binding: Binding, rows: int, pictures: PictureRules | None
) -> list[pa.RecordBatch]:
    found: list[pa.RecordBatch] = []
    wanted = rows
    encoded = pictures is not None and any(f.picture for f in binding.fields)
    decode = Decoder(pictures, binding, THREADS) if pictures is not None and encoded else None
    planned = dataset.planned(binding.columns)
    for shard in plan_shards(dataset):
        with ShardReader(shard, binding.columns, rows, planned=planned) as reader:
            for batch in reader:
                batch = decode(batch) if decode is not None else batch
                good = without_rows(batch, bad_rows(batch, binding)).slice(0, wanted)
                wanted -= good.num_rows
                found += [good] if good.num_rows else []
                if not wanted:
                    return found
    return found
