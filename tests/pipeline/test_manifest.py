from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import part_jobs
import pytest
from part_jobs import Job, other_output, record

from pipeline.checksums import WRITTEN
from pipeline.dataset import Dataset
from pipeline.errors import OutputError, StorageError
from pipeline.manifest import RunFolder, read_run
from pipeline.shards import plan_shards


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_a_run_from_start_to_success(job: Job) -> None:
    with job.open() as folder:
        assert (folder.resumed, folder.complete, folder.committed) == (False, False, {})
        for shard in job.shards:
            entry = folder.commit(job.part(shard))
            assert entry is not None and entry.path == f"part-{shard.index:06d}.parquet"
            assert not (job.output / "_SUCCESS").exists()
        counts = folder.finish()
    assert (counts["rows_in"], counts["rows_out"], counts["rejects"]) == (24, 22, 2)
    written = json.loads((job.output / "_manifest.json").read_text())
    assert written["fingerprint"] == job.run.fingerprint.digest
    assert len(written["entries"]) == len(job.shards) == 6
    assert json.loads((job.output / "_SUCCESS").read_text())["rows_in"] == 24
    assert part_jobs.output_ids(job.output) == list(range(24))
    assert read_run(job.output) == replace(job.run, checksums=WRITTEN)


def test_a_rerun_after_success_has_nothing_to_do(job: Job) -> None:
    assert job.write() == [0, 1, 2, 3, 4, 5]
    before = {p: p.stat().st_mtime_ns for p in job.output.iterdir() if p.is_file()}
    with job.open() as folder:
        assert folder.complete and folder.resumed and len(folder.committed) == 6
    assert {p: p.stat().st_mtime_ns for p in job.output.iterdir() if p.is_file()} == before


def test_the_first_attempt_wins_and_the_other_leaves_nothing(job: Job) -> None:
    with job.open() as folder:
        first, second = job.part(job.shards[1], 0), job.part(job.shards[1], 1)
        assert folder.commit(second) is not None
        assert folder.commit(first) is None
        assert list((job.output / "_colonnade/tmp").iterdir()) == []


def test_a_part_that_is_not_there_is_refused(job: Job) -> None:
    with job.open() as folder:
        part = job.part(job.shards[0])
        (job.output / part.temp).unlink()
        with pytest.raises(OutputError, match="shared by all machines"):
            folder.commit(part)
        assert folder.committed == {}


def test_finish_refuses_while_shards_are_missing(job: Job) -> None:
    with job.open() as folder:
        folder.commit(job.part(job.shards[0]))
        with pytest.raises(OutputError, match=r"expected 6 parts, 5 are missing \(shard 1 first\)"):
            folder.finish()
    assert not (job.output / "_SUCCESS").exists()


def test_finish_refuses_where_parts_were_deleted_from_outside(job: Job) -> None:
    with job.open() as folder:
        for shard in job.shards:
            folder.commit(job.part(shard))
        (job.output / "part-000002.parquet").unlink()
        with pytest.raises(StorageError, match=r"6 parts, 1 that .* gone \(part-000002.parquet f"):
            folder.finish()
    assert not (job.output / "_SUCCESS").exists()
    assert job.write() == [2]
    assert part_jobs.output_ids(job.output) == list(range(24))


def test_finish_refuses_where_the_folder_was_deleted_and_filled_again(job: Job) -> None:
    with job.open() as folder:
        for shard in job.shards:
            folder.commit(job.part(shard))
        shutil.rmtree(job.output / "_colonnade")
        with pytest.raises(StorageError, match=r"run\.json: expected what this run had written"):
            folder.finish()
    assert not (job.output / "_SUCCESS").exists()


def test_two_drivers_cannot_share_a_folder(job: Job) -> None:
    with job.open(), pytest.raises(OutputError, match=f"process {os.getpid()} on .* is running"):
        job.open()
    job.open().close()


def _hold(folder: Path, ready: multiprocessing.synchronize.Event) -> None:
    Job.open(_existing(folder))
    ready.set()
    os._exit(0)


def _existing(folder: Path) -> Job:
    job = Job.__new__(Job)
    job.output, job.dataset = folder / "out", Dataset.discover([str(folder / "in")])
    job.shards = plan_shards(job.dataset)
    job.run = record(job.dataset, job.shards)
    return job


def test_the_lock_dies_with_its_driver(job: Job) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(job.inputs.parent, ready))
    process.start()
    process.join()
    assert ready.is_set()
    job.open().close()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model_sha256": "other"}, "model_sha256: the folder was made with another model"),
        ({"program": "q"}, "program: the folder was made with another --off"),
        ({"on_error": "null"}, "on_error: the folder has skip, this run has null"),
    ],
)
def test_another_run_is_refused_by_what_differs(
    job: Job, changed: dict[str, str], named: str
) -> None:
    job.write()
    other = record(job.dataset, job.shards, **changed)
    with pytest.raises(OutputError) as caught:
        job.open(other)
    assert named in str(caught.value) and "--restart" in str(caught.value)
    assert job.open().complete, "the refusal changed nothing"


def test_a_changed_input_is_named(job: Job) -> None:
    job.write()
    path = job.inputs / "1.parquet"
    os.utime(path, ns=(0, 0))
    shards = plan_shards(dataset := Dataset.discover([str(job.inputs)]))
    with pytest.raises(OutputError, match=f"input {path}: time of change differs"):
        RunFolder.open(job.output, record(dataset, shards), shards)


