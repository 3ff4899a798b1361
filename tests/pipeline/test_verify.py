from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from part_jobs import Job, run_job, write_input

from pipeline.errors import OutputError
from pipeline.verify import verify


@pytest.fixture(params=["parquet", "arrow"])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    inputs, output = write_input(tmp_path / "in"), tmp_path / "out"
    run_job(inputs, output, request.param)
    return inputs, output


def part(output: Path, number: int) -> Path:
    return next(output.glob(f"part-{number:06d}.*"))


def test_a_finished_run_is_well(folders: tuple[Path, Path]) -> None:
    inputs, output = folders
    report = verify(output)
    assert report.problems == () and report.ok
    assert (report.parts, report.rows_in, report.rows_out, report.rejects) == (6, 24, 22, 2)
    assert report.nbytes == sum(p.stat().st_size for p in output.glob("part-*"))
    assert str(report).endswith("24 rows in, 22 out, 2 rejects: all is well")
    assert verify(output, [str(inputs)]) == report


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def touch(inputs: Path, output: Path) -> None:
    os.utime(inputs / "1.parquet", ns=(0, 0))


def edit_manifest(output: Path, **changed: object) -> None:
    path = output / "_manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def without_entry(inputs: Path, output: Path) -> None:
    entries = json.loads((output / "_manifest.json").read_text())["entries"]
    edit_manifest(output, entries=entries[:3] + entries[4:])


DAMAGE: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "bit": (lambda i, o: flip(part(o, 2)), "part-000002.{}: expected xxh3-128:"),
    "size": (lambda i, o: part(o, 2).write_bytes(b"x"), "part-000002.{}: expected "),
    "lost": (lambda i, o: part(o, 2).unlink(), "part-000002.{} is missing"),
    "extra": (lambda i, o: shutil.copy(part(o, 2), o / "part-000009.parquet"),
              "part-000009.parquet is not in the manifest"),
    "rejects": (lambda i, o: flip(o / "_colonnade/rejects/part-000001.parquet"),
                "_colonnade/rejects/part-000001.parquet: expected xxh3-128:"),
    "marker": (lambda i, o: (o / "_SUCCESS").unlink(), "_SUCCESS is missing"),
    "manifest": (lambda i, o: (o / "_manifest.json").unlink(), "_manifest.json is missing"),
    "torn": (lambda i, o: (o / "_manifest.json").write_text("{"), "_manifest.json is damaged"),
    "entry": (without_entry, "expected a part from row 0, got one from 3"),
    "sums": (lambda i, o: edit_manifest(o, rows_out=21), "its entries have (6, 24, 22, 2, 0)"),
    "run": (lambda i, o: edit_manifest(o, fingerprint="f"), "_manifest.json is of run f, not"),
    "input": (touch, "1.parquet: changed since it was scored"),
    "gone": (lambda i, o: (i / "0.parquet").unlink(), "0.parquet: cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_is_named(folders: tuple[Path, Path], damage: str) -> None:
    inputs, output = folders
    spoil, expected = DAMAGE[damage]
    suffix = part(output, 2).suffix[1:]
    spoil(inputs, output)
    report = verify(output)
    assert not report.ok
    assert any(expected.format(suffix) in p for p in report.problems), report


def obey(output: Path, repair: tuple[str, ...]) -> None:
    """Does what the report says must be done by hand."""
    for advice in repair:
        if files := re.match("delete (.*); then give the command again", advice):
            for name in files[1].split(", "):
                (output / name).unlink()
        else:
            assert advice.endswith("give the command again that made this folder"), advice


@pytest.mark.parametrize("damage", sorted({*DAMAGE} - {"input", "gone"}))
def test_the_advice_repairs(folders: tuple[Path, Path], damage: str) -> None:
    """What it says to delete, and the same command, and nothing else."""
    inputs, output = folders
    format = part(output, 2).suffix[1:]
    before = {path.name: path.stat().st_ino for path in output.glob("part-*")}
    DAMAGE[damage][0](inputs, output)
    report = verify(output)
    assert f"  do: {report.repair[0]}" in str(report).splitlines()
    obey(output, report.repair)
    run_job(inputs, output, format)
    assert verify(output).ok
    now = {path.name: path.stat().st_ino for path in output.glob("part-*")}
    assert len({n for n in now if now[n] != before[n]}) <= 1, "at most one part was made again"


def test_inputs_that_changed_want_a_new_run(folders: tuple[Path, Path]) -> None:
    inputs, output = folders
    touch(inputs, output)
    (advice,) = verify(output).repair
    assert "--restart, or another output" in advice


def test_an_unfinished_run_tells_how_far_it_is(tmp_path: Path) -> None:
    job = Job(tmp_path)
    with job.open() as folder:
        for shard in job.shards[:2]:
            folder.commit(job.part(shard))
        (problem,) = verify(job.output).problems
        assert f"2 of 6 shards are committed, process {os.getpid()} on " in problem
        assert verify(job.output).repair == ("wait for it",)
    report = verify(job.output)
    assert (report.parts, report.rows_in) == (2, 8)
    assert ": 2 parts, " in str(report) and ": 1 part, " in str(replace(report, parts=1))
    assert report.problems == ("the run is not finished: 2 of 6 shards are committed",)
    assert report.repair == ("to go on, give the command again that made this folder",)
    shutil.rmtree(job.inputs)
    assert verify(job.output).problems == ("the run is not finished: 2 shards are committed",)


def test_other_inputs_are_told(folders: tuple[Path, Path]) -> None:
    inputs, output = folders
    more = inputs / "9.parquet"
    pq.write_table(pa.table({"id": [1]}), more)
    assert verify(output).ok
    assert f"{more}: was not scored" in verify(output, [str(inputs)]).problems
    report = verify(output, [str(inputs / "0.parquet")])
    assert f"{inputs / '1.parquet'}: is not in the input" in report.problems


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="expected the output of a run"):
        verify(tmp_path)
