"""Tensors from their pages: the same as pyarrow's, or left to pyarrow."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.blocks import Blocks
from pipeline.dataset import Dataset
from pipeline.decoding import ParquetRows
from pipeline.errors import InputError
from pipeline.levels import OddLevels, are_all, are_full_lists, decoded_levels
from pipeline.page_headers import OddHeader, page_header
from pipeline.pages import NotPlain, PlainColumn, plain_fields
from pipeline.reader import ShardReader
from pipeline.shards import plan_shards

ROWS, SIZE = 300, 200


def tensors(kind: Any = np.float32, rows: int = ROWS, size: int = SIZE) -> pa.Array:
    values = np.random.default_rng(5).integers(0, 255, rows * size * np.dtype(kind).itemsize)
    flat = values.astype(np.uint8).view(kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), size)


def written(path: Path, x: pa.Array, **options: Any) -> Path:
    table = pa.table({"id": np.arange(len(x)), "x": x, "name": [f"row {i}" for i in range(len(x))]})
    settings = {"row_group_size": 110, "use_dictionary": False, "compression": "zstd", **options}
    pq.write_table(table, path, **settings)
    return path


def fields_of(path: Path) -> Any:
    metadata = pq.read_metadata(path)
    groups = range(metadata.num_row_groups)
    return plain_fields(metadata, pq.read_schema(path), ["id", "x", "name"], groups)


def from_pages(path: Path, rows: int = 77) -> pa.Array:
    """The field as its pages alone give it."""
    left, pieces = pq.read_metadata(path).num_rows, []
    with PlainColumn(str(path), fields_of(path)["x"]) as column:
        while left:
            pieces.append(column.take(min(rows, left)))
            left -= len(pieces[-1])
    return pa.concat_arrays(pieces)


def same(found: pa.Array, expected: pa.Array) -> bool:
    """By bytes: NaN is data."""
    if isinstance(expected, pa.ExtensionArray):
        found, expected = found.storage, expected.storage
    bits = [np.asarray(each.flatten()).tobytes() for each in (found, expected)]
    return found.type == expected.type and bits[0] == bits[1]


def batches(path: Path, batch_rows: int = 64) -> pa.Table:
    shards = plan_shards(Dataset.discover([str(path)]))
    found = []
    for shard in shards:
        with ShardReader(shard, ["x", "id"], batch_rows) as reader:
            found += list(reader)
    return pa.Table.from_batches(found)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("page", [1 << 20, 3000])
def test_pages_hold_what_pyarrow_reads(
    tmp_path: Path, compression: str, version: str, page: int
) -> None:
    x = tensors()
    path = written(
        tmp_path / "a.parquet", x, compression=compression, data_page_version=version,
        data_page_size=page, write_batch_size=130,
    )  # fmt: skip
    assert same(from_pages(path), x)
    table = batches(path)
    assert same(table["x"].combine_chunks(), x) and table["id"].to_pylist() == list(range(ROWS))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("present", [False, True])
def test_element_types(tmp_path: Path, kind: Any, present: bool) -> None:
    x = tensors(kind)
    element = pa.field("element", x.type.value_type, nullable=not present)
    table = pa.table({"x": x.cast(pa.list_(element, SIZE))})
    schema = pa.schema([pa.field("x", table["x"].type, nullable=not present)])
    pq.write_table(table.cast(schema), tmp_path / "a.parquet", use_dictionary=False)
    assert same(from_pages(tmp_path / "a.parquet"), table["x"].combine_chunks())


def test_tensors_keep_their_type(tmp_path: Path) -> None:
    x = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (20, 10)), tensors())
    path = written(tmp_path / "a.parquet", x)
    found = from_pages(path)
    assert found.type == x.type and same(found, x)


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (tensors(np.int16), {}),
        (tensors(np.int32, size=2), {}),
        (tensors(np.int32), {"use_dictionary": True}),
        (tensors(np.int32), {"compression": "brotli"}),
        (tensors(np.int32), {"column_encoding": {"x.list.element": "BYTE_STREAM_SPLIT"}}),
        (pa.array([[1.0, None] * 100] * 9, pa.list_(pa.float32(), SIZE)), {}),
        (pa.array([[1.0] * SIZE, None], pa.list_(pa.float32(), SIZE)), {}),
        (pa.array([[1.0] * SIZE] * 3, pa.list_(pa.float32())), {}),
    ],
    ids=["int16", "short", "dictionary", "brotli", "split", "null element", "null row", "list"],
)
def test_what_footers_tell_is_left_to_pyarrow(
    tmp_path: Path, x: pa.Array, options: dict[str, Any]
) -> None:
    path = written(tmp_path / "a.parquet", x, **options)
    assert "x" not in fields_of(path)
    assert batches(path)["x"].combine_chunks().equals(x)


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("missing", ["row", "element"])
def test_a_null_found_on_the_way_is_left_to_pyarrow(
    tmp_path: Path, missing: str, compression: str
) -> None:
    """Without statistics only the levels tell; rows before it came from pages already."""
    rows = tensors(np.int32).to_pylist()
    rows[250] = None if missing == "row" else [None, *rows[250][1:]]
    x = pa.array(rows, pa.list_(pa.int32(), SIZE))
    path = written(tmp_path / "a.parquet", x, write_statistics=False, compression=compression)
    with PlainColumn(str(path), fields_of(path)["x"]) as column:
        assert column.take(220).equals(x.slice(0, 220))
        with pytest.raises(NotPlain, match="other bytes"):
            column.take(80)
    found = batches(path)
    assert found["x"].combine_chunks().equals(x) and found["id"].to_pylist() == list(range(ROWS))


@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_damage_reads_as_pyarrow_reads_it(tmp_path: Path, compression: str) -> None:
    """A byte turned over: the same rows as by pyarrow, or an error where pyarrow has one."""
    path = written(tmp_path / "a.parquet", tensors(rows=60), compression=compression)
    whole, random = path.read_bytes(), np.random.default_rng(11)
    chunk = pq.read_metadata(path).row_group(0).column(1)
    heads = chunk.data_page_offset + np.arange(120)  # the page's header and its levels
    failed = 0
    for at in [*heads, *random.integers(4, len(whole) - 8, 60)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            expected = pq.ParquetFile(path).read(["x"])["x"].combine_chunks()
            expected.validate(full=True)
        except (pa.ArrowException, OSError, ValueError):
            failed += 1
            continue
        try:
            found = batches(path)["x"].combine_chunks()
        except InputError:
            failed += 1
            continue
        assert found.equals(expected) or same(found, expected), f"byte {at}"
    assert failed > 20


def test_sizes_of_a_hostile_page_are_checked_before_they_are_allocated(tmp_path: Path) -> None:
    """Its header says that it unpacks to 2 GB."""
    path = written(tmp_path / "a.parquet", tensors(rows=60))
    chunk = pq.read_metadata(path).row_group(0).column(1)
    data = bytearray(path.read_bytes())
    at = chunk.data_page_offset
    header = page_header(bytes(data[at : at + 100]))
    assert data[at : at + 3] == b"\x15\x00\x15"
    size = header.nbytes << 1
    coded = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14])
    assert data[at + 3 : at + 6] == coded
    data[at + 5] = 127  # three bytes: 1 MB at most, which is more than the column has
    path.write_bytes(data)
    with (
        PlainColumn(str(path), fields_of(path)["x"]) as column,
        pytest.raises(NotPlain, match="larger than its column"),
    ):
        column.take(60)


def test_runs_of_levels() -> None:
    packed = bytes([2 << 1 | 1, 0b11111110, 0b11101111])
    assert decoded_levels(packed, 16, 1).tolist() == [0] + [1] * 11 + [0] + [1] * 3
    repeated = bytes([5 << 1, 3, 1 << 1 | 1, 0b11111111, 0b11111111])
    assert decoded_levels(repeated, 9, 2).tolist() == [3] * 9
    assert are_all(repeated, 9, 3) and not are_all(repeated, 9, 2)
    assert are_full_lists(packed, 16, 12, 0) and not are_full_lists(packed, 16, 12, 1)
    for odd in (b"", bytes([5 << 1]), bytes([0, 0]), bytes([2 << 1 | 1, 255]), b"\xff" * 9):
        with pytest.raises(OddLevels):
            decoded_levels(odd, 16, 1)


def test_headers_that_read_oddly() -> None:
    for odd in (b"", b"\x00", b"\x15\x00\x15", b"\x1c" * 40, b"\x19\x00", b"\x15" + b"\xff" * 20):
        with pytest.raises(OddHeader):
            page_header(odd)


def test_a_shard_of_plain_fields_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", tensors())
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(pa.OSFile(str(path), "rb"))
        rows = ParquetRows(source, str(path), [0, 2], ["x"], stack)
        found = list(rows.batches(64))
    assert [b.num_rows for b in found] == [64, 64, 62]
    expected = pa.concat_arrays([tensors().slice(0, 110), tensors().slice(220, 80)])
    assert same(pa.concat_arrays([b["x"] for b in found]), expected)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_what_is_not_compressed_is_read_where_it_belongs(tmp_path: Path, version: str) -> None:
    """Only headers and levels go through memory between."""
    how = {"compression": "none", "data_page_version": version}
    path = written(tmp_path / "a.parquet", tensors(), **how)
    with PlainColumn(str(path), fields_of(path)["x"]) as column:
        assert same(column.take(ROWS), tensors())
        assert len(column._stored) < 110 * SIZE


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_file_cut_short_under_its_reader_is_no_row(tmp_path: Path, compression: str) -> None:
    path = written(tmp_path / "a.parquet", tensors(), compression=compression)
    with PlainColumn(str(path), fields_of(path)["x"]) as column:
        column.take(10)
        os.truncate(path, 40_000)
        with pytest.raises(NotPlain, match="ends within a page"):
            column.take(ROWS - 10)


def test_shards_read_one_after_the_other_share_memory(tmp_path: Path) -> None:
    path, blocks = written(tmp_path / "a.parquet", tensors()), defaultdict(Blocks)
    for shard in plan_shards(Dataset.discover([str(path)])):
        with ShardReader(shard, ["x", "id"], 60, None, blocks) as reader:
            assert sum(batch.num_rows for batch in reader) == shard.rows
    assert set(blocks) == {"x"} and 1 <= len(blocks["x"]._free) <= 2
