"""Whole runs of the command with the local executor: results, resume, kills, signals, disks."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import small_job
from here import driven, here
from small_job import ROWS, SHARDS, Source, colonnade, words

from pipeline.failpoints import DRIVER_NAMES, SCORER_NAMES


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


def wait_for(condition: object) -> None:
    until = time.monotonic() + small_job.TIMEOUT
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def test_run_then_run_again(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = colonnade(*words(source, output))
    assert first.code == 0, first.stderr
    small_job.check_exactly_once(source, output)
    assert sorted(first.lent) == list(range(SHARDS))
    ended = first.events("JobEnded")[0]
    assert (ended["rows_in"], ended["rows_out"], ended["exit_code"]) == (ROWS, ROWS, 0)
    ready = first.events("ScorerReady")[0]["report"]
    assert ready["threads_off_place"] == 0, "every thread of the scorer is on its place"

    again = here(*words(source, output))
    assert again.code == 0 and not again.lent, "nothing to do, nothing done"
    assert "nothing to do" in again.stderr

    other = here(*words(source, output, "--keep", "id"))
    assert other.code == 1 and "keep" in other.stderr, "another run's folder is refused"
    small_job.check_exactly_once(source, output)


def test_two_engines_write_the_same_bytes(source: Source, tmp_path: Path) -> None:
    if os.cpu_count() == 1:
        pytest.skip("two engines need two cores")
    outputs = [tmp_path / "one", tmp_path / "two"]
    for output, engines in zip(outputs, ("1", "2"), strict=True):
        run = driven(*words(source, output, "--engines", engines, "--batch-rows", engines + "7"))
        assert run.code == 0, run.stderr
    one, two = ((output / "_colonnade" / "run.json").read_text() for output in outputs)
    assert one == two, "neither engines nor batches are part of a run's identity"
    for part in sorted(outputs[0].glob("part-*")):
        assert part.read_bytes() == (outputs[1] / part.name).read_bytes()


def test_dry_run_writes_nothing(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run = here(*words(source, output, "--dry-run", "--progress", "none"))
    assert run.code == 0, run.stderr
    assert "memory" in run.stdout and not output.exists()


def test_dry_run_says_how_far_the_output_folder_is(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    dry = words(source, output, "--dry-run", "--progress", "none")
    assert here(*words(source, output)).code == 0
    assert here(*dry).stdout.endswith("  folder  done before: nothing to do\n")
    (output / "_SUCCESS").unlink()
    for index in (0, 5, 7):
        (output / f"part-{index:06}.parquet").unlink()
    run = here(*dry)
    assert run.code == 0 and f"resumes: {SHARDS - 3} of {SHARDS} shards" in run.stdout, run.stdout
    assert "nothing done yet" in here(*dry, "--restart").stdout
    standing = json.loads(here(*dry, "--json").stdout)["standing"]
    assert standing["committed_shards"] == SHARDS - 3 and standing["resumed"]
    other = here(*dry, "--keep", "id")
    assert other.code == 1 and "keep" in other.stderr, "as the run itself would say"


def test_arrow_parts_and_json_summary(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run = here(*words(source, output, "--format", "arrow", "--json", "--progress", "log"))
    assert run.code == 0, run.stderr
    summary = json.loads(run.stdout)
    assert summary["rows_in"] == ROWS and summary["parts"] == SHARDS
    assert len(summary["plan"]["shards"]) == SHARDS and summary["plan"]["binding"]["fields"]
    assert summary["standing"]["committed_shards"] == 0
    assert len(list(output.glob("part-*.arrow"))) == SHARDS
    assert f"100%  {ROWS} of {ROWS} rows, {SHARDS} of {SHARDS} shards" in run.stderr


def test_a_first_run_says_that_kernels_are_compiled(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only as far as the driver knows: the scorers of this test find them on the disk."""
    output = tmp_path / "out"
    with monkeypatch.context() as unknown:
        unknown.setattr("engine.program.is_kept", lambda name: False)
        first = here(*words(source, output, "--progress", "log"))
        again = here(*words(source, output, "--progress", "log"))
    assert "starting 1 scorer, compiling " in first.stderr and "kernels" in first.stderr
    assert "compiling" not in again.stderr, "all was done before"
    other = here(*words(source, tmp_path / "other", "--progress", "log"))
    assert "compiling" not in other.stderr


