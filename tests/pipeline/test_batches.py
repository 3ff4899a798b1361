"""How batches are cut by tokens, and what footers tell of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph import Value
from engine.ragged import Ragged
from pipeline.batches import BATCH_TOKENS, by_tokens, default_batch_rows, default_batch_tokens
from pipeline.binding import Binding, TokenRules, bind
from pipeline.dataset import Dataset
from pipeline.scoring import prepare
from pipeline.sizes import token_counts

IDS = Value("ids", np.dtype(np.int64), ("N", "S"))
SCHEMA = pa.schema([("id", pa.int64()), ("ids", pa.list_(pa.int64()))])
SMALL = Value("y", np.dtype(np.float32), ("N", "S"))
LARGE = Value("y", np.dtype(np.float32), ("N", "S", 4096))


def bound(output: Value = SMALL, keep: Any = None) -> Binding:
    return bind(SCHEMA, (IDS,), (output,), keep=keep, rules=TokenRules(model_most=50))


@settings(deadline=None)
@given(
    st.lists(st.none() | st.lists(st.integers(0, 9), max_size=20), max_size=30),
    st.integers(1, 40),
    st.booleans(),
)
def test_pieces_have_every_row_once_in_order(rows: list[Any], most: int, keep: bool) -> None:
    batch = pa.record_batch([np.arange(len(rows)), pa.array(rows, SCHEMA.field(1).type)], SCHEMA)
    binding = bound(keep=None if keep else ())
    prepared = prepare(batch, binding, "skip")
    numbers, fed, bad, next_row = [], [], [], 0
    for first, piece in by_tokens(prepared, most):
        assert first == next_row
        next_row += piece.kept.num_rows
        numbers += piece.kept["id"].to_pylist() if keep else []
        feed = piece.feeds["ids"]
        assert isinstance(feed, Ragged)
        assert len(feed) == piece.kept.num_rows - len(piece.bad)
        assert len(feed.values) <= most or len(feed) == 1
        fed += [row.tolist() for row in feed]
        bad += [first + b.row for b in piece.bad]
    assert next_row == len(rows)
    assert not keep or numbers == list(range(len(rows)))
    assert fed == [row for row in rows if row]
    assert bad == [i for i, row in enumerate(rows) if not row]


def test_pieces_are_even() -> None:
    batch = pa.record_batch([np.arange(11), pa.array([[1]] * 11, SCHEMA.field(1).type)], SCHEMA)
    pieces = list(by_tokens(prepare(batch, bound(), "fail"), 10))
    assert [(first, p.kept.num_rows) for first, p in pieces] == [(0, 6), (6, 5)]


def write(path: Path, rows: list[Any], group: int) -> Dataset:
    table = pa.table({"id": np.arange(len(rows)), "ids": pa.array(rows, SCHEMA.field(1).type)})
    if path.suffix == ".arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=group)
    else:
        pq.write_table(table, path, row_group_size=group)
    return Dataset.discover([str(path)])


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_footers_tell_the_tokens(tmp_path: Path, name: str) -> None:
    dataset = write(tmp_path / name, [[1] * 3, [2] * 3, [3] * 7, [4] * 6, [], [5]], 2)
    counts = token_counts(dataset, bound())
    assert counts is not None and counts.told
    assert (counts.mean, counts.longest) == (7, 13), "13 in the middle group"
    assert counts.shard == 13, "a shard a row group"
    assert counts.of(1) == 13 and counts.of(100) == 13
    assert token_counts(dataset, bind(SCHEMA, (), ())) is None


def test_rows_that_are_long_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    short = write(tmp_path / "short.parquet", [[1] * 4] * 2000, 1000)
    long = write(tmp_path / "long.parquet", [[1] * 1000] * 2000, 1000)
    assert default_batch_rows(short, bound()) == 4096
    assert default_batch_rows(long, bound()) == 128
    assert default_batch_tokens(bound()) == BATCH_TOKENS[1]
    assert default_batch_tokens(bound(LARGE)) == BATCH_TOKENS[0], "outputs of 64 MB"
    assert default_batch_tokens(bind(SCHEMA, (), ())) == 0
