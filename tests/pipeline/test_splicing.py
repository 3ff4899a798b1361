"""Pages of our own among pyarrow's: the same tables as by pyarrow's writer, which is the twin."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import splicing
from pipeline.encoding import open_writer
from pipeline.levels import OddLevels, all_are, decoded_levels, full_lists
from pipeline.page_headers import OddHeader, page_header, plain_header
from pipeline.pages import PlainColumn, plain_fields
from pipeline.parts import PartWriter
from pipeline.shards import Lease, Shard
from pipeline.splicing import (
    GROUP_ROWS,
    LEAST_SIZE,
    LONGEST_NBYTES,
    TAIL_NBYTES,
    Lists,
    SplicedWriter,
)
from pipeline.stores.objects import Upload
from pipeline.thrift import I32, parsed, serialised

Array = np.ndarray[Any, Any]
SHARD = Shard(0, "/in/a.parquet", "parquet", (0,), 0, 4000, 0, 9999, 1)


class Held(io.BytesIO):
    """A Sink in memory."""

    nbytes, checksum = 0, ""

    def write(self, data: Any) -> int:
        return super().write(memoryview(data).cast("B"))  # as sinks on a disk do

    def sync(self) -> None: ...


def written(tables: Iterable[pa.Table], splice: bool = True, compression: str = "none") -> bytes:
    """The file of these tables, a row group each."""
    tables = list(tables)
    sink = Held()
    writer = open_writer(sink, tables[0].schema, "parquet", compression, tables[0], splice=splice)
    assert isinstance(writer, SplicedWriter) is splice
    for table in tables:
        writer.write_table(table)
    writer.close()
    return sink.getvalue()


def opened(data: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(data))


def other(name: str, rows: int) -> pa.Array:
    kind, value = OTHERS[name]
    return pa.array([value(row) for row in range(rows)], kind)


def numbers(count: int, kind: pa.DataType, seed: int = 0) -> Array:
    return (np.random.default_rng(seed).standard_normal(count) * 1e6).astype(kind.to_pandas_dtype())


def tensors(
    rows: int, field: pa.Field, seed: int = 0, null: Iterable[int] = (), gaps: Iterable[int] = ()
) -> pa.Array:
    """Lists of one size, with null rows and null elements."""
    kind = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
    mask = np.isin(np.arange(rows * kind.list_size), list(gaps)) if list(gaps) else None
    elements = pa.array(numbers(rows * kind.list_size, kind.value_type, seed), mask=mask)
    nulls = pa.array(np.isin(np.arange(rows), list(null))) if list(null) else None
    lists = pa.FixedSizeListArray.from_arrays(elements, type=kind, mask=nulls)
    if isinstance(field.type, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(field.type, lists)
    return lists


def same(found: pa.Table, expected: pa.Table) -> bool:
    """Of one schema with its metadata, too."""
    found.validate(full=True)
    return bool(found.schema.equals(expected.schema, check_metadata=True) and found == expected)


@st.composite
def tensor_fields(draw: st.DrawFn, name: str) -> pa.Field:
    of = draw(st.sampled_from(sorted(splicing.ELEMENTS, key=str)))
    size = draw(st.sampled_from([16, 17, 24, 100]))
    kind = pa.list_(pa.field("element", of, nullable=draw(st.booleans())), size)
    if draw(st.booleans()):
        kind = pa.fixed_shape_tensor(of, [size])
    return pa.field(name, kind, nullable=draw(st.booleans()))


OTHERS: dict[str, tuple[pa.DataType, Callable[[int], Any]]] = {
    "id": (pa.int64(), lambda row: row),
    "text": (pa.string(), lambda row: None if row % 3 else f"text {row % 5}"),
    "f": (pa.float64(), lambda row: None if row % 4 == 1 else row / 7),
    "bag": (pa.list_(pa.float32()), lambda row: [1.0] * (row % 4) if row % 5 else None),
    "record": (pa.struct({"a": pa.int8(), "b": pa.list_(pa.string())}), lambda row: {"b": ["x"]}),
    "kind": (pa.dictionary(pa.int32(), pa.string()), lambda row: f"k{row % 2}"),
    "short": (pa.list_(pa.int16(), 2), lambda row: [row, None]),
}
"""Fields that pyarrow writes."""


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_tables_are_those_of_pyarrows_writer(data: st.DataObject) -> None:
    draw = data.draw
    fields = [draw(tensor_fields(f"y{n}")) for n in range(draw(st.integers(1, 3)))]
    names = draw(st.lists(st.sampled_from(sorted(OTHERS)), unique=True, max_size=4))
    rows = draw(st.lists(st.integers(1, 90), min_size=1, max_size=3))
    order = draw(st.permutations([*names, *(f.name for f in fields)]))
    tables = []
    for group, count in enumerate(rows):
        columns = {name: other(name, count) for name in names}
        schema = {name: pa.field(name, column.type) for name, column in columns.items()}
        for field in fields:
            schema[field.name] = field
            odd = draw(st.sampled_from(["", "", "null", "gaps"]))
            columns[field.name] = tensors(
                count, field, group,
                null=[0, count - 1] if odd == "null" and field.nullable else (),
                gaps=[5] if odd == "gaps" and _storage(field).value_field.nullable else (),
            )  # fmt: skip
        tables.append(
            pa.table([columns[n] for n in order], pa.schema([schema[n] for n in order], {"a": "b"}))
        )
    page = draw(st.sampled_from([1, 3000, 1 << 20]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splicing, "PAGE_NBYTES", page)
        ours = written(tables)
    found, twin = opened(ours), opened(written(tables, splice=False))
    assert same(found.read(), twin.read())
    assert found.schema.equals(twin.schema) and found.metadata.metadata == twin.metadata.metadata
    assert found.metadata.num_rows == sum(rows)
    for group in range(len(rows)):
        assert found.metadata.row_group(group).num_rows == rows[group]
        assert same(found.read_row_group(group), twin.read_row_group(group))
    for field in fields:
        assert same(found.read([field.name]), twin.read([field.name]))


def _storage(field: pa.Field) -> Any:
    extended = isinstance(field.type, pa.BaseExtensionType)
    return field.type.storage_type if extended else field.type


ELEMENT = pa.field("element", pa.float32())  # as Parquet names it
FIELD = pa.field("y", pa.list_(ELEMENT, 64))


def plain_table(rows: int, seed: int = 0) -> pa.Table:
    return pa.table(
        [tensors(rows, FIELD, seed), other("id", rows), other("text", rows)],
        pa.schema([FIELD, pa.field("id", pa.int64()), pa.field("text", pa.string())]),
    )


def test_every_way_of_reading_finds_the_rows(tmp_path: Path) -> None:
    tables = [plain_table(300, 1), plain_table(200, 2)]
    path = tmp_path / "a.parquet"
    path.write_bytes(written(tables))
    whole = pa.concat_tables(tables)
    assert same(pq.read_table(path, memory_map=True), whole)
    assert same(pq.read_table(path, pre_buffer=False, buffer_size=4096), whole)
    assert same(ds.dataset(path).to_table(columns=["y"]), whole.select(["y"]))
    rows = ds.dataset(path).to_table(filter=ds.field("text") == "text 3")
    mask = pa.array([text == "text 3" for text in whole["text"].to_pylist()])
    assert same(rows, whole.filter(mask)) and rows.num_rows == 34
    batches = list(pq.ParquetFile(path).iter_batches(70))
    assert same(pa.Table.from_batches(batches), whole)


def test_every_bit_of_a_float_comes_back() -> None:
    """NaN with its payload, infinities, the sign of a zero."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, 640, np.uint32)
    bits[:4] = 0x7FC00001, 0xFF800000, 0x80000000, 0xFFFFFFFF
    lists = pa.FixedSizeListArray.from_arrays(pa.array(bits.view(np.float32)), 64)
    found = opened(written([pa.table({"y": lists})])).read()["y"].chunk(0).flatten()
    assert found.to_numpy().tobytes() == bits.tobytes()


