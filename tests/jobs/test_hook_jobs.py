"""Whole jobs with hooks: what is read is changed before it is bound, outputs before the part."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_job
import token_jobs
from here import here
from small_job import Source, read_parts, words

SOURCE = '''
import numpy as np
import pyarrow as pa

def half(batch):
    """x halved, under another name; the label as text."""
    x = pa.FixedSizeListArray.from_arrays(pa.array(batch["x"].flatten().to_numpy() / 2), 8)
    label = pa.array([f"label {v}" for v in batch["label"].to_pylist()], pa.string())
    return pa.record_batch({"id": batch["id"], "half": x, "label": label})

def best(batch):
    y = batch["y"].flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
    return batch.select(["id", "label"]).append_column("best", pa.array(y.argmax(1)))

def fails(batch):
    if 100 in batch["id"].to_pylist():
        raise ValueError("row 100")
    return batch

def lists(batch):
    return batch.append_column("input_ids", batch["joined"].cast(pa.list_(pa.int64())))
'''


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "job_hooks.py").write_text(SOURCE)
    return small_job.write(tmp_path)


def env(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(folder)}


BOTH = ("--before", "job_hooks:half", "--after", "job_hooks:best", "--bind", "x=half")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two engines need two processors")
def test_both_hooks_with_one_engine_and_two(source: Source, tmp_path: Path) -> None:
    for engines in ("1", "2"):
        more = (*BOTH, "--engines", engines, "--batch-rows", "17" if engines == "2" else "64")
        run = here(*words(source, tmp_path / engines, *more), env=env(tmp_path))
        assert run.code == 0, run.stderr
    one, two = read_parts(tmp_path / "1"), read_parts(tmp_path / "2")
    assert one.equals(two)
    assert one.schema.names == ["id", "label", "best"]
    assert one["id"].to_pylist() == list(range(small_job.ROWS))
    assert one["label"].to_pylist() == [f"label {i % 7}" for i in range(small_job.ROWS)]
    first = read_parts_of(source, tmp_path)
    assert one["best"].to_pylist() == first.argmax(1).tolist()


def read_parts_of(source: Source, tmp_path: Path) -> np.ndarray:
    """y of x / 2, by a job whose data were halved beforehand."""
    halved = tmp_path / "halved"
    halved.mkdir()
    for path in sorted(source.data.iterdir()):
        table = pq.read_table(path)
        x = pa.FixedSizeListArray.from_arrays(
            pa.array(table["x"].combine_chunks().flatten().to_numpy() / 2), 8
        )
        table = table.set_column(1, "x", x)
        pq.write_table(table, halved / path.name)
    plain = small_job.Source(source.model, halved, source.expected)
    run = here(*words(plain, tmp_path / "plain"))
    assert run.code == 0, run.stderr
    y = read_parts(tmp_path / "plain")["y"].combine_chunks().flatten().to_numpy()
    return np.asarray(y).reshape(-1, 4)


def test_another_hook_is_another_run(source: Source, tmp_path: Path) -> None:
    job = words(source, tmp_path / "out", *BOTH)
    assert here(*job, env=env(tmp_path)).code == 0
    again = here(*job, env=env(tmp_path))
    assert again.code == 0 and "nothing to do" in again.stderr + again.stdout
    (tmp_path / "job_hooks.py").write_text(SOURCE + "\n# changed\n")
    run = here(*job, env=env(tmp_path))
    assert run.code == 1
    assert "before: the folder has job_hooks:half (sha256 " in run.stderr
    assert "after: the folder has job_hooks:best (sha256 " in run.stderr


@pytest.mark.parametrize("option", ["--before", "--after"])
def test_a_hook_that_fails_ends_the_job_by_its_shard(
    source: Source, tmp_path: Path, option: str
) -> None:
    more = (option, "job_hooks:fails")
    run = here(*words(source, tmp_path / "out", *more), env=env(tmp_path))
    assert run.code == 1
    where = f"{option} job_hooks:fails: shard 2: {source.data / 'in-0.parquet'} rows 100:150: "
    assert where + "ValueError: row 100 (job_hooks.py:17)" in run.stderr


def test_a_hook_may_make_the_sequences(tmp_path: Path) -> None:
    (tmp_path / "job_hooks.py").write_text(SOURCE)
    rows = token_jobs.rows()[:40]
    folder = token_jobs.write(tmp_path / "in", rows, pa.list_(pa.int32()))
    path = folder / "data" / "a.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["id", "joined"]), path)
    more = ("--before", "job_hooks:lists", "--keep", "id")
    run = here(*token_jobs.words(folder, tmp_path / "out", *more), env=env(tmp_path))
    assert run.code == 0, run.stderr
    found = read_parts(tmp_path / "out")["sentence_embedding"].to_pylist()
    for got, row in zip(found, rows, strict=True):
        want = token_jobs.expected(row)["sentence_embedding"]
        np.testing.assert_allclose(got, want, atol=1e-4)
