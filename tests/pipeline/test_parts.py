from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from pipeline import parts
from pipeline.errors import BindingError, OutputError, StorageError
from pipeline.page_headers import page_header
from pipeline.parts import Part, PartWriter, Reject, Seconds, check_writable, read_marks
from pipeline.shards import Lease, Shard
from pipeline.stores import store_at

SHARD = Shard(7, "/in/ü.parquet", "parquet", (1, 2), 100, 4000, 50, 9999, 1)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("kind", pa.dictionary(pa.int8(), pa.string())),
        pa.field("y", pa.list_(pa.field("item", pa.float32(), nullable=False), 4), nullable=False),
        pa.field("t", pa.fixed_shape_tensor(pa.float32(), [2, 2])),
    ]
)


def batch(first: int, rows: int) -> pa.RecordBatch:
    values = pa.array(np.arange(rows * 4, dtype=np.float32))
    kinds = pa.array([f"kind {(first + i) % 3}" for i in range(rows)]).dictionary_encode()
    tensor = pa.FixedSizeListArray.from_arrays(values, 4)
    arrays = [
        pa.array(np.arange(first, first + rows)),
        kinds.cast(SCHEMA.field("kind").type),
        pa.FixedSizeListArray.from_arrays(values, type=SCHEMA.field("y").type),
        pa.ExtensionArray.from_storage(SCHEMA.field("t").type, tensor),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def write(output: Path, format: str = "parquet", attempt: int = 0, rejects: int = 0) -> Part:
    writer = PartWriter(output, Lease(SHARD, attempt), SCHEMA, format=format, fingerprint="f1")
    writer.write(batch(50, 60))
    writer.write(batch(110, 40 - rejects))
    writer.reject(Reject(149 - i, "x", "is null") for i in range(rejects))
    return writer.close(seconds=Seconds(1.0, 2.0))


def read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path, partitioning=None)
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


@pytest.mark.parametrize("format", parts.FORMATS)
def test_a_part_is_whole_counted_hashed_and_says_whose_it_is(tmp_path: Path, format: str) -> None:
    part = write(tmp_path, format, rejects=3)
    temp = tmp_path / part.temp
    assert part.path == f"part-000007.{format}"
    assert temp.parent == tmp_path / "_colonnade/tmp"
    assert (part.rows_in, part.rows_out, part.rejects) == (100, 97, 3)
    assert part.nbytes == temp.stat().st_size
    assert part.checksum == f"xxh3-128:{xxhash.xxh3_128_hexdigest(temp.read_bytes())}"
    marks, rows = read_marks(store_at(tmp_path), part.temp, format)
    assert rows == 97
    assert marks == {
        "colonnade.fingerprint": "f1",
        "colonnade.shard": "7",
        "colonnade.source": "/in/ü.parquet",
        "colonnade.rows": "50:150",
    }
    table = read(temp)
    assert table["id"].to_pylist() == list(range(50, 147))
    assert table["kind"].to_pylist() == [f"kind {i % 3}" for i in range(50, 147)]
    assert table.schema.field("id").nullable is False
    assert table.schema.field("y").equals(SCHEMA.field("y"))
    assert table.schema.field("t").type == SCHEMA.field("t").type
    rejects = read(tmp_path / part.rejects_temp).to_pylist()
    assert rejects[0] == {"file": "/in/ü.parquet", "row": 149, "field": "x", "reason": "is null"}
    assert part.rejects_nbytes == (tmp_path / part.rejects_temp).stat().st_size


def test_parquet_keeps_dictionary_fields(tmp_path: Path) -> None:
    table = read(tmp_path / write(tmp_path).temp)
    assert table.schema.field("kind").type == SCHEMA.field("kind").type


@pytest.mark.parametrize("format", parts.FORMATS)
def test_attempts_have_their_own_names_and_the_same_bytes(tmp_path: Path, format: str) -> None:
    first, second = write(tmp_path, format), write(tmp_path, format, attempt=1)
    assert first.temp != second.temp
    assert first.checksum == second.checksum
    assert (first.rejects_temp, first.rejects_checksum) == ("", "")


def test_row_groups_end_when_they_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "GROUP_ROWS", 50)
    part = write(tmp_path)
    metadata = pq.read_metadata(tmp_path / part.temp)
    assert [metadata.row_group(i).num_rows for i in range(2)] == [60, 40]
    assert metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize("format", parts.FORMATS)
def test_a_part_without_rows_has_the_schema(tmp_path: Path, format: str) -> None:
    part = PartWriter(tmp_path, Lease(SHARD, 0), SCHEMA, format=format, fingerprint="f").close()
    table = read(tmp_path / part.temp)
    assert table.num_rows == 0
    assert table.schema.names == SCHEMA.names


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, Lease(SHARD, 0), SCHEMA, format="parquet", fingerprint="f")
    writer.write(batch(0, 5))
    writer.abort()
    writer.abort()
    assert list((tmp_path / "_colonnade/tmp").iterdir()) == []


@pytest.mark.parametrize("number", [28, 5])
def test_a_failing_disk_is_named(tmp_path: Path, number: int) -> None:
    writer = PartWriter(tmp_path, Lease(SHARD, 0), SCHEMA, format="parquet", fingerprint="f")
    with (
        mock.patch("os.fsync", side_effect=OSError(number, "disk")),
        pytest.raises(StorageError) as e,
    ):
        writer.close()
    writer.abort()
    assert e.value.exit_code == 4
    assert str(tmp_path) in str(e.value)