def test_our_own_reader_reads_it_where_it_belongs(tmp_path: Path) -> None:
    field = pa.field("y", pa.list_(ELEMENT, 256))
    tables = [pa.table([tensors(rows, field, rows)], pa.schema([field])) for rows in (3000, 5)]
    path = tmp_path / "a.parquet"
    path.write_bytes(written(tables))
    metadata = pq.read_metadata(path)
    fields = plain_fields(metadata, tables[0].schema, ["y"], [0, 1])
    with PlainColumn(str(path), fields["y"]) as column:
        found = pa.table([column.take(3005)], tables[0].schema)
        assert len(column._stored) < 1 << 14, "headers and levels alone"
    assert same(found, pa.concat_tables(tables))


def test_pages_have_their_size_and_what_the_footer_says(tmp_path: Path) -> None:
    data = written([plain_table(9000)])
    chunk = opened(data).metadata.row_group(0).column(0)
    at, values, pages = chunk.data_page_offset, 0, 0
    while values < chunk.num_values:
        header = page_header(data[at : at + 100])
        assert header.nbytes < (1 << 20) + (1 << 15)
        at += header.header_nbytes + header.stored_nbytes
        values, pages = values + header.values, pages + 1
    assert at == chunk.data_page_offset + chunk.total_compressed_size and pages == 3
    assert (chunk.encodings, chunk.compression) == (("PLAIN", "RLE"), "UNCOMPRESSED")
    twin = opened(written([plain_table(9000)], splice=False)).metadata.row_group(0)
    mine = opened(data).metadata.row_group(0)
    assert abs(mine.total_byte_size - twin.total_byte_size) < 200
    assert mine.column(1).statistics.max == 8999, "other fields keep theirs"


