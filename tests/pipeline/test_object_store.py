"""The commit protocol in an object store: the same parts, every crash, every kind of refusal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import object_store
import part_jobs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import Fault
from object_store import Store as Server
from part_jobs import record, run_job, write_input, write_part

from pipeline import failpoints
from pipeline.dataset import Dataset
from pipeline.errors import InputError, OutputError, StorageError
from pipeline.manifest import RunFolder
from pipeline.reader import ShardReader
from pipeline.shards import Lease, plan_shards
from pipeline.stores import lease, remote, store_at
from pipeline.verify import verify

POINTS = ("before_fsync", "after_fsync", "after_journal")
"""Before and after the upload of a part, after its line."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with object_store.serving() as server:
        yield server


@pytest.fixture
def bucket(server: Server) -> str:
    return server.bucket()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives up after the second attempt of a request."""
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    remote.filesystem.cache_clear()
    yield
    remote.filesystem.cache_clear()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_input(tmp_path_factory.mktemp("source") / "in")


def upload(folder: Path, url: str) -> str:
    store = store_at(url)
    for path in sorted(folder.rglob("*.parquet")):
        sink = store.sink(path.relative_to(folder).as_posix())
        sink.write(path.read_bytes())
        sink.sync()
        sink.close()
    return url


def ids(url: str) -> list[int]:
    """Ids in parts and rejects."""
    found: list[int] = []
    for name, data in contents(url).items():
        if "part-" not in name:
            continue
        table = pq.read_table(pa.BufferReader(data))
        if "id" in table.column_names:
            found += table["id"].to_pylist()
        else:
            rows = [(r["file"], r["row"]) for r in table.to_pylist()]
            found += [int(Path(f).stem) * sum(part_jobs.GROUPS) + row for f, row in rows]
    return sorted(found)


def is_done(url: str) -> bool:
    return ids(url) == list(range(part_jobs.ROWS)) and store_at(url).nbytes("_SUCCESS") > 0


def contents(url: str) -> dict[str, bytes]:
    """All data files below, rejects included."""
    store = store_at(url)
    rejects = [f"_colonnade/rejects/{name}" for name in store.names("_colonnade/rejects")]
    return {name: store.read(name) for name in [*store.files(), *rejects]}


def test_parts_are_the_same_as_in_a_local_folder(inputs: Path, tmp_path: Path, bucket: str) -> None:
    run_job(inputs, tmp_path / "out")
    run_job(inputs, f"{bucket}/deep/out")
    local, there = contents(str(tmp_path / "out")), contents(f"{bucket}/deep/out")
    parts = [name for name in local if "part-" in name]
    assert len(parts) > part_jobs.FILES
    assert {name: there[name] for name in parts} == {name: local[name] for name in parts}
    assert verify(f"{bucket}/deep/out").ok
    assert run_job(inputs, f"{bucket}/deep/out") == [], "done before"


def die(inputs: Path | str, output: str, failpoint: str) -> None:
    """The job in a process of its own, killed by the failpoint."""
    env = os.environ | {failpoints.VARIABLE: failpoint, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(part_jobs.__file__), str(inputs), output]
    done = subprocess.run(command, env=env, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_driver_is_resumed(
    inputs: Path, bucket: str, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"{bucket}/out"
    die(inputs, output, f"{point}:3")
    before = ids(output)
    assert len(set(before)) == len(before) and store_at(output).nbytes("_SUCCESS") < 0
    waits = Mock(side_effect=AssertionError("a dead process is waited for"))
    monkeypatch.setattr(lease, "time", Mock(wraps=time, sleep=waits))
    written = run_job(inputs, output)
    assert is_done(output)
    committed = 2 if point == "before_fsync" else 3
    assert written == list(range(committed, 6)), "what is there is not made again"
    assert verify(output).ok


def test_the_input_may_lie_there_too(inputs: Path, bucket: str) -> None:
    source = upload(inputs, f"{bucket}/in")
    for text in (source, f"{source}/", f"{bucket}/*/[01].parquet", f"{bucket}/**/*.parquet"):
        dataset = Dataset.discover([text])
        assert [f.path for f in dataset.files] == [f"{source}/0.parquet", f"{source}/1.parquet"]
        assert dataset.rows == part_jobs.ROWS
    assert Dataset.discover([f"{source}/0.parquet"]).rows == part_jobs.ROWS // 2
    dataset = Dataset.discover([source])
    with pytest.raises(OutputError, match="outside the input"):
        dataset.refuse_output(f"{source}/out")
    dataset.refuse_output(f"{bucket}/out")
    run_job(source, f"{bucket}/out")
    assert is_done(f"{bucket}/out")
    assert verify(f"{bucket}/out", [source]).ok


def test_an_input_that_changes_during_the_run_is_told(inputs: Path, bucket: str) -> None:
    source = upload(inputs, f"{bucket}/in")
    shard = plan_shards(Dataset.discover([source]))[0]
    store_at(source).write("0.parquet", "something else")
    with pytest.raises(InputError, match=r"in/0\.parquet.*input changed during the run"):
        ShardReader(shard, ["id"], 2)


def test_an_unfinished_output_is_no_input(inputs: Path, bucket: str) -> None:
    run_job(inputs, f"{bucket}/out")
    assert Dataset.discover([bucket]).rows == part_jobs.ROWS - len(part_jobs.REJECTED)
    store_at(f"{bucket}/out").delete("_SUCCESS")
    with pytest.raises(InputError, match=f"{bucket}/out: .*unfinished run"):
        Dataset.discover([bucket])


def test_what_is_not_there_is_named(inputs: Path, bucket: str) -> None:
    with pytest.raises(InputError, match=r"s3://no-such-bucket/in: .*make the bucket, or mend"):
        Dataset.discover(["s3://no-such-bucket/in"])
    with pytest.raises(InputError, match=f"{bucket}/none: expected objects, got none"):
        Dataset.discover([f"{bucket}/none"])
    with pytest.raises(OutputError, match=r"no-such-bucket/out: .*NO_SUCH_BUCKET.*make the bucket"):
        run_job(inputs, "s3://no-such-bucket/out")
    with pytest.raises(OutputError, match="got none; check the path"):
        verify(f"{bucket}/none")
    store_at(bucket).write("out/readme.txt", "not ours")
    with pytest.raises(OutputError, match=r"got readme\.txt; choose another output"):
        run_job(inputs, f"{bucket}/out")


def test_another_run_is_refused_and_restart_wipes_it(inputs: Path, bucket: str) -> None:
    output = f"{bucket}/out"
    run_job(inputs, output)
    dataset = Dataset.discover([str(inputs)])
    shards = plan_shards(dataset)
    other = record(dataset, shards, program="q")
    with pytest.raises(OutputError, match="got another run's output"):
        RunFolder.open(output, other, shards)
    with RunFolder.open(output, other, shards, restart=True) as folder:
        assert not folder.committed
        assert store_at(output).files() == []
        assert not list(store_at(output).read_log("_colonnade/journal.jsonl"))


def test_a_bucket_that_may_not_be_written_is_found_before_the_first_part(
    inputs: Path, bucket: str, server: Server
) -> None:
    with server.faults(Fault("PUT", "", "403")):
        server.asked.clear()
        with pytest.raises(OutputError, match=rf"{bucket}/out: cannot write: .*rights") as caught:
            run_job(inputs, f"{bucket}/out")
    assert not isinstance(caught.value, StorageError), "trying again would not help"
    assert "lock" in str(caught.value), "the key is named"
    assert not [path for method, path in server.asked if "part-" in path]


@pytest.mark.parametrize(("what", "times"), [("503", 2), ("cut", 2), ("hang", 1)])
def test_a_bad_moment_is_survived(
    inputs: Path, bucket: str, server: Server, what: str, times: int
) -> None:
    faults = (Fault("PUT", "part-000002", what, times), Fault("HEAD", "part-000001", what, 1))
    with server.faults(*faults):
        run_job(inputs, f"{bucket}/out")
    assert all(fault.times == 0 for fault in faults), "they happened"
    assert is_done(f"{bucket}/out") and verify(f"{bucket}/out").ok


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", ["503", "cut"])
def test_a_store_that_does_not_take_a_part_ends_the_run_which_goes_on_later(
    inputs: Path, bucket: str, server: Server, what: str
) -> None:
    output = f"{bucket}/out"
    with (
        server.faults(Fault("PUT", "part-000003.parquet", what)),
        pytest.raises(StorageError, match=r"out/part-000003\.parquet.*run the same command"),
    ):
        run_job(inputs, output)
    store = store_at(output)
    assert store.nbytes("part-000003.parquet") < 0, "nothing half-written is published"
    assert store.nbytes("part-000002.parquet") > 0 and store.nbytes("_SUCCESS") < 0
    assert run_job(inputs, output) == [3, 4, 5]
    assert is_done(output)


def test_a_large_part_that_is_lost_on_the_way_is_not_half_there(
    bucket: str, server: Server
) -> None:
    store = store_at(bucket)
    sink = store.sink("large.bin")
    sink.write(bytes(24 << 20))
    with server.faults(Fault("PUT", "partNumber=2", "403")), pytest.raises(OSError):
        sink.sync()
    sink.close()
    assert store.nbytes("large.bin") < 0
    assert not [path for method, path in server.asked if method == "POST" and "uploadId" in path]


@pytest.mark.usefixtures("impatient")
def test_a_store_that_says_nothing_is_not_waited_for_for_ever(bucket: str, server: Server) -> None:
    began = time.monotonic()
    with (
        server.faults(Fault("GET", "in", "hang"), Fault("HEAD", "in", "hang")),
        pytest.raises(StorageError, match=f"{bucket}/in: .*when the store answers"),
    ):
        Dataset.discover([f"{bucket}/in"])
    assert time.monotonic() - began < 60


def test_one_driver_at_a_time(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(lease, "STALE_SECONDS", 200.0)
    store = store_at(f"{bucket}/out")
    held = store.lock("lock")
    began = time.monotonic()
    with pytest.raises(OutputError, match=f"process {os.getpid()} on .* is running here"):
        store.lock("lock")
    assert time.monotonic() - began < lease.STALE_SECONDS
    assert str(os.getpid()) in store.holder("lock")
    held.release()
    assert store.holder("lock") == ""
    store.lock("lock").release()


def test_a_lease_whose_holder_shows_no_life_is_taken_over(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 60.0)
    store = store_at(f"{bucket}/out")
    frozen = store.lock("lock")
    store.lock("lock").release()
    store.write("lock", json.dumps({"who": "process 7 on elsewhere", "token": "t"}))
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    taken = store.lock("lock")
    taken.check()
    frozen.release()
    assert str(os.getpid()) in store.holder("lock"), "who lost it does not give it up for others"
    until = time.monotonic() + 100
    with pytest.raises(OutputError, match="process 8 on elsewhere took over"):
        while time.monotonic() < until:
            store.write("lock", json.dumps({"who": "process 8 on elsewhere", "token": "u"}))
            taken.check()
    taken.release()


def test_a_driver_that_lost_its_lease_commits_nothing_more(
    inputs: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    output = f"{bucket}/out"
    dataset = Dataset.discover([str(inputs)])
    shards = plan_shards(dataset)
    run = record(dataset, shards)
    with RunFolder.open(output, run, shards) as folder:
        part = write_part(output, Lease(shards[0], 0), run)
        until = time.monotonic() + 100
        with pytest.raises(OutputError, match="process 8 on elsewhere took over"):
            while time.monotonic() < until:
                other = {"who": "process 8 on elsewhere", "token": "u"}
                store_at(output).write("_colonnade/lock", json.dumps(other))
                time.sleep(0.01)
                folder.committed.clear()
                folder.commit(part)


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator; extra dev")
    with object_store.google("colonnade") as bucket:
        yield bucket


def test_google_has_the_same_parts(inputs: Path, tmp_path: Path, google: str) -> None:
    source = upload(inputs, f"{google}/in")
    dataset = Dataset.discover([f"{google}/in/*.parquet"])
    assert [f.path for f in dataset.files] == [f"{source}/0.parquet", f"{source}/1.parquet"]
    run_job(inputs, tmp_path / "out")
    run_job(inputs, f"{google}/same")
    local, there = contents(str(tmp_path / "out")), contents(f"{google}/same")
    parts = [name for name in local if "part-" in name]
    assert {name: there[name] for name in parts} == {name: local[name] for name in parts}
    with pytest.raises(OutputError, match="outside the input"):
        dataset.refuse_output(f"{source}/out.parquet")


def test_a_driver_killed_between_two_folders_of_google_is_resumed(
    inputs: Path, google: str
) -> None:
    source, output = upload(inputs, f"{google}/killed/in"), f"{google}/killed/out"
    die(source, output, "after_fsync:3")
    before = ids(output)
    assert len(set(before)) == len(before) and store_at(output).nbytes("_SUCCESS") < 0
    assert run_job(source, output) == [3, 4, 5], "what is there is not made again"
    assert is_done(output) and verify(output, [source]).ok
    assert run_job(source, output) == []


def test_a_bucket_that_google_has_not(inputs: Path, google: str) -> None:
    with pytest.raises(InputError, match=r"make the bucket|no bucket"):
        Dataset.discover(["gs://nowhere/in"])
    with pytest.raises(OutputError, match=r"gs://nowhere"):
        run_job(inputs, "gs://nowhere/out")
