"""How large batches are: rows that are read together, tokens that run together.

Both follow from dataset and binding alone, so that all machines and executors agree.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.ragged import Ragged
from pipeline.bound import Binding
from pipeline.dataset import Dataset
from pipeline.flat import BadRow
from pipeline.reader import EVEN_ROWS
from pipeline.scoring import Prepared
from pipeline.sequences import rows_of
from pipeline.sizes import row_nbytes, token_counts

MAX_BATCH_ROWS = 4096
BATCH_NBYTES = 16 << 20
"""Feeds and outputs of one run. Threads meet at the end of a batch only: larger batches waste
less there, smaller ones hold less memory and overlap better with reading."""

BATCH_TOKENS = (1 << 12, 1 << 15)
"""Tokens of one run, at least and at most: 16 to 128 columns of the engine, some seconds of one
core with a model of 100 million weights."""
READ_RUNS = 4
"""Runs' worth of tokens that are read together, of rows as long as they are on average, ..."""
LONG_READ_RUNS = 16
"""... or, where footers do not tell (text), as long as they may be."""


def default_batch_rows(dataset: Dataset, binding: Binding) -> int:
    """Rows that are read together, and, where they are no sequences, run together."""
    row = binding.row_nbytes + row_nbytes(dataset, binding.keep)
    most = MAX_BATCH_ROWS
    if counts := token_counts(dataset, binding):
        row += counts.mean * sum(f.token_nbytes for f in binding.fields)
        runs = READ_RUNS if counts.told else LONG_READ_RUNS
        most = min(most, runs * default_batch_tokens(binding) // max(1, counts.mean))
    fitting = min(most, BATCH_NBYTES // max(1, row)) // EVEN_ROWS * EVEN_ROWS
    return max(EVEN_ROWS, fitting)


def default_batch_tokens(binding: Binding) -> int:
    """Tokens that run together at most, unless one row has more; 0 where there are none."""
    if binding.lengths is None:
        return 0
    least, most = BATCH_TOKENS
    return max(least, min(most, BATCH_NBYTES // max(1, binding.token_nbytes)))


def by_tokens(prepared: Prepared, most: int) -> Iterator[tuple[int, Prepared]]:
    """The batch in pieces of at most `most` tokens or one row, as even as rows allow, each behind
    the number of its first row. A batch without sequences is one piece."""
    sequences = next((f for f in prepared.feeds.values() if isinstance(f, Ragged)), None)
    if sequences is None or len(sequences.values) <= most:
        yield 0, prepared
        return
    rows = prepared.kept.num_rows
    fed = np.setdiff1d(np.arange(rows), [b.row for b in prepared.bad])
    start = first = 0
    while start < len(fed):
        end = _end(sequences.offsets, start, most)
        last = int(fed[end]) if end < len(fed) else rows
        feeds = {name: rows_of(feed, start, end) for name, feed in prepared.feeds.items()}
        bad = [b for b in prepared.bad if first <= b.row < last]
        shifted = tuple(BadRow(b.row - first, b.field, b.reason) for b in bad)
        yield first, Prepared(prepared.kept.slice(first, last - first), feeds, shifted)
        start, first = end, last


def _end(offsets: np.ndarray, start: int, most: int) -> int:
    """Where a piece that begins with row `start` ends."""
    left = int(offsets[-1] - offsets[start])
    even = -(-left // -(-left // most))
    end = int(np.searchsorted(offsets, offsets[start] + even, side="right")) - 1
    return max(end, start + 1)
