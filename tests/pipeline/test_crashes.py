"""The commit protocol's crash matrix: die at every failpoint, resume, find every row once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import part_jobs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from part_jobs import output_ids, record, run_job, write_input, write_part

from pipeline import failpoints
from pipeline.dataset import Dataset
from pipeline.failpoints import FailpointError
from pipeline.journal import replay
from pipeline.manifest import RunFolder
from pipeline.shards import Lease, plan_shards

POINTS = [n for n in failpoints.NAMES if not n.endswith(("_read", "_run"))]
"""Those that a job without an engine passes."""
ROOT = Path(__file__).parents[2]


def die(inputs: Path, output: Path, failpoint: str) -> None:
    """The job in a process of its own, killed by the failpoint."""
    env = os.environ | {failpoints.VARIABLE: failpoint, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(part_jobs.__file__), str(inputs), str(output)]
    done = subprocess.run(command, env=env, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def journalled(output: Path) -> set[int]:
    path = output / "_colonnade/journal.jsonl"
    return set(replay(path.read_bytes().splitlines())) if path.exists() else set()


def check_whole(output: Path) -> None:
    """What stands under final names is readable and of whole shards."""
    ids = output_ids(output)
    assert len(set(ids)) == len(ids)
    assert not (output / "_SUCCESS").exists()


def check_done(output: Path) -> None:
    assert output_ids(output) == list(range(part_jobs.ROWS))
    assert (output / "_SUCCESS").exists()
    assert list((output / "_colonnade/tmp").iterdir()) == []


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_driver_is_resumed(tmp_path: Path, point: str) -> None:
    inputs, output = write_input(tmp_path / "in"), tmp_path / "out"
    nth = 1 if point.endswith("manifest") else 3
    die(inputs, output, f"{point}:{nth}")
    check_whole(output)
    finals = {int(p.stem.removeprefix("part-")) for p in output.glob("part-*")}
    assert journalled(output) <= finals
    written = run_job(inputs, output)
    assert set(written) == set(range(6)) - finals, "no committed shard is made again"
    check_done(output)
    assert run_job(inputs, output) == []


def test_two_deaths_in_a_row_and_a_torn_line(tmp_path: Path) -> None:
    inputs, output = write_input(tmp_path / "in"), tmp_path / "out"
    die(inputs, output, "after_journal:2")
    with (output / "_colonnade/journal.jsonl").open("ab") as journal:
        journal.write(b'{"shard": 2, "pa')
    die(inputs, output, "after_rename:2")
    check_whole(output)
    assert journalled(output) == {0, 1, 2}
    assert run_job(inputs, output) == [4, 5], "shard 3 was renamed and is adopted"
    check_done(output)


class Crash:
    """A driver's life: commit attempts at shards, then maybe an exception at a failpoint."""

    def __init__(self, shards: list[int], point: str | None, nth: int) -> None:
        self.shards = shards
        self.point = point
        self.nth = nth

    def __repr__(self) -> str:
        return f"Crash({self.shards}, {self.point!r}, {self.nth})"


lives = st.builds(
    Crash,
    st.lists(st.integers(0, 5), max_size=8),
    st.sampled_from([None, *failpoints.DRIVER_NAMES]),
    st.integers(1, 4),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(lives, max_size=5))
def test_any_series_of_lives_ends_with_every_row_once(
    tmp_path_factory: pytest.TempPathFactory, series: list[Crash]
) -> None:
    """Attempts in any order, some of them twice, crashes anywhere; the model is a set."""
    folder = tmp_path_factory.mktemp("lives")
    inputs, output = write_input(folder / "in"), folder / "out"
    shards = plan_shards(dataset := Dataset.discover([str(inputs)]))
    run = record(dataset, shards)
    published: set[int] = set()
    for life in series:
        failpoints._reached.clear()
        if life.point:
            os.environ[failpoints.VARIABLE] = f"{life.point}:{life.nth}=raise"
        try:
            with RunFolder.open(output, run, shards) as run_folder:
                assert set(run_folder.committed) == published, "nothing lost, nothing invented"
                for attempt, index in enumerate(life.shards):
                    part = write_part(output, Lease(shards[index], attempt), run)
                    entry = run_folder.commit(part)
                    assert (entry is None) == (index in published)
                    published.add(index)
        except FailpointError:
            published = {int(p.stem.removeprefix("part-")) for p in output.glob("part-*")}
        finally:
            os.environ.pop(failpoints.VARIABLE, None)
        ids = output_ids(output) if output.exists() else []
        assert len(ids) == len(set(ids))
    assert set(run_job(inputs, output)) == set(range(6)) - published
    check_done(output)
