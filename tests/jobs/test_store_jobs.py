"""Whole runs of the command from an object store to an object store."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import object_store
import pyarrow as pa
import pyarrow.fs as pf
import pyarrow.parquet as pq
import pytest
import small_job
from here import here
from object_store import Fault
from object_store import Store as Server
from small_job import ROWS, SHARDS, Source, colonnade, words

from pipeline import failpoints
from pipeline.journal import replay
from pipeline.records import JOURNAL
from pipeline.stores import store_at


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with object_store.serving() as server:
        yield server


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


@pytest.fixture
def bucket(server: Server, source: Source) -> str:
    """With the source's dataset under in/."""
    bucket = server.bucket()
    files = store_at(bucket)
    for path in source.data.iterdir():
        sink = files.sink(f"in/{path.name}")
        sink.write(path.read_bytes())
        sink.sync()
    return bucket


def job(source: Source, bucket: str, *more: str) -> list[str]:
    """The last --input would be a second one: the arguments are made anew."""
    return [
        "run", "--model", str(source.model), "--input", f"{bucket}/in", "--output",
        f"{bucket}/out", "--engines", "1", "--threads", "1", "--progress", "json", *more,
    ]  # fmt: skip


def parts(url: str) -> dict[str, bytes]:
    store = store_at(url)
    return {name: store.read(name) for name in store.files()}


def test_a_killed_job_is_resumed_and_verified(source: Source, bucket: str) -> None:
    killed = colonnade(*job(source, bucket), env={failpoints.VARIABLE: "after_journal:5"})
    assert killed.code == -signal.SIGKILL
    assert store_at(f"{bucket}/out").nbytes("_SUCCESS") < 0
    committed = set(replay(store_at(f"{bucket}/out").read_log(JOURNAL)))
    assert len(committed) == 5
    resumed = here(*job(source, bucket))
    assert resumed.code == 0, resumed.stderr
    # Parts that came after the fifth line are adopted, so these may be fewer still.
    assert not committed & set(resumed.lent), "committed shards are not made again"
    table = pa.concat_tables(
        pq.read_table(pa.BufferReader(data)) for data in parts(f"{bucket}/out").values()
    )
    assert table["id"].to_pylist() == list(range(ROWS))
    y = table["y"].combine_chunks().flatten().to_numpy().reshape(ROWS, 4)
    np.testing.assert_allclose(y, source.expected, atol=1e-4, rtol=1e-4)
    checked = here("verify", f"{bucket}/out", "--input", f"{bucket}/in")
    assert checked.code == 0 and "all is well" in checked.stdout, checked.stdout


def test_parts_have_the_bytes_of_a_local_run(source: Source, bucket: str, tmp_path: Path) -> None:
    assert here(*words(source, tmp_path / "out")).code == 0
    there = job(source, bucket)
    there[there.index("--input") + 1] = f"file://{source.data}"
    run = here(*there)
    assert run.code == 0, run.stderr
    local = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("part-*")}
    assert len(local) == SHARDS and parts(f"{bucket}/out") == local
    page = store_at(f"{bucket}/out").read("_report.html")
    assert b"<html" in page, "the report lies beside the manifest"


def test_a_store_that_refuses_ends_the_job_with_what_to_do(
    source: Source, bucket: str, server: Server
) -> None:
    with server.faults(Fault("PUT", "/out/", "403")):
        refused = here(*job(source, bucket))
    assert refused.code == 1 and not refused.lent, "found before the first shard"
    assert f"{bucket}/out: cannot write" in refused.stderr and "rights" in refused.stderr
    with server.faults(Fault("PUT", "part-000004", "403")):
        refused = here(*job(source, bucket, "--max-restarts", "0"))
    assert refused.code == 4 and "part-000004.parquet" in refused.stderr, refused.stderr
    assert "colonnade run" in refused.stderr, "how to go on is printed"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--input", "https://host/x", "a URL that starts with one of file://, s3://, gs://"),
        ("--output", "s3://", "the name of a bucket"),
        ("--model", "s3://b/m.onnx", "copy it here first"),
    ],
)
def test_what_can_be_no_place_is_told(
    source: Source, tmp_path: Path, option: str, value: str, said: str
) -> None:
    arguments = words(source, tmp_path / "out")
    arguments[arguments.index(option) + 1] = value
    refused = here(*arguments)
    assert refused.code == 2 and said in refused.stderr


def test_google_stores_are_made_by_their_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.stores.remote import filesystem

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:1")
    filesystem.cache_clear()
    assert isinstance(filesystem("gs", "bucket"), pf.GcsFileSystem)
    filesystem.cache_clear()


def test_a_partitioned_dataset_is_mirrored(source: Source, bucket: str) -> None:
    """Only rows of one partition are scored; a partition's field is written when it is kept."""
    files = store_at(bucket)
    for day, name in enumerate(("in-0.parquet", "in-1.parquet", "in-2.parquet"), start=1):
        sink = files.sink(f"days/year=2024/day={day}/{name}")
        sink.write((source.data / name).read_bytes())
        sink.sync()
    arguments = job(source, bucket, "--where", "day == 2 and id < 300", "--keep", "id,day")
    arguments[arguments.index("--input") + 1] = f"{bucket}/days"
    run = here(*arguments)
    assert run.code == 0, run.stderr
    found = {
        name: pq.read_table(pa.BufferReader(data)) for name, data in parts(f"{bucket}/out").items()
    }
    folders = {name.rpartition("/")[0] for name in found}
    assert folders == {f"year=2024/day={day}" for day in (1, 2, 3)}
    rows = {name: table for name, table in found.items() if table.num_rows}
    assert {name.rpartition("/")[0] for name in rows} == {"year=2024/day=2"}
    table = pa.concat_tables(rows[name] for name in sorted(rows))
    assert table["id"].to_pylist() == list(range(200, 300))
    assert table["day"].to_pylist() == [2] * 100 and table.schema.names == ["id", "day", "y"]
    checked = here("verify", f"{bucket}/out", "--input", f"{bucket}/days")
    assert checked.code == 0 and "500 left out" in checked.stdout, checked.stdout