def test_batches_change_no_byte() -> None:
    whole = plain_table(5000)
    data = written([whole])
    for rows in (1, 700, 4999):
        pieces = [whole.slice(first, rows) for first in range(0, 5000, rows)]
        batches = [batch for piece in pieces for batch in piece.to_batches()]
        batches.insert(1, batches[0].slice(0, 0))  # of which each row was a bad one
        assert written([pa.Table.from_batches(batches)]) == data


def test_rows_go_into_the_file_from_where_they_lie() -> None:
    """Nothing of their size is made on the way."""
    table, sink = plain_table(40_000), Mock(spec=["write"])
    lists = Lists.of(FIELD)
    assert lists is not None
    writer = SplicedWriter(sink, table, {"y": lists}, {"compression": "none"})
    writer.write_table(table)
    values = table["y"].chunk(0).flatten().buffers()[1]
    given_ = [np.frombuffer(call.args[0], np.uint8) for call in sink.write.call_args_list]
    inside = [a for a in given_ if values.address <= a.ctypes.data < values.address + values.size]
    assert sum(map(len, inside)) == values.size


def test_other_columns_go_into_the_file_as_they_are_encoded() -> None:
    """A row group of long strings is never in memory a second time: the plan does not count it."""
    texts = [f"{row:0>4000}" for row in range(4000)]
    table = plain_table(4000).append_column("long", pa.array(texts))
    held: list[int] = []
    sink = Mock(spec=["write"])
    sink.write.side_effect = lambda data: held.append(pa.total_allocated_bytes())
    lists = Lists.of(FIELD)
    assert lists is not None
    options = {"compression": "none", "use_dictionary": False, "write_batch_size": 64}
    writer = SplicedWriter(sink, table, {"y": lists}, options)
    before = pa.total_allocated_bytes()
    writer.write_table(table)
    assert max(held) - before < table["long"].nbytes / 3


def test_a_disk_that_is_full_is_told_as_such_wherever_it_happens() -> None:
    table, counted = plain_table(500), Mock(spec=["write"])

    def write(sink: Any) -> None:
        writer = open_writer(sink, table.schema, "parquet", "none", table)
        writer.write_table(table)
        writer.close()

    write(counted)
    count = counted.write.call_count
    for number in range(count):
        sink = Mock(spec=["write"])
        full = OSError(errno.ENOSPC, "no room")
        sink.write.side_effect = [None] * number + [full] + [None] * count
        with pytest.raises(OSError) as caught:
            write(sink)
        assert caught.value.errno == errno.ENOSPC, f"write {number} of {count}"
        assert sink.write.call_count == number + 1, "nothing comes behind what is missing"


def test_tensors_alone_and_row_groups_of_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splicing, "GROUP_ROWS", 40)
    table = plain_table(100).select(["y"])
    found = opened(written([table]))
    assert [found.metadata.row_group(n).num_rows for n in range(3)] == [40, 40, 20]
    assert same(found.read(), table)
    assert GROUP_ROWS == 1 << 20, "as many as pyarrow writes"


def test_no_rows_are_no_row_group_and_the_end_is_written_once() -> None:
    table, sink = plain_table(5), Held()
    writer = open_writer(sink, table.schema, "parquet", "none", table)
    writer.write_table(table)
    writer.write_table(table.slice(0, 0))
    writer.close()
    ended = sink.getvalue()
    writer.close()
    assert sink.getvalue() == ended
    assert opened(ended).num_row_groups == 1
    assert same(opened(sink.getvalue()).read(), table)