def test_restart_wipes_what_is_ours_and_nothing_else(job: Job) -> None:
    job.write()
    (job.output / "_notes").write_text("mine")
    other = record(job.dataset, job.shards, program="q")
    with job.open(other, restart=True) as folder:
        assert (folder.resumed, folder.complete, folder.committed) == (False, False, {})
    left = {p.name for p in job.output.iterdir()}
    assert left == {"_colonnade", "_notes"}
    assert read_run(job.output) == replace(other, checksums=WRITTEN)


@pytest.mark.parametrize("name", ["data.csv", "part-000000.parquet", "sub", "_SUCCESS"])
@pytest.mark.parametrize("restart", [False, True])
def test_foreign_files_are_refused_and_left_alone(job: Job, name: str, restart: bool) -> None:
    job.output.mkdir()
    (job.output / name).write_text("not ours")
    with pytest.raises(OutputError, match=f"got {name}"):
        job.open(restart=restart)
    assert [p.name for p in job.output.iterdir()] == [name]


def test_foreign_files_beside_our_run_are_refused(job: Job) -> None:
    job.write()
    (job.output / "more.parquet").write_text("not ours")
    with pytest.raises(OutputError, match=r"got more\.parquet"):
        job.open(restart=True)


def test_a_file_is_no_output_folder(job: Job) -> None:
    job.output.write_text("a file")
    with pytest.raises(OutputError, match="expected a folder, got a file"):
        job.open()
    assert read_run(job.output) is None


def test_a_part_of_another_run_under_our_name_is_refused(job: Job) -> None:
    job.write()
    other = other_output(job)
    shutil.copy(other / "part-000002.parquet", job.output)
    told = r"part-000002\.parquet: expected shard 2.* got what another run made of it; delete it"
    with pytest.raises(OutputError, match=told):
        job.open()
    shutil.copy(other / "part-000003.parquet", job.output / "part-000002.parquet")
    with pytest.raises(OutputError, match=r"got /.*/1\.parquet rows 0:3 of another run; delete it"):
        job.open()


def lose_part(output: Path) -> None:
    (output / "part-000001.parquet").unlink()


def truncate_part(output: Path) -> None:
    path = output / "part-000001.parquet"
    path.write_bytes(path.read_bytes()[:-7])


def lose_rejects(output: Path) -> None:
    (output / "_colonnade/rejects/part-000001.parquet").unlink()


@pytest.mark.parametrize("damage", [lose_part, truncate_part, lose_rejects])
def test_damaged_parts_are_made_again_and_only_they(
    job: Job, damage: Callable[[Path], None]
) -> None:
    job.write()
    damage(job.output)
    with job.open() as folder:
        assert not folder.complete
        assert folder.damaged == ("part-000001.parquet",)
        assert not (job.output / "_SUCCESS").exists(), "no longer complete"
        assert set(folder.committed) == {0, 2, 3, 4, 5}
    assert job.write() == [1]
    assert part_jobs.output_ids(job.output) == list(range(24))


@pytest.mark.parametrize("lines", [0, 2, 5])
def test_the_folder_alone_rebuilds_the_journal(job: Job, lines: int) -> None:
    job.write()
    path = job.output / "_colonnade/journal.jsonl"
    before = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(before[:lines]) + before[lines][:10])
    with job.open() as folder:
        assert folder.complete
        assert folder.adopted == 6 - lines
    after = path.read_bytes().splitlines(keepends=True)
    assert sorted(after) == sorted(before), "checksums and rejects included"


def test_resume_sweeps_what_attempts_left(job: Job) -> None:
    with job.open() as folder:
        job.part(job.shards[0])
        stale = job.part(job.shards[1])
        (job.output / stale.rejects_temp).replace(
            job.output / "_colonnade/rejects/part-000001.parquet"
        )
        assert not folder.committed
    with job.open():
        assert list((job.output / "_colonnade/tmp").iterdir()) == []
        assert list((job.output / "_colonnade/rejects").iterdir()) == []


@pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
def test_a_failing_disk_publishes_nothing_and_can_be_resumed(job: Job, call: str) -> None:
    with job.open() as folder:
        part = job.part(job.shards[0])
        full = mock.patch(call, side_effect=OSError(28, "No space left on device"))
        with full, pytest.raises(StorageError, match="No space left"):
            folder.commit(part)
        assert folder.committed == {}
    assert len(job.write()) >= 5
    assert part_jobs.output_ids(job.output) == list(range(24))


def test_a_damaged_record_is_named(job: Job) -> None:
    job.write()
    (job.output / "_colonnade/run.json").write_text("{")
    with pytest.raises(OutputError, match=r"run\.json: expected the record of a run"):
        job.open()
    with job.open(restart=True) as folder:
        assert folder.committed == {}


def test_rejects_of_an_attempt_that_was_not_published_do_not_stay(job: Job) -> None:
    with job.open() as folder:
        stale = job.output / "_colonnade/rejects/part-000000.parquet"
        stale.write_bytes(b"left by a commit that the disk refused halfway")
        entry = folder.commit(job.part(job.shards[0]))
        assert entry is not None and entry.rejects_path == ""
        assert not stale.exists()
