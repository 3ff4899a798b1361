"""Hive partitions: what folders say, as fields of rows and as folders of parts."""

from __future__ import annotations

from pathlib import Path

import part_jobs
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from part_jobs import record, run_job

from pipeline.binding import bind
from pipeline.dataset import Dataset
from pipeline.errors import InputError, OutputError
from pipeline.manifest import RunFolder
from pipeline.partitions import NULL, folder_of, partitions
from pipeline.reader import ShardReader
from pipeline.shards import plan_shards
from pipeline.verify import verify
from pipeline.where import parse


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """ids 0 .. 5 in three partitions, with a name that must be quoted and one that is null."""
    ids = iter(range(6))
    for folder in ("year=2023/city=a%20b", f"year=2024/city={NULL}", "year=2024/city=x"):
        path = tmp_path / "in" / folder / "x.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"id": [next(ids), next(ids)]}), path)
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("path", "root", "folder"),
    [
        ("/in/year=1/m=2/x.parquet", "/in", "year=1/m=2"),
        ("/in/year=1/m=2/x.parquet", "/in/year=1", "m=2"),
        ("/in/year=1/m=2/x.parquet", "/in/year=1/m=2", ""),
        ("/in/year=1/other/x.parquet", "/in", ""),
        ("/in/=1/x.parquet", "/in", ""),
        ("s3://b/year=1/x.parquet", "s3://b", "year=1"),
        ("/elsewhere/year=1/x.parquet", "/in", ""),
    ],
)
def test_folders_right_above_a_file_and_below_the_root_count(
    path: str, root: str, folder: str
) -> None:
    assert folder_of(path, root) == folder


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", NULL], "int32"),
        (["1", "007"], "string"),
        (["1", "2147483648"], "string"),
        (["1", "x"], "string"),
        (["1_0"], "string"),
    ],
)
def test_values_are_numbers_where_all_are(values: list[str], kind: str) -> None:
    found = partitions({str(i): f"f={value}" for i, value in enumerate(values)})
    assert {p[0].kind for p in found.values()} == {kind}


def test_rows_have_the_fields_of_their_folders(inputs: Path) -> None:
    where = parse("year == 2024 and id != 3")
    dataset = Dataset.discover([str(inputs)], where)
    assert [f"{f.name}: {f.type}" for f in dataset.schema] == [
        "id: int64", "year: int32", "city: string",
    ]  # fmt: skip
    skipped = [g.skipped for f in dataset.files for g in f.row_groups]
    assert skipped == [True, False, False], "a folder's value rules its files out"
    rows = []
    for shard in plan_shards(dataset):
        with ShardReader(shard, ["city", "id", "year"], 10, where) as reader:
            assert reader.schema.names == ["city", "id", "year"]
            rows += [row for batch in reader for row in batch.to_pylist()]
    assert rows == [
        {"city": None, "id": 2, "year": 2024},
        {"city": "x", "id": 4, "year": 2024},
        {"city": "x", "id": 5, "year": 2024},
    ]


def test_only_folders_fields_can_be_read_alone(inputs: Path) -> None:
    shard = plan_shards(Dataset.discover([str(inputs)]))[0]
    with ShardReader(shard, ["city"], 1) as reader:
        assert [batch["city"].to_pylist() for batch in reader] == [["a b"], ["a b"]]


def test_the_output_is_partitioned_like_the_input(inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run_job(inputs, output)
    parts = sorted(p.relative_to(output).as_posix() for p in output.rglob("part-*.parquet"))
    assert [p for p in parts if not p.startswith("_")] == [
        "year=2023/city=a%20b/part-000000.parquet",
        f"year=2024/city={NULL}/part-000001.parquet",
        "year=2024/city=x/part-000002.parquet",
    ]
    found = pa.dataset.dataset(output, partitioning="hive").to_table().sort_by("id")
    kept = [n for n in range(6) if n not in part_jobs.REJECTED]
    assert found["id"].to_pylist() == kept
    assert found["year"].to_pylist() == [2023 if n < 2 else 2024 for n in kept]
    assert verify(output).ok and run_job(inputs, output) == []
    again = Dataset.discover([str(output)])
    assert again.schema.names == ["id", "year", "city"], "an output is an input of the next job"


def test_a_partitioned_run_is_resumed_checked_and_wiped(inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run_job(inputs, output)
    part = output / "year=2024/city=x/part-000002.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    report = verify(output)
    assert not report.ok and "year=2024/city=x/part-000002.parquet" in str(report)
    (output / "_SUCCESS").unlink()
    (output / "_colonnade/journal.jsonl").unlink()
    assert run_job(inputs, output) == [2], "whole parts are found in their folders"
    assert verify(output).ok
    astray = output / "year=2024/part-000001.parquet"
    astray.write_bytes(part.read_bytes())
    assert any("is not in the manifest" in problem for problem in verify(output).problems)
    with pytest.raises(OutputError, match=r"year=2024/part-000001\.parquet: expected parts"):
        run_job(inputs, output)
    dataset = Dataset.discover([str(inputs)])
    shards = plan_shards(dataset)
    with RunFolder.open(output, record(dataset, shards, program="q"), shards, restart=True):
        assert [p.name for p in output.iterdir() if not p.name.startswith("_")] == []


def test_a_field_of_the_file_wins_and_the_folder_is_mirrored(tmp_path: Path) -> None:
    path = tmp_path / "in/year=1999/x.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": [1, 2], "year": [7, 8]}), path)
    dataset = Dataset.discover([str(tmp_path / "in")])
    assert dataset.schema.names == ["id", "year"] and dataset.files[0].folder == "year=1999"
    shard = plan_shards(dataset)[0]
    with ShardReader(shard, ["year"], 10) as reader:
        assert [row for batch in reader for row in batch["year"].to_pylist()] == [7, 8]


def test_folders_that_differ_are_told(inputs: Path) -> None:
    pq.write_table(pa.table({"id": [9]}), inputs / "x.parquet")
    with pytest.raises(InputError, match=r"expected partition folders .*; all files"):
        Dataset.discover([str(inputs)])


def test_an_output_whose_partitions_a_glob_would_find_is_refused(inputs: Path) -> None:
    dataset = Dataset.discover([f"{inputs}/*/*/*.parquet"])
    assert dataset.files[0].folder == "year=2023/city=a%20b"
    with pytest.raises(OutputError, match="outside the input"):
        dataset.refuse_output(inputs)


def test_fields_of_folders_are_kept_when_they_are_asked_for(inputs: Path) -> None:
    schema = Dataset.discover([str(inputs)]).schema
    assert bind(schema, (), (), {}).keep == ("id",), "the folder keeps them already"
    assert bind(schema, (), (), {}, keep=["year", "id"]).keep == ("id", "year")
