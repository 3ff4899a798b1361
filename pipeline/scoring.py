"""What happens to one batch: rows that cannot be fed, the run, rows that the model refuses.

fail   the first bad row ends the shard, named by file, row and field
skip   bad rows leave the output and stand in the rejects
null   bad rows stay with null outputs, and stand in the rejects too
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import EngineError, FeedError
from pipeline.binding import Binding
from pipeline.errors import RowError
from pipeline.tensors import BadRow, bad_rows, to_batch, to_feeds, without_rows

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""engine.Session.run"""

ON_ERROR = ("fail", "skip", "null")

MODEL_FIELD = ""
"""Stands in the rejects for rows that no field is to blame for: the model cannot run on them."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch on its way to the engine."""

    kept: pa.RecordBatch
    """Kept fields of all rows read, bad ones included."""
    feeds: Mapping[str, Array]
    """[good rows, ...] by input."""
    bad: tuple[BadRow, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch on its way to the part."""

    kept: pa.RecordBatch
    outputs: Mapping[str, Array]
    """[rows of `kept` less `bad`, ...] by output."""
    bad: tuple[BadRow, ...]


def prepare(batch: pa.RecordBatch, binding: Binding, on_error: str) -> Prepared:
    """Feeds of the batch's good rows. Raises RowError for the first bad one under `fail`."""
    bad = bad_rows(batch, binding)
    if bad and on_error == "fail":
        raise RowError(bad[0].row, bad[0].field, bad[0].reason)
    feeds = to_feeds(without_rows(batch, bad), binding)
    return Prepared(batch.select(list(binding.keep)), feeds, bad)


def score(run: Run, prepared: Prepared, on_error: str) -> Scored:
    """Runs the feeds. Where the engine refuses a batch, halves find the rows that it refuses.

    Under `fail` its error is raised as it is.
    """
    try:
        return Scored(prepared.kept, run(prepared.feeds), prepared.bad)
    except FeedError:
        raise  # every row is fed in the same way: this is a fault of ours, not of a row
    except EngineError:
        if on_error == "fail":
            raise
    rows = prepared.kept.num_rows
    fed = np.setdiff1d(np.arange(rows), [b.row for b in prepared.bad])
    pieces: list[Mapping[str, Array]] = []
    refused: list[BadRow] = []
    _halve(run, prepared.feeds, fed, pieces, refused)
    pieces.append(run({name: feed[:0] for name, feed in prepared.feeds.items()}))
    outputs = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[-1]}
    bad = tuple(sorted((*prepared.bad, *refused), key=lambda b: b.row))
    return Scored(prepared.kept, outputs, bad)


def _halve(
    run: Run,
    feeds: Mapping[str, Array],
    rows: Array,
    pieces: list[Mapping[str, Array]],
    refused: list[BadRow],
) -> None:
    """Runs what can be run, in order; single rows that cannot are noted."""
    try:
        pieces.append(run(feeds))
    except EngineError as e:
        if len(rows) == 1:
            refused.append(BadRow(int(rows[0]), MODEL_FIELD, f"the model cannot run on it: {e}"))
            return
        half = len(rows) // 2
        for part in (slice(None, half), slice(half, None)):
            cut = {name: feed[part] for name, feed in feeds.items()}
            _halve(run, cut, rows[part], pieces, refused)


def encode(scored: Scored, binding: Binding, on_error: str) -> pa.RecordBatch:
    """The batch of kept fields and outputs that goes into the part."""
    if on_error == "null":
        return to_batch(scored.kept, scored.outputs, binding, scored.bad)
    return to_batch(without_rows(scored.kept, scored.bad), scored.outputs, binding)