@pytest.mark.parametrize("name", SCORER_NAMES)
def test_scorer_killed_in_mid_shard(source: Source, tmp_path: Path, name: str) -> None:
    """kill -9 at its second shard ends a job that may not restart scorers; then a run."""
    output = tmp_path / "out"
    arguments = words(source, output, "--max-restarts", "0")
    run = driven(*arguments, env={"COLONNADE_FAILPOINT": f"{name}:2"})
    assert run.code == 4 and "SIGKILL" in run.stderr, run.stderr
    before = small_job.finals(output)
    assert len(before) <= 1 and sorted(before) == small_job.journal(output)
    run = here(*words(source, output))
    assert run.code == 0, run.stderr
    assert not before & set(run.lent), "a committed shard was computed again"
    small_job.check_exactly_once(source, output)


@pytest.mark.parametrize("name", ["after_read", "before_fsync", "after_fsync"])
def test_scorer_killed_in_mid_shard_is_replaced(source: Source, tmp_path: Path, name: str) -> None:
    """With nothing written of its shard, with some of it, and with a part that nobody knows of."""
    output = tmp_path / "out"
    marker = tmp_path / "killed"
    environment = {"COLONNADE_FAILPOINT": f"{name}:3", "COLONNADE_FAILPOINT_ONCE": str(marker)}
    run = driven(*words(source, output), env=environment)
    assert run.code == 0, run.stderr
    assert marker.exists(), "the failpoint was reached"
    assert "SIGKILL" in run.events("ScorerDied")[0]["reason"]
    small_job.check_exactly_once(source, output)
    twice = [index for index in range(SHARDS) if run.lent.count(index) > 1]
    assert 1 <= len(twice) <= 2, "only what was in flight is lent again"


@pytest.mark.parametrize("name", DRIVER_NAMES)
def test_driver_killed_then_resumed(source: Source, tmp_path: Path, name: str) -> None:
    """kill -9 at a step of the commit protocol, in the worst place twice in a row, then a run."""
    output = tmp_path / "out"
    last, worst = name.endswith("manifest"), name == "before_journal"
    for nth in ("1",) if last else ("3", "2") if worst else ("3",):
        before = small_job.finals(output)
        run = colonnade(*words(source, output), env={"COLONNADE_FAILPOINT": f"{name}:{nth}"})
        assert run.code == -signal.SIGKILL, run.stderr
        assert not before & set(run.lent), "a committed shard was computed again"
        for pid in {event["report"]["pid"] for event in run.events("ScorerReady")}:
            wait_for(lambda pid=pid: not psutil.pid_exists(pid))
        assert not (output / "_SUCCESS").exists()
    before = small_job.finals(output)
    assert before, "something had been committed"
    run = here(*words(source, output))
    assert run.code == 0, run.stderr
    assert not before & set(run.lent), "a committed shard was computed again"
    assert len(before) + len(run.lent) == SHARDS
    small_job.check_exactly_once(source, output)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_then_resume(source: Source, tmp_path: Path, number: signal.Signals) -> None:
    """The scorer freezes at its fourth shard, so that the signal comes in mid-job for sure."""
    output = tmp_path / "out"
    frozen = tmp_path / "frozen"
    environment = {
        "COLONNADE_FAILPOINT": "before_run:4=stop",
        "COLONNADE_FAILPOINT_ONCE": f"{frozen}",
    }
    with small_job.popen(*words(source, output), env=environment) as process:
        wait_for(frozen.exists)
        sent = time.monotonic()
        process.send_signal(number)
        run = small_job.finish(process)
        assert time.monotonic() - sent < small_job.PROMPT
    assert run.code == 128 + number
    assert f"colonnade run --model {source.model}" in run.stderr, "the command to go on"
    done = small_job.journal(output)
    assert not (output / "_SUCCESS").exists() and len(done) <= 3
    again = here(*words(source, output))
    assert again.code == 0 and len(again.lent) == SHARDS - len(done)
    small_job.check_exactly_once(source, output)


