"""Files whose schemas differ are read as one dataset. The oracle is a list of rows in Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph import Value
from pipeline.binding import bind
from pipeline.conforming import Conforming, as_kind, from_text, to_text
from pipeline.dataset import Dataset
from pipeline.dictionaries import decoded
from pipeline.errors import InputError
from pipeline.fingerprint import fingerprint
from pipeline.reader import ShardReader
from pipeline.sample import sample_feeds
from pipeline.schemas import SHOWN, Variants
from pipeline.shards import plan_shards
from pipeline.sizes import row_nbytes
from pipeline.where import FilterError, parse

Row = dict[str, Any]

F32, F64, INT = pa.float32(), pa.float64(), pa.int64()
KINDS: dict[str, tuple[tuple[pa.DataType, ...], st.SearchStrategy[Any]]] = {
    "number": (
        (pa.int8(), pa.int32(), pa.int64(), pa.uint16(), pa.null()), st.integers(0, 100)
    ),
    "float": ((F32, F64, pa.float16(), pa.int16()), st.integers(-100, 100).map(float)),
    "text": (
        (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.null()),
        st.sampled_from(["", "a", "a text that repeats", "ä"]),
    ),
    "list": (
        (pa.list_(F32), pa.large_list(F64), pa.list_(F64, 2), pa.list_(pa.field("e", F32), 2)),
        st.lists(st.integers(0, 9).map(float), min_size=2, max_size=2),
    ),
    "struct": (
        (pa.struct({"a": pa.int32(), "b": pa.string()}),
         pa.struct({"b": pa.large_string(), "a": pa.int64()})),
        st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.sampled_from(["x", "y"])}),
    ),
    "when": (
        (pa.timestamp("ms"), pa.timestamp("us")),
        st.datetimes().map(lambda d: d.replace(microsecond=0)),
    ),
}  # fmt: skip
"""Types that a field may have in different files, and values that each of them holds."""


@st.composite
def files(draw: st.DrawFn) -> list[tuple[pa.Schema, list[Row], str]]:
    """The fields of each file, in any order, some missing, its rows and its format."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        names = draw(st.permutations(list(KINDS)))[: draw(st.integers(1, len(KINDS)))]
        fields, values = [pa.field("id", pa.int64())], {}
        for name in names:
            kinds, strategy = KINDS[name]
            kind = draw(st.sampled_from(kinds))
            nullable = pa.types.is_null(kind) or draw(st.booleans())
            fields.append(pa.field(name, kind, nullable))
            some = st.none() if pa.types.is_null(kind) else strategy
            values[name] = st.one_of(st.none(), some) if nullable else some
        order = draw(st.permutations(fields))
        rows = draw(st.lists(st.fixed_dictionaries(values), max_size=5))
        found.append((pa.schema(order), rows, draw(st.sampled_from(["parquet", "arrow"]))))
    return found


def put(folder: Path, number: int, schema: pa.Schema, rows: Sequence[Row], format: str) -> Path:
    plain = pa.schema(
        f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema
    )
    table = pa.Table.from_pylist(list(rows), plain).cast(schema)
    path = folder / f"{number}.{format}"
    if format == "arrow":
        with pa.ipc.new_file(str(path), schema) as writer:
            for batch in table.unify_dictionaries().to_batches(max_chunksize=2):
                writer.write_batch(batch)
    else:
        pq.write_table(table, path, row_group_size=2)
    return path


def read(dataset: Dataset, names: Sequence[str], batch_rows: int = 2) -> list[pa.RecordBatch]:
    """All batches, decoded; each has the planned schema."""
    planned = dataset.planned(names)
    found = []
    for shard in plan_shards(dataset):
        with ShardReader(shard, names, batch_rows, planned=planned) as reader:
            assert reader.schema.equals(pa.schema([dataset.schema.field(n) for n in names]))
            for batch in reader:
                found += decoded(batch, reader.schema)
    return found


