"""Rows that kill whoever reads them, and scorers that come back from the dead."""

from __future__ import annotations

import os
from pathlib import Path

import misfortunes
import pytest
import small_job
from here import driven, here
from misfortunes import hooked
from small_job import SHARDS, Source, words
from watched import Watched


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


def test_shard_that_kills_two_scorers_is_set_aside_and_tried_again(
    source: Source, tmp_path: Path
) -> None:
    """By SIGSEGV, with the scorer's last words; the next run does nothing but that shard."""
    arguments = words(source, tmp_path / "out", *misfortunes.OPTIONS)
    run = driven(*arguments, env=hooked(tmp_path, "crash"))
    assert run.code == 3, run.stderr
    deaths = run.events("ScorerDied")
    assert len(deaths) == 2 and "SIGSEGV" in deaths[1]["reason"], run.stderr
    assert "in crash" in deaths[1]["reason"], "the trace of the crash"
    assert [e["shard"] for e in run.events("ShardSetAside")] == [misfortunes.SHARD]
    assert small_job.finals(tmp_path / "out") == set(range(SHARDS)) - {misfortunes.SHARD}
    again = here(*arguments, env=hooked(tmp_path))
    assert again.code == 0 and again.lent == [misfortunes.SHARD], again.stderr
    small_job.check_exactly_once(source, tmp_path / "out")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two engines need two processors")
def test_late_result_of_a_straggler_is_thrown_away(source: Source, tmp_path: Path) -> None:
    """A scorer freezes with a part just written; when another has committed that shard, it goes
    on, and hands its own part over.
    """
    output = tmp_path / "out"
    arguments = words(source, output, "--engines", "2", *misfortunes.OPTIONS)
    environment = hooked(tmp_path, "dawdle") | {
        "COLONNADE_FAILPOINT": "after_fsync:1=stop",
        "COLONNADE_FAILPOINT_ONCE": str(tmp_path / "frozen"),
    }
    with Watched(tmp_path, *arguments, env=environment) as job:
        job.wait_for("PartCommitted", SHARDS - 1)
        last = job.seen.events("PartCommitted")[-1]
        slow = 1 - last["scorer"]
        job.open_gate(slow)
        run = job.finish()
    assert run.code == 0, run.stderr
    small_job.check_exactly_once(source, output)
    late = [e for e in run.events("PartDiscarded") if e["scorer"] == slow]
    assert last["shard"] in {e["shard"] for e in late} and not run.events("ScorerDied")
    assert run.lent.count(last["shard"]) == 2, "once more, by the other one"