def test_frozen_scorer_is_replaced(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    environment = {
        "COLONNADE_FAILPOINT": "before_run:4=stop",
        "COLONNADE_FAILPOINT_ONCE": str(tmp_path / "frozen"),
    }
    run = driven(*words(source, output, "--stall-seconds", "8"), env=environment)
    assert run.code == 0, run.stderr
    assert "said nothing for 8 s" in run.events("ScorerDied")[0]["reason"]
    small_job.check_exactly_once(source, output)


def test_scorer_that_always_dies_is_given_up(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run = driven(
        *words(source, output, "--max-restarts", "1"), env={"COLONNADE_FAILPOINT": "before_run"}
    )
    assert run.code == 4, run.stderr
    assert "given up after 2 starts" in run.stderr and "to go on, run" in run.stderr
    assert not small_job.finals(output)
    assert here(*words(source, output)).code == 0
    small_job.check_exactly_once(source, output)


def test_second_driver_is_refused(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    frozen = tmp_path / "frozen"
    environment = {
        "COLONNADE_FAILPOINT": "before_run:2=stop",
        "COLONNADE_FAILPOINT_ONCE": f"{frozen}",
    }
    with small_job.popen(*words(source, output), env=environment):
        wait_for(frozen.exists)
        second = here(*words(source, output))
    assert second.code == 1 and "only driver" in second.stderr and not second.lent
    assert here(*words(source, output)).code == 0
    small_job.check_exactly_once(source, output)


def test_full_disk_then_room(source: Source, tmp_path: Path) -> None:
    """A tmpfs too small for the parts: nothing half-written is published, a resume finishes."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(mount)], capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    output = mount / "out"
    try:
        run = here(*words(source, output))
        assert run.code == 4, (run.code, run.stderr)
        assert "No space left" in run.stderr and not (output / "_SUCCESS").exists()
        before = small_job.finals(output)
        assert len(before) < SHARDS
        subprocess.run(["mount", "-o", "remount,size=16m", str(mount)], check=True)
        again = here(*words(source, output))
        assert again.code == 0, again.stderr
        assert not before & set(again.lent)
        small_job.check_exactly_once(source, output)
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_file_size_limit(source: Source, tmp_path: Path) -> None:
    """EFBIG instead of ENOSPC, for machines where no tmpfs can be mounted."""
    output = tmp_path / "out"
    process = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words(source, output)],
        cwd=small_job.ROOT, capture_output=True, text=True, timeout=small_job.TIMEOUT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
    )  # fmt: skip
    assert process.returncode in (1, 4), process.stderr
    assert "File too large" in process.stderr
    assert not small_job.finals(output) and not (output / "_SUCCESS").exists()


def test_heavy_imports_stay_out(source: Source, tmp_path: Path) -> None:
    """No ray for the local executor and the small commands; nothing heavy for --help."""
    output = tmp_path / "out"
    commands: dict[str, list[str]] = {
        "ray pyarrow numpy numba onnx rich psutil": ["--help"],
        "ray numba onnx.reference": words(source, output),
        "ray": ["explain", str(source.model)],
        "ray numba pyarrow": ["topology"],
        "ray onnx": ["verify", str(output)],
    }
    for banned, arguments in commands.items():
        code = (
            "import sys\nfrom jobs.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            f"found = [m for m in {banned.split()!r} if m in sys.modules]\n"
            "assert not found, found\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=small_job.ROOT, capture_output=True, text=True, timeout=small_job.TIMEOUT,
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stderr)
