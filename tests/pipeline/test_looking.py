from __future__ import annotations

import errno
import shutil
from pathlib import Path
from unittest import mock

import pytest
from part_jobs import Job, other_output, record

from pipeline.errors import OutputError, StorageError
from pipeline.manifest import RunFolder


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def everything(output: Path) -> dict[str, tuple[int, int]]:
    found = sorted(output.rglob("*"))
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in found}


def test_looking_tells_what_would_be_resumed_and_changes_nothing(job: Job) -> None:
    fresh = RunFolder.look(job.output, job.run, job.shards)
    assert (fresh.resumed, fresh.committed_shards, fresh.complete) == (False, 0, False)
    assert not job.output.exists()
    with job.open() as folder:
        for shard in job.shards[:2]:
            folder.commit(job.part(shard))
        with pytest.raises(OutputError, match="is running here"):
            RunFolder.look(job.output, job.run, job.shards)
    before = everything(job.output)
    half = RunFolder.look(job.output, job.run, job.shards)
    assert (half.resumed, half.committed_shards, half.committed_rows) == (True, 2, 8)
    assert str(half) == "resumes: 2 shards, 8 rows are done"
    assert RunFolder.look(job.output, job.run, job.shards, restart=True).committed_shards == 0
    assert everything(job.output) == before
    job.write()
    assert RunFolder.look(job.output, job.run, job.shards).complete


def test_looking_names_the_parts_that_a_resume_makes_again(job: Job) -> None:
    job.write()
    (job.output / "part-000001.parquet").unlink()
    (job.output / "part-000004.parquet").write_bytes(b"torn")
    standing = RunFolder.look(job.output, job.run, job.shards)
    assert standing.damaged == ("part-000001.parquet", "part-000004.parquet")
    assert str(standing).endswith(
        "14 rows are done; damaged or lost, so made again: part-000001.parquet, part-000004.parquet"
    )
    assert not standing.complete
    with job.open() as folder:
        assert folder.damaged == standing.damaged


@pytest.mark.parametrize("spoil", ["file", "foreign", "other", "part", "under", "link"])
def test_looking_refuses_with_the_words_of_opening(job: Job, spoil: str) -> None:
    run = job.run
    if spoil == "file":
        job.output.write_text("a file")
    elif spoil == "under":
        job.output.write_text("a file")
        job.output = job.output / "out"
    elif spoil == "link":
        job.output.symlink_to("gone")
    else:
        job.write()
        if spoil == "foreign":
            (job.output / "more.parquet").touch()
        elif spoil == "part":
            shutil.copy(other_output(job) / "part-000002.parquet", job.output)
        else:
            run = record(job.dataset, job.shards, program="q")
    with pytest.raises(OutputError) as looked:
        RunFolder.look(job.output, run, job.shards)
    with pytest.raises(OutputError) as opened:
        job.open(run)
    if spoil != "under":  # the system names another path when it refuses to make a folder
        assert str(looked.value) == str(opened.value)


def test_a_dangling_link_is_named(job: Job) -> None:
    job.output.symlink_to("gone")
    with pytest.raises(OutputError, match="got a link to gone, which does not exist; make that"):
        job.open()


def test_a_read_only_output_is_not_told_to_make_room(job: Job) -> None:
    with job.open() as folder:
        part = job.part(job.shards[0])
        fixed = mock.patch("os.fsync", side_effect=OSError(errno.EROFS, "Read-only file system"))
        with fixed, pytest.raises(StorageError, match="make the file system writable") as caught:
            folder.commit(part)
    assert "make room" not in str(caught.value)


def test_looking_names_a_folder_that_cannot_be_written(job: Job) -> None:
    access = mock.patch("os.access", return_value=False)
    with access, pytest.raises(OutputError, match=r"Permission denied.*choose another output"):
        RunFolder.look(job.output, job.run, job.shards)
    assert not job.output.exists()
