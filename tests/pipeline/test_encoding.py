"""What `--compression auto` makes of floats, and how rows are handed to pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import encoding
from pipeline.encoding import SAMPLE_ROWS, in_pieces
from pipeline.parts import PartWriter
from pipeline.shards import Lease, Shard

Array = np.ndarray[Any, Any]
SHARD = Shard(0, "/in/a.parquet", "parquet", (0,), 0, 4000, 0, 9999, 1)
WIDTH = 64


def floats(zeros: float, rows: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, WIDTH), np.float32)
    return values * (rng.random((rows, WIDTH)) >= zeros)


def lists(values: Array) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def written(folder: Path, columns: dict[str, pa.Array], rows: int = 1 << 20) -> Path:
    """The part of these columns, written in batches of so many rows."""
    whole = pa.record_batch(list(columns.values()), names=list(columns))
    writer = PartWriter(
        folder, Lease(SHARD, 0), whole.schema, format="parquet", fingerprint="f"
    )  # fmt: skip
    for first in range(0, whole.num_rows, rows):
        writer.write(whole.slice(first, rows))
    path = folder / writer.close().temp
    assert pq.read_table(path).to_batches()[0].equals(whole) or not whole.num_rows
    return path


def codecs(path: Path) -> list[str]:
    metadata = pq.read_metadata(path)
    group = metadata.row_group(0)
    return [group.column(i).compression for i in range(metadata.num_columns)]


SOFTMAX = np.exp(floats(0, 3000)) / np.exp(floats(0, 3000)).sum(1, keepdims=True)
COLUMNS: dict[str, tuple[pa.Array, str]] = {
    "normal": (lists(floats(0, 3000)), "UNCOMPRESSED"),
    "of a softmax": (lists(SOFTMAX), "UNCOMPRESSED"),
    "float64": (lists(floats(0, 3000) * np.float64(np.pi)), "UNCOMPRESSED"),
    "one row": (lists(floats(0, 1)), "UNCOMPRESSED"),
    "flat": (pa.array(floats(0, 100).reshape(-1)), "UNCOMPRESSED"),
    "tensors": (
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), (8, 8)), lists(floats(0, 300))
        ),
        "UNCOMPRESSED",
    ),
    "lists of any length": (
        pa.ListArray.from_arrays(
            pa.array([0, 0, 500, 640], pa.int32()), pa.array(floats(0, 10).reshape(-1))
        ),
        "UNCOMPRESSED",
    ),
    "half of them zeros": (lists(floats(0.5, 3000)), "ZSTD"),
    "90 % zeros": (lists(floats(0.9, 3000)), "ZSTD"),
    "one row of zeros": (lists(floats(1, 1)), "ZSTD"),
    "nulls alone": (pa.nulls(50, pa.list_(pa.float32(), 4)), "ZSTD"),
    "integers": (lists(np.random.default_rng(0).integers(0, 1 << 62, (99, 8))), "ZSTD"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_floats_are_compressed_where_that_saves_something(tmp_path: Path, case: str) -> None:
    column, codec = COLUMNS[case]
    text = pa.array(["text"] * len(column))
    record = pa.StructArray.from_arrays([text, text], ["a", "b"])  # of two Parquet columns
    path = written(tmp_path, {"text": text, "y": column, "record": record})
    assert codecs(path) == ["ZSTD", codec, "ZSTD", "ZSTD"]


@pytest.mark.parametrize("dense_first", [True, False])
def test_the_first_rows_decide_whatever_the_batches(tmp_path: Path, dense_first: bool) -> None:
    """The rows behind the sample would decide otherwise."""
    first, rest = (0.0, 1.0) if dense_first else (1.0, 0.0)
    values = np.concatenate([floats(first, SAMPLE_ROWS), floats(rest, 1500)])
    found = [codecs(written(tmp_path, {"y": lists(values)}, rows)) for rows in (1, 700, 1 << 20)]
    assert found == [["UNCOMPRESSED" if dense_first else "ZSTD"]] * 3


def test_each_part_and_each_column_for_itself(tmp_path: Path) -> None:
    """Readers take parts of one folder together, however each is compressed."""
    kinds = [(0.0, 0.9), (0.9, 0.0)]
    paths = [
        written(tmp_path / str(n), {"y": lists(floats(a, 200)), "z": lists(floats(b, 200))})
        for n, (a, b) in enumerate(kinds)
    ]
    assert [codecs(path) for path in paths] == [["UNCOMPRESSED", "ZSTD"], ["ZSTD", "UNCOMPRESSED"]]
    assert pq.ParquetDataset(paths).read().num_rows == 400


def test_pieces_are_the_rows_and_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"id": pa.array(range(3000)), "y": lists(floats(0.5, 3000))}
    whole = pa.record_batch(list(columns.values()), names=list(columns))
    pieces = list(in_pieces([whole.slice(0, 2100), whole.slice(2100)], whole.schema))
    assert [piece.num_rows for piece in pieces] == [1024, 1024, 52, 900]
    assert pa.Table.from_batches(pieces).combine_chunks().to_batches()[0].equals(whole)
    found = written(tmp_path / "pieces", columns).read_bytes()
    monkeypatch.setattr(encoding, "LEVELS_AT_ONCE", 1 << 30)
    assert written(tmp_path / "whole", columns).read_bytes() == found


def test_lists_of_any_length_stay_as_they_came() -> None:
    """Their pages would end where pieces do."""
    batch = pa.record_batch([pa.array([[1.0]] * 100_000)], names=["y"])
    assert [piece.num_rows for piece in in_pieces([batch], batch.schema)] == [100_000]