@settings(max_examples=150, deadline=None)
@given(files(), st.randoms(use_true_random=False))
def test_files_that_differ_are_one_dataset(
    tmp_path_factory: pytest.TempPathFactory,
    some: list[tuple[pa.Schema, list[Row], str]],
    order: random.Random,
) -> None:
    folder = tmp_path_factory.mktemp("in")
    expected, next_id = [], 0
    for number, (schema, rows, format) in enumerate(some):
        named = [{"id": next_id + n, **row} for n, row in enumerate(rows)]
        next_id += len(named)
        put(folder, number, schema, named, format)
        expected += named
    dataset = Dataset.discover([str(folder)])
    names = list(dict.fromkeys(name for schema, _, _ in some for name in schema.names))
    assert dataset.schema.names == names, "in the order in which they first come"
    asked = order.sample(names, len(names))
    batches = read(dataset, asked)
    found = pa.Table.from_batches(batches, pa.schema([dataset.schema.field(n) for n in asked]))
    assert found.column_names == asked
    found.validate(full=True)
    assert found.to_pylist() == [{name: row.get(name) for name in asked} for row in expected]
    for name in names:
        field = dataset.schema.field(name)
        own = [s.field(name) if name in s.names else None for s, _, _ in some]
        assert field.nullable == any(f is None or f.nullable for f in own)
    alike = all(s.equals(some[0][0], check_metadata=False) for s, _, _ in some)
    assert dataset.differ is not alike
    for file in dataset.files:
        assert file.row_groups.field_nbytes.shape[1] == len(names) or not len(file.row_groups)


def write(folder: Path, **files: pa.Table) -> Path:
    folder.mkdir(exist_ok=True)
    for name, table in files.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


X = pa.array([1.5, 2.5], F32)
MODEL = (Value("x", np.dtype("float32"), ("N",)),)
OUTPUT = (Value("y", np.dtype("float32"), ("N",)),)


def bound(folder: Path, **more: Any) -> Any:
    dataset = Dataset.discover([str(folder)])
    return bind(dataset.schema, MODEL, OUTPUT, unlike=dataset.unlike, **more)


