"""Strings in dictionaries: read as such, priced by their page's header, decoded piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import Dataset
from pipeline.dictionaries import PIECE_NBYTES, decoded, dictionary_nbytes
from pipeline.parts import PartWriter
from pipeline.reader import ShardReader
from pipeline.shards import Lease, plan_shards

ROWS = 2000
WORDS = [letter * 5000 for letter in "abcdefgh"]
TEXT = [WORDS[i % 8] if i % 11 else None for i in range(ROWS)]

KINDS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "string": (pa.string(), TEXT),
    "binary": (pa.binary(), [t and t.encode() for t in TEXT]),
    "large_string": (pa.large_string(), TEXT),
    "list": (pa.list_(pa.string()), [[t, "x"] if i % 7 else None for i, t in enumerate(TEXT)]),
    "struct": (pa.struct({"n": pa.int8(), "t": pa.string()}), [{"n": 1, "t": t} for t in TEXT]),
    "map": (pa.map_(pa.string(), pa.string()), [[("k", t)] for t in TEXT]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), TEXT),
}


def write(folder: Path, name: str, **options: Any) -> Dataset:
    kind, values = KINDS[name]
    table = pa.table({"id": range(ROWS), "s": pa.array(values, kind)})
    path = folder / "in.parquet"
    pq.write_table(table, path, row_group_size=ROWS, **options)
    return Dataset.discover([str(path)])


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@pytest.mark.parametrize("name", KINDS)
def test_kept_strings_come_out_as_they_were(tmp_path: Path, name: str, format: str) -> None:
    dataset = write(tmp_path, name)
    (shard,) = plan_shards(dataset)
    with ShardReader(shard, ["id", "s"], 1000) as reader:
        assert reader.schema.field("s").type == dataset.schema.field("s").type
        writer = PartWriter(tmp_path, Lease(shard, 0), reader.schema, format=format, fingerprint="")
        for batch in reader:
            held = sum(b.size for b in batch.column("s").buffers() if b)
            assert held < 200_000, "1000 rows of it decoded are 5 MB"
            writer.write(batch)
    part = writer.close()
    assert part.rows_out == ROWS
    path = tmp_path / part.temp
    got = pq.read_table(path) if format == "parquet" else pa.ipc.open_file(path).read_all()
    assert got["s"].to_pylist() == KINDS[name][1]
    plain = KINDS["string"][0] if (name, format) == ("dictionary", "arrow") else None
    assert got.schema.field("s").type in (plain, dataset.schema.field("s").type)


@pytest.mark.parametrize("name", KINDS)
def test_every_dictionary_is_priced(tmp_path: Path, name: str) -> None:
    dataset = write(tmp_path, name)
    (group,) = dataset.files[0].row_groups
    (shard,) = plan_shards(dataset)
    with ShardReader(shard, ["s"], 100) as reader:
        held = max(sum(b.size for b in batch["s"].buffers() if b) for batch in reader)
    assert 40_000 <= group.dictionary_nbytes[1] < 60_000, "eight words of 5,000 letters"
    rows = 100 * group.field_nbytes[1] // ROWS
    assert held <= rows + group.dictionary_nbytes[1] + 1000


def test_strings_that_no_dictionary_holds_are_read_plain(tmp_path: Path) -> None:
    (shard,) = plan_shards(write(tmp_path, "string", use_dictionary=False))
    with ShardReader(shard, ["s"], 1000) as reader:
        assert {batch.schema.field("s").type for batch in reader} == {pa.string()}


@pytest.mark.parametrize("name", KINDS)
def test_decoded_pieces_stay_small(tmp_path: Path, name: str) -> None:
    dataset = write(tmp_path, name)
    (shard,) = plan_shards(dataset)
    schema = pa.schema({"s": pa.string()}) if name == "dictionary" else dataset.schema.remove(0)
    with ShardReader(shard, ["s"], ROWS) as reader:
        pieces = [piece for batch in reader for piece in decoded(batch, schema)]
    assert len(pieces) > 1
    assert all(piece.nbytes <= PIECE_NBYTES * 1.01 for piece in pieces)
    assert [v for piece in pieces for v in piece.column(0).to_pylist()] == KINDS[name][1]


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_header_tells_the_size_of_its_dictionary(
    tmp_path: Path, compression: str, version: str
) -> None:
    """Where the chunk is much larger than its dictionary: the writer gave the dictionary up."""
    values = [f"{i:07d}" * 100 for i in range(8000)]  # 5.6 MB, and 1 MB fills a dictionary
    path = tmp_path / "a.parquet"
    table = pa.table({"s": values})
    pq.write_table(table, path, compression=compression, data_page_version=version)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    assert chunk.total_uncompressed_size > 5 << 20
    with path.open("rb") as file:
        assert 1 << 20 <= dictionary_nbytes(file, chunk) < 2 << 20
    (group,) = Dataset.discover([str(path)]).files[0].row_groups
    assert group.dictionary_nbytes[0] < 2 << 20


def test_an_odd_page_header_prices_the_whole_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"s": [f"{i:07d}" * 100 for i in range(8000)]}), path)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    for odd in (b"", b"\x15", b"\x15\x04\x15" + b"\xff" * 9, b"\x15\x00\x15\x02", b"\x19" * 64):
        other = tmp_path / "odd"
        other.write_bytes(b"PAR1" + odd)
        with other.open("rb") as file:
            assert dictionary_nbytes(file, chunk) == chunk.total_uncompressed_size


def test_numbers_inside_structs_are_priced_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    same = pa.array([{"a": 1, "b": b"0123456789abcdef"}] * 5000)
    same = same.cast(pa.struct({"a": pa.int64(), "b": pa.binary(16)}))
    pq.write_table(pa.table({"s": same}), path)
    (group,) = Dataset.discover([str(path)]).files[0].row_groups
    assert group.field_nbytes[0] >= 5000 * 24
