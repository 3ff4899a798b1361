from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset import Dataset
from pipeline.errors import InputError
from pipeline.reader import ShardReader, even_rows
from pipeline.shards import Shard, plan_shards

ROWS = 200
TABLE = pa.table(
    {
        "x": pa.array(np.arange(ROWS, dtype=np.float32)),
        "x.y": pa.array(np.arange(ROWS) * 2),
        "name": [f"row {i}" for i in range(ROWS)],
        "id": pa.array(np.arange(ROWS)),
    }
)


def write(path: Path, groups: int, compression: str | None = None) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(TABLE, path, row_group_size=groups)
    else:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(str(path), TABLE.schema, options=options) as writer:
            writer.write_table(TABLE, max_chunksize=groups)
    return path


def shards(path: Path) -> tuple[Shard, ...]:
    return plan_shards(Dataset.discover([str(path)]))


@pytest.mark.parametrize("kind", ["parquet", "arrow", "lz4"])
@pytest.mark.parametrize("groups", [7, 64, 200])
@pytest.mark.parametrize("batch_rows", [1, 30, 64, 1000])
def test_batches_are_the_shard_in_order(
    tmp_path: Path, kind: str, groups: int, batch_rows: int
) -> None:
    name = "a.parquet" if kind == "parquet" else "a.arrow"
    path = write(tmp_path / name, groups, "lz4" if kind == "lz4" else None)
    ids: list[int] = []
    for shard in shards(path):
        with ShardReader(shard, ["id", "x"], batch_rows) as reader:
            batches = list(reader)
        assert reader.schema.names == ["id", "x"]
        assert [b.schema for b in batches] == [reader.schema] * len(batches)
        rows = [b.num_rows for b in batches]
        assert len(set(rows[:-1])) <= 1 and max(rows) <= batch_rows
        assert sum(rows) == shard.rows
        for b in batches:
            assert b["x"].to_pylist() == b["id"].to_pylist()
            ids += b["id"].to_pylist()
    assert ids == list(range(ROWS))


@given(st.integers(0, 10**6), st.integers(1, 5000))
def test_batches_are_even(rows: int, batch_rows: int) -> None:
    even = even_rows(rows, batch_rows)
    assert 1 <= even <= batch_rows
    assert -(-rows // even) <= -(-rows // batch_rows), "no more batches than needed"
    if rows > batch_rows >= 128:
        last = rows % even or even
        assert even - last < 64 * -(-rows // even)


def changed(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_file_changed_since_the_plan_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 200)
    (shard,) = shards(path)
    changed(path)
    size = path.stat().st_size
    told = rf"changed during the run: .* got {size:,} bytes, written at 20\d\d-\d\d-\d\d \d\d:"
    with pytest.raises(InputError, match=told):
        ShardReader(shard, ["x"], 64)


def test_a_file_changed_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 200)
    (shard,) = shards(path)
    with ShardReader(shard, ["x"], 64) as reader:
        batches = iter(reader)
        next(batches)
        changed(path)
        with pytest.raises(InputError, match="input changed during the run"):
            list(batches)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 200)
    (shard,) = shards(path)
    path.unlink()
    with pytest.raises(InputError, match=str(path)):
        ShardReader(shard, ["x"], 64)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_damage_inside_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 200, "lz4")
    (shard,) = shards(path)
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[8 : len(content) // 3] = b"\xff" * (len(content) // 3 - 8)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match=rf"shard 0: {path}"), ShardReader(shard, ["x"], 64) as r:
        list(r)


def test_an_empty_shard_has_a_schema_and_no_batches(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE.slice(0, 0), path)
    (shard,) = shards(path)
    with ShardReader(shard, ["name"], 64) as reader:
        assert list(reader) == []
    assert reader.schema.names == ["name"]