def refused(folder: Path, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        bound(folder, **more)
    return str(caught.value)


def test_what_nobody_reads_may_differ_in_any_way(tmp_path: Path) -> None:
    old = pa.table({"id": [1, 2], "x": X, "note": ["a", "b"], "gone": [1, 2]})
    new = pa.table({"note": [1, 2], "x": X, "new": [[1], [2]], "id": [3, 4]})
    folder = write(tmp_path / "in", old=old, new=new)
    dataset = Dataset.discover([str(folder)])
    binding = bound(folder, keep=["id"])
    (batch, other) = read(dataset, binding.columns)
    assert [batch["id"].to_pylist(), other["id"].to_pylist()] == [[3, 4], [1, 2]]
    assert batch.schema == other.schema


def test_a_kept_field_without_a_common_type_is_refused_with_files_types_and_ways_out(
    tmp_path: Path,
) -> None:
    text = pa.table({"x": X, "note": ["1", "2"], "id": [1, 2]})
    number = pa.table({"x": X, "note": [1, 2], "id": [1, 2]})
    folder = write(tmp_path / "in", a=number, b=text, c=number)
    message = refused(folder)
    assert message.startswith("kept, as all fields are without --keep: field 'note': expected one ")
    assert f"got int64 in 2 files ({folder}/a.parquet, {folder}/c.parquet) and" in message
    assert f"string in 1 file ({folder}/b.parquet): no type holds both exactly;" in message
    assert "leave it out with --keep id, or write it again with one type: t = pyarrow." in message
    assert refused(folder, keep=["note"]).startswith("--keep: field 'note': expected one type")
    assert bound(folder, keep=[]).keep == ()
    advice = message.rpartition("with one type: ")[2]
    old, new = folder / "b.parquet", folder / "d.parquet"
    exec("import pyarrow, pyarrow.parquet\n" + advice, {"OLD": str(old), "NEW": str(new)})
    old.unlink()
    assert bound(folder).keep == ("note", "id")


def test_what_feeds_an_input_must_be_in_each_file(tmp_path: Path) -> None:
    whole, without = pa.table({"x": X, "id": [1, 2]}), pa.table({"id": [3, 4]})
    files = {f"f{n}": without for n in range(SHOWN + 2)}
    folder = write(tmp_path / "in", whole=whole, **files)
    message = refused(folder)
    assert "input 'x': field 'x': expected it in all files, got 5 files (" in message
    assert f"{folder}/f0.parquet, {folder}/f1.parquet, {folder}/f2.parquet and 2 more)" in message
    assert "without it; leave those files out of --input, or write them again with the field" in (
        message
    )
    assert bound(folder, requested={"x": "id:cast"}).fields[0].field == "id"


def test_a_kept_field_is_null_where_files_lack_it(tmp_path: Path) -> None:
    old, new = pa.table({"x": X}), pa.table({"x": X, "note": ["a", "b"]})
    folder = write(tmp_path / "in", a=old, b=new)
    dataset = Dataset.discover([str(folder)])
    binding = bound(folder)
    assert binding.keep == ("note",)
    assert [b["note"].to_pylist() for b in read(dataset, ["note"])] == [[None, None], ["a", "b"]]
    assert str(dataset).splitlines()[-1] == "  files differ: note is in 1 of 2 files"


def test_an_input_is_fed_from_the_type_that_holds_all(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "in", a=pa.table({"x": X}), b=pa.table({"x": pa.array([1, 2], pa.int16())})
    )
    assert bound(folder).fields[0].arrow == "float"
    pq.write_table(pa.table({"x": pa.array([0.1, 2])}), folder / "c.parquet")
    with pytest.raises(Exception, match="expected float32, got float64, which does not fit"):
        bound(folder)
    assert bound(folder, requested={"x": "x:cast"}).fields[0].arrow == "double"
    feeds = sample_feeds([str(folder)], MODEL, 10, {"x": "x:cast"})
    assert feeds["x"].tolist() == np.array([1.5, 2.5, 1, 2, 0.1, 2], np.float32).tolist()
    pq.write_table(pa.table({"x": pa.nulls(2)}), folder / "d.parquet")
    pq.write_table(pa.table({"x": pa.array([3.0, 3.0], F32)}), folder / "e.parquet")
    feeds = sample_feeds([str(folder)], MODEL, 10, {"x": "x:cast"})
    assert feeds["x"].tolist()[4:] == np.array([0.1, 2, 3, 3], np.float32).tolist()


@pytest.mark.parametrize("unit", ["a", "b"])
def test_rows_of_tensors_from_pages_are_cast(tmp_path: Path, unit: str) -> None:
    values = np.arange(4 * 256, dtype=np.float32)
    folder = tmp_path / "in"
    folder.mkdir()
    for name, kind in (("a", F32), ("b", F64)):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values, kind), 256)
        pq.write_table(
            pa.table({"x": lists}), folder / f"{name}.parquet", use_dictionary=False,
        )  # fmt: skip
    for batch in read(Dataset.discover([str(folder)]), ["x"], 3):
        assert batch.schema.field("x").type == pa.list_(F64, 256)
    found = [row for b in read(Dataset.discover([str(folder)]), ["x"], 3) for row in b["x"]]
    assert np.array_equal([row.as_py() for row in found], np.tile(values.reshape(4, 256), (2, 1)))