def test_a_full_disk_is_named_while_writing(tmp_path: Path) -> None:
    """/dev/full takes the place of the temporary file: every write to it fails for real."""
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        mock.patch.object(Path, "open", return_value=full),
        pytest.raises(StorageError, match="No space"),
    ):
        PartWriter(tmp_path, Lease(SHARD, 0), SCHEMA, format="parquet", fingerprint="f").close()


def test_a_disk_that_fills_up_in_mid_part_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "GROUP_ROWS", 50)
    writer = PartWriter(tmp_path, Lease(SHARD, 0), SCHEMA, format="parquet", fingerprint="f")
    with (
        mock.patch.object(parts, "open_writer", side_effect=OSError(28, "No space left")),
        pytest.raises(StorageError, match="No space") as e,
    ):
        writer.write(batch(0, 60))
    writer.abort()
    assert str(tmp_path) in str(e.value)


def test_storage_that_loses_rows_is_noticed(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, Lease(SHARD, 0), SCHEMA, format="parquet", fingerprint="f")
    writer.write(batch(0, 5))
    writer._rows_out += 1
    with pytest.raises(OutputError, match=r"expected 6 rows .* got 5"):
        writer.close()
    writer.abort()


@pytest.mark.parametrize(
    ("format", "compression", "codecs"),
    [
        ("parquet", "auto", {"ZSTD"}),
        ("parquet", "zstd", {"ZSTD"}),
        ("parquet", "lz4", {"LZ4"}),
        ("parquet", "snappy", {"SNAPPY"}),
        ("parquet", "none", {"UNCOMPRESSED"}),
        ("arrow", "auto", "plain"),
        ("arrow", "none", "plain"),
        ("arrow", "zstd", "small"),
        ("arrow", "lz4", "small"),
    ],
)
def test_parts_are_compressed_as_asked(
    tmp_path: Path, format: str, compression: str, codecs: object
) -> None:
    schema = pa.schema({"id": pa.int64(), "y": pa.list_(pa.float32(), 64), "z": pa.float64()})
    writer = PartWriter(
        tmp_path, Lease(SHARD, 0), schema, format=format, fingerprint="f", compression=compression
    )
    rows = SHARD.rows
    columns = [pa.array(range(rows)), pa.array([[0.0] * 64] * rows, schema.field("y").type)]
    writer.write(pa.record_batch([*columns, pa.array([1.0] * rows)], schema=schema))
    part = writer.close()
    path = tmp_path / part.temp
    if format == "arrow":
        with pa.ipc.open_file(path) as reader:
            assert reader.read_all().num_rows == rows
        assert codecs == ("plain" if part.nbytes > rows * 64 * 4 else "small")
    else:
        group = pq.read_metadata(path).row_group(0)
        assert {group.column(i).compression for i in range(3)} == codecs
        assert pq.read_table(path).num_rows == rows


def test_long_strings_do_not_make_long_pages(tmp_path: Path) -> None:
    """As many values at once as for numbers would be 16 MB of them."""
    schema = pa.schema({"y": pa.float32(), "t": pa.string()})
    writer = PartWriter(
        tmp_path, Lease(SHARD, 0), schema, format="parquet", fingerprint="f", compression="none"
    )
    text = pa.array([f"{row:01000d}" for row in range(4000)])
    writer.write(pa.record_batch([pa.array([0.5] * 4000, pa.float32()), text], schema=schema))
    path = tmp_path / writer.close().temp
    chunk = pq.read_metadata(path).row_group(0).column(1)
    at = chunk.dictionary_page_offset or chunk.data_page_offset
    first = page_header(path.read_bytes()[at : at + 200])
    assert first.nbytes < 3 << 20


def test_floats_that_do_not_shrink_are_not_squeezed(tmp_path: Path) -> None:
    """zstd's level 1 makes floats 8 % smaller, for half of what writing them costs."""
    values = np.random.default_rng(2).standard_normal(64 * SHARD.rows).astype(np.float32)
    y = pa.FixedSizeListArray.from_arrays(pa.array(values), 64)
    schema = pa.schema({"y": y.type, "t": pa.string()})
    found = {}
    for number, compression in enumerate(("auto", "zstd")):
        writer = PartWriter(
            tmp_path, Lease(SHARD, number), schema, format="parquet", fingerprint="f",
            compression=compression,
        )  # fmt: skip
        writer.write(pa.record_batch([y, pa.array(["text " * 9] * len(y))], schema=schema))
        group = pq.read_metadata(tmp_path / writer.close().temp).row_group(0)
        found[compression] = [group.column(i).total_compressed_size for i in range(2)]
    assert found["auto"][0] > 1.03 * found["zstd"][0]
    assert found["auto"][1] == found["zstd"][1]


def test_fields_that_a_format_cannot_hold_are_refused_by_name() -> None:
    kinds = {"id": pa.int64(), "odd": pa.dense_union([pa.field("a", pa.int8())])}
    with pytest.raises(BindingError, match="field 'odd': parquet cannot hold"):
        check_writable(pa.schema(kinds), "parquet")
    check_writable(pa.schema(kinds), "arrow")
    check_writable(SCHEMA, "parquet")
