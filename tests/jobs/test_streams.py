"""Whoever listened goes away (`| head -1`): the job goes on. Others print: not in its way."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import small_job
from here import here
from small_job import Source, colonnade, words


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize("closing", [">&-", ">&- 2>&-"])
def test_closed_descriptors_do_not_stop_the_job(
    source: Source, tmp_path: Path, closing: str
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "jobs.cli", *words(source, output), "--progress", "auto"]
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(command)} {closing}"],
        cwd=small_job.ROOT, timeout=small_job.TIMEOUT, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    small_job.check_exactly_once(source, output)


def test_an_error_that_nobody_reads_keeps_its_exit_code(source: Source, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    arguments = words(source, tmp_path / "out", "--engines", "0")
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    done = subprocess.run(command, cwd=small_job.ROOT, stderr=writing, timeout=small_job.TIMEOUT)
    os.close(writing)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("progress", "closed"),
    [("json", "stdout"), ("log", "stderr"), ("bar", "stderr"), ("bar", "both")],
)
def test_closed_pipe_does_not_stop_the_job(
    source: Source, tmp_path: Path, progress: str, closed: str
) -> None:
    output = tmp_path / "out"
    reading, writing = os.pipe()
    os.close(reading)
    kept = subprocess.PIPE
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words(source, output, "--progress", progress)],
        cwd=small_job.ROOT, timeout=small_job.TIMEOUT, text=True,
        stdout=kept if closed == "stderr" else writing,
        stderr=kept if closed == "stdout" else writing,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 0, done.stderr
    small_job.check_exactly_once(source, output)
    assert "Error" not in (done.stderr or ""), done.stderr
    if closed == "stderr":
        assert ("JobEnded" if progress == "json" else "rows") in done.stdout


CHATTY = """
import os, subprocess, sys

def look(batch):
    print("by print", flush=True)
    if sys.stdout is sys.__stderr__:  # not where a test stands in for the terminal
        os.write(1, b"by descriptor\\n")
        subprocess.run(["echo", "by a child"])
    return batch
"""
"""A hook that prints; the driver calls it, too, to know the fields that it gives."""


def chatty(folder: Path) -> dict[str, str]:
    (folder / "chatty.py").write_text(CHATTY)
    return {"PYTHONPATH": str(folder)}


def test_json_is_all_there_is_on_stdout(source: Source, tmp_path: Path) -> None:
    """Whatever else this process prints, by Python or not, goes to stderr."""
    arguments = words(source, tmp_path / "out", "--before", "chatty:look", "--progress", "none")
    run = colonnade(*arguments, "--json", env=chatty(tmp_path))
    assert run.code == 0, run.stderr
    assert json.loads(run.stdout)["parts"] == small_job.SHARDS
    for how in ("by print", "by descriptor", "by a child"):
        assert how in run.stderr


def test_events_are_all_there_is_on_stdout(source: Source, tmp_path: Path) -> None:
    arguments = words(source, tmp_path / "out", "--before", "chatty:look")
    run = here(*arguments, env=chatty(tmp_path))
    assert run.code == 0 and "by print" in run.stderr, run.stderr
    assert [json.loads(line)["event"] for line in run.stdout.splitlines()][-1] == "JobEnded"