def test_a_time_that_is_too_late_for_the_finer_unit_names_file_and_field(tmp_path: Path) -> None:
    late = pa.array([np.datetime64("2500-01-01", "s")], pa.timestamp("s"))
    fine = pa.array([1], pa.timestamp("ns"))
    folder = tmp_path / "in"
    folder.mkdir()
    for name, array in (("a", late), ("b", fine)):
        with pa.ipc.new_file(str(folder / f"{name}.arrow"), pa.schema({"t": array.type})) as writer:
            writer.write_batch(pa.record_batch({"t": array}))
    with pytest.raises(InputError) as caught:
        read(Dataset.discover([str(folder)]), ["t"])
    assert "a.arrow rows 0:1: field 't': expected values that fit timestamp[ns], as other" in str(
        caught.value
    )
    assert "got timestamp[s]: Casting" in str(caught.value)


def test_a_filter_means_the_same_in_every_file(tmp_path: Path) -> None:
    """float32's 0.1 is more than 0.1 where another file has float64."""
    narrow, wide = pa.array([0.1], F32), pa.array([0.1], F64)
    folder = write(tmp_path / "in", a=pa.table({"f": narrow}), b=pa.table({"f": wide}))
    where = parse("f > 0.1")
    dataset = Dataset.discover([str(folder)], where)
    assert [g.skipped for f in dataset.files for g in f.row_groups] == [False, True]
    rows = []
    for shard in plan_shards(dataset):
        with ShardReader(shard, ["f"], 9, where, planned=dataset.planned(["f"])) as reader:
            rows += [row for batch in reader for row in batch["f"].to_pylist()]
    assert rows == [float(np.float32(0.1))]
    alone = Dataset.discover([str(folder / "a.parquet")], where)
    assert [g.skipped for g in alone.files[0].row_groups] == [True]


def test_a_filter_wants_its_fields_in_each_file_and_of_one_type(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a=pa.table({"x": X}), b=pa.table({"x": X, "n": [1, 2]}))
    with pytest.raises(InputError, match="--where n is None: field 'n': expected it in all files"):
        Dataset.discover([str(folder)], parse("n is None"))
    write(folder, a=pa.table({"x": X, "n": ["a", "b"]}))
    with pytest.raises(InputError, match="--where n > 1: field 'n': expected one type"):
        Dataset.discover([str(folder)], parse("n > 1"))
    with pytest.raises(FilterError, match="got 'm'; it has x, n"):
        Dataset.discover([str(folder)], parse("m > 1"))


def test_folders_give_what_some_files_hold(tmp_path: Path) -> None:
    for day, table in ((1, pa.table({"x": X})), (2, pa.table({"day": [2, 2], "x": X}))):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(table, tmp_path / f"day={day}" / "a.parquet")
    dataset = Dataset.discover([str(tmp_path)])
    assert dataset.schema.field("day").type == pa.int64()
    assert bind(dataset.schema, MODEL, OUTPUT, unlike=dataset.unlike).keep == ("day",)
    assert [b["day"].to_pylist() for b in read(dataset, ["day"])] == [[1, 1], [2, 2]]
    write(tmp_path / "day=2", a=pa.table({"day": pa.array([2, 2], pa.int32()), "x": X}))
    assert bind(Dataset.discover([str(tmp_path)]).schema, MODEL, OUTPUT).keep == ("day",)


def test_memory_of_fields_is_told_by_their_names_and_of_what_they_are_cast_to(
    tmp_path: Path,
) -> None:
    rows = 5000
    long = pa.array(["a" * 1000] * rows)
    small, large = (pa.array([n % 5 for n in range(rows)], kind) for kind in (pa.int16(), INT))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(100 * rows, np.float32)), 100)
    folder = write(
        tmp_path / "in", a=pa.table({"n": large, "s": long, "x": lists}),
        b=pa.table({"s": long, "n": small}),
    )  # fmt: skip
    dataset = Dataset.discover([str(folder)])
    assert dataset.schema.names == ["n", "s", "x"]
    (whole,), (lacking,) = (file.row_groups for file in dataset.files)
    assert 8 * rows <= whole.field_nbytes[0] <= 9 * rows
    assert 18 * rows <= lacking.field_nbytes[0] <= 22 * rows, "as it is read, and as it is cast"
    assert whole.field_nbytes[1] == lacking.field_nbytes[1]
    assert lacking.field_nbytes[2] >= 400 * rows, "nulls take their place"
    assert lacking.field_elements == (rows, rows, rows)
    assert row_nbytes(dataset, ("n",)) < 25