def test_the_footer_adds_up() -> None:
    """Readers split files and take memory by these, and no two of them by the same."""
    data = written([plain_table(9000, 1), plain_table(20, 2)])
    end = len(data) - TAIL_NBYTES
    footer, _ = parsed(data[end - int.from_bytes(data[end : end + 4], "little") : end])
    at = len(b"PAR1")
    for group, pages in zip(footer[4], (3, 1), strict=True):
        columns = [chunk[3] for chunk in group[1]]
        assert group[2] == sum(c[6] for c in columns) and group[6] == sum(c[7] for c in columns)
        begins = [min(c[place] for place in (9, 11) if place in c) for c in columns]
        assert group[5] == at == min(begins), "where it begins"
        at += group[6]
        assert [p[3] for p in columns[0][13]] == [pages]
    assert at == end - int.from_bytes(data[end : end + 4], "little"), "nothing between"


@pytest.mark.parametrize("levels", [b"\xff" * 20 + b"\x01\x00", b"\x02"])
def test_odd_levels_are_told(levels: bytes) -> None:
    with pytest.raises(OddLevels, match=r"without an end|out of range"):
        decoded_levels(levels, 9, 1)


@pytest.mark.parametrize("place", [2, 3])
def test_a_page_of_less_than_nothing_is_odd(place: int) -> None:
    header, _ = parsed(plain_header(5, 9))
    with pytest.raises(OddHeader, match="expected a size, got -1"):
        page_header(serialised(header | {place: I32(-1)}))


SHORT = pa.field("y", pa.list_(pa.float32(), LEAST_SIZE - 1))
NESTED = pa.field("y", pa.list_(pa.list_(pa.float32(), 4), 16))
HALF = pa.field("y", pa.list_(pa.float16(), 64))
ANY = pa.field("y", pa.list_(pa.float32()))


LONG = pa.field("y", pa.list_(pa.float32(), (LONGEST_NBYTES >> 2) + 1))


@pytest.mark.parametrize("field", [SHORT, NESTED, HALF, ANY, LONG, pa.field("y", pa.float32())])
def test_other_fields_are_left_to_pyarrow(field: pa.Field) -> None:
    assert Lists.of(field) is None


@pytest.mark.parametrize(
    ("format", "compression", "rows", "splice"),
    [
        ("arrow", "none", 5, True),
        ("parquet", "zstd", 5, True),
        ("parquet", "none", 0, True),
        ("parquet", "none", 5, False),
    ],
)
def test_where_nothing_is_spliced(format: str, compression: str, rows: int, splice: bool) -> None:
    table = plain_table(rows)
    writer = open_writer(Held(), table.schema, format, compression, table, splice=splice)
    assert not isinstance(writer, SplicedWriter)


def test_levels_say_what_they_should() -> None:
    for rows, size in ((1, 16), (3, 300), (4, 1)):
        begins = decoded_levels(full_lists(rows, size), rows * size, 1)
        assert begins.tolist() == ([0] + [1] * (size - 1)) * rows
    assert decoded_levels(all_are(9000, 3), 9000, 2).tolist() == [3] * 9000


def test_parts_on_a_disk_and_in_an_object_store_have_the_same_bytes(tmp_path: Path) -> None:
    table = plain_table(4000)
    (batch,) = table.to_batches()
    writers = []
    for splice in (True, False):
        writer = PartWriter(
            tmp_path / str(splice), Lease(SHARD, 0), table.schema, format="parquet",
            fingerprint="f", splice=splice,
        )  # fmt: skip
        writer.write(batch)
        writers.append((writer, writer.close()))
    (ours, part), (_, other) = writers
    path = tmp_path / "True" / part.temp
    assert part.rows_out == 4000 and part.nbytes == path.stat().st_size
    assert same(pq.read_table(path), pq.read_table(tmp_path / "False" / other.temp))
    assert part.checksum != other.checksum
    upload = Upload(Mock(), "bucket/part")
    marked = table.replace_schema_metadata(ours._marks)
    writer = open_writer(upload, marked.schema, "parquet", "auto", marked)
    writer.write_table(marked)
    writer.close()
    assert upload.checksum == part.checksum and upload.nbytes == part.nbytes
