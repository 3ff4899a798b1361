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
from pipeline.sequences import Feed, joined, rows_of
from pipeline.tensors import BadRow, bad_rows, to_batch, to_feeds, without_rows

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Feed]], Mapping[str, Feed]]
"""engine.Session.run"""

ON_ERROR = ("fail", "skip", "null")

MODEL_FIELD = ""
"""Stands in the rejects for rows that no field is to blame for: the model cannot run on them."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch on its way to the engine."""

    kept: pa.RecordBatch
    """Kept fields of all rows read, bad ones included."""
    feeds: Mapping[str, Feed]
    """[good rows, ...] by input."""
    bad: tuple[BadRow, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch on its way to the part."""

    kept: pa.RecordBatch
    outputs: Mapping[str, Feed]
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

    Under `fail` the first of them is raised as a RowError.
    """
    try:
        return Scored(prepared.kept, run(prepared.feeds), prepared.bad)
    except FeedError:
        raise  # every row is fed in the same way: this is a fault of ours, not of a row
    except EngineError as e:
        if on_error == "fail":
            first = _first_refused(run, prepared.feeds, np.arange(prepared.kept.num_rows))
            if first is None:  # rows that it refuses only beside each other: no row is to blame
                raise
            raise RowError(first.row, first.field, first.reason) from e
    rows = prepared.kept.num_rows
    fed = np.setdiff1d(np.arange(rows), [b.row for b in prepared.bad])
    pieces: list[Mapping[str, Feed]] = []
    refused: list[BadRow] = []
    _halve(run, prepared.feeds, fed, pieces, refused)
    pieces.append(run({name: rows_of(f, 0, 0) for name, f in prepared.feeds.items()}))
    outputs = {name: joined([p[name] for p in pieces]) for name in pieces[-1]}
    bad = tuple(sorted((*prepared.bad, *refused), key=lambda b: b.row))
    return Scored(prepared.kept, outputs, bad)


def _first_refused(run: Run, feeds: Mapping[str, Feed], rows: Array) -> BadRow | None:
    """The first row of a refused batch that is refused alone, too."""
    if not len(rows):
        return None
    while len(rows) > 1:
        half = len(rows) // 2
        first = {name: rows_of(feed, 0, half) for name, feed in feeds.items()}
        if _refusal(run, first):
            feeds, rows = first, rows[:half]
        else:
            rest = {name: rows_of(feed, half, len(feed)) for name, feed in feeds.items()}
            feeds, rows = rest, rows[half:]
    refusal = _refusal(run, feeds)
    return BadRow(int(rows[0]), MODEL_FIELD, refusal) if refusal else None


def _refusal(run: Run, feeds: Mapping[str, Feed]) -> str:
    """Why the model cannot run on these rows, "" when it can."""
    try:
        run(feeds)
    except EngineError as e:
        return f"the model cannot run on it: {e}"
    return ""


def _halve(
    run: Run,
    feeds: Mapping[str, Feed],
    rows: Array,
    pieces: list[Mapping[str, Feed]],
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
        for first, last in ((0, half), (half, len(rows))):
            cut = {name: rows_of(feed, first, last) for name, feed in feeds.items()}
            _halve(run, cut, rows[first:last], pieces, refused)


def encode(scored: Scored, binding: Binding, on_error: str) -> pa.RecordBatch:
    """The batch of kept fields and outputs that goes into the part."""
    if on_error == "null":
        return to_batch(scored.kept, scored.outputs, binding, scored.bad)
    return to_batch(without_rows(scored.kept, scored.bad), scored.outputs, binding)