def test_only_fields_that_are_read_are_part_of_a_run(tmp_path: Path) -> None:
    """Which files there are is another part of it."""
    base = {"x": X, "id": pa.array([1, 2])}
    prints = []
    for n, more in enumerate(({}, {"note": ["a", "b"]}, {"id": pa.array([1, 2], pa.int32())},
                              {"id": pa.array([1.0, 2])})):  # fmt: skip
        folder = write(tmp_path / f"{n}", a=pa.table(base | more))
        dataset = Dataset.discover([str(folder)])
        binding = bind(dataset.schema, MODEL, OUTPUT, keep=["id"])
        prints.append(
            fingerprint(
                dataset, plan_shards(dataset), binding, model_sha256="m", program="p",
                format="parquet", on_error="fail",
            )
        )  # fmt: skip
    assert [p.schema for p in prints[:2]] == ["x: float, id: int64"] * 2
    assert "schema: the folder has x: float, id: int64, this run has x: float, id: int32" in (
        prints[0].differences(prints[2])
    )
    assert prints[3].schema == "x: float, id: double"


def test_schemas_are_compared_by_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million files take one comparison each; metadata of pandas are no difference."""
    variants = Variants()
    told = [pa.schema({"a": F32}, metadata={"pandas": str(n)}) for n in range(3)]
    assert {variants.add(f"/{n}", schema) for n, schema in enumerate(told)} == {0}
    wide = pa.schema({"a": F64})
    assert [variants.add("/w", wide), variants.add("/n", told[0]), variants.add("/v", wide)] == [
        1, 0, 1,
    ]  # fmt: skip
    (unlike,) = variants.united().unlike
    assert str(unlike) == "a is float in 4, double in 2, read as double"
    assert variants.add("/p", told[0], ("a",)) == 2, "what folders give is not what files hold"
    assert variants.add("/q", told[0]) == 0


def test_files_that_are_alike_are_read_as_they_are(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a=pa.table({"x": X}), b=pa.table({"x": X}))
    assert Dataset.discover([str(folder)]).planned(["x"]) is None
    write(folder, b=pa.table({"x": X, "id": [1, 2]}))
    planned = Dataset.discover([str(folder)]).planned(["x"])
    assert planned is not None
    batch = pa.record_batch({"x": X})
    whole = pa.schema({"id": INT, "x": F32}, metadata={"pandas": "{}"})
    assert Conforming(whole, planned, "a shard")(batch) is batch


def test_strings_stay_in_their_dictionaries_until_they_are_written() -> None:
    found = as_kind(pa.array(["a", "b", "a"]).dictionary_encode(), pa.large_string())
    assert found.type == pa.dictionary(pa.int32(), pa.large_string())


def test_schemas_travel(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            pa.field("a", pa.fixed_shape_tensor(F32, [2, 2]), False, {"k": "v"}),
            pa.field("b", pa.dictionary(pa.int8(), pa.string())),
        ]
    )
    assert from_text(to_text(schema)).equals(schema, check_metadata=True)


def test_a_file_that_lost_a_field_since_is_not_filled_with_nulls(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a=pa.table({"x": X}))
    dataset = Dataset.discover([str(folder)])
    planned = pa.schema([pa.field("x", F32), pa.field("y", F32, nullable=False)])
    (shard,) = plan_shards(dataset)
    with pytest.raises(InputError, match="expected field 'y', got none"):
        ShardReader(shard, ["x", "y"], 9, planned=planned)
