"""Models in stages on a real Ray: on one machine, and on a machine for each stage."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import small_job
import token_jobs
from small_job import SHARDS, Source, colonnade, words

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors"),
]

STORE = 80 << 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A head without CPUs, and two raylets of one CPU each: two machines, as far as Ray knows."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(small_job.ROOT))
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        yield cluster.address
        cluster.shutdown()


def parts(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("part-*")}


def actors(kind: str) -> list[psutil.Process]:
    """Ray names a process by the actor that it is."""
    return [p for p in psutil.process_iter() if kind in " ".join(p.cmdline()[:1])]


def staged(address: str = "") -> list[str]:
    """Words of a job of two stages under Ray."""
    more = ["--executor", "ray", "--stages", "2"]
    return [*more, "--address", address] if address else more


def test_on_one_machine_and_on_two_the_bytes_are_those_of_one_piece(
    tmp_path: Path, address: str
) -> None:
    """Sequences: lists of any length go from stage to stage."""
    folder = token_jobs.write(tmp_path / "job", token_jobs.rows())
    found: list[Any] = []
    ways = {"whole": [], "one": staged(), "two": staged(address)}
    for way, more in ways.items():
        run = colonnade(*token_jobs.words(folder, tmp_path / way, *more))
        assert run.code == 0, run.stderr
        found.append(parts(tmp_path / way))
        report = run.events("ScorerReady")[0]["report"]
        if way != "whole":
            (later,) = report["stages"]
            assert later["stage"] == 1 and later["threads_off_place"] == 0
            assert later["pid"] != report["pid"]
    assert found[0] and found[0] == found[1] == found[2]


def test_a_stage_killed_in_mid_job(source: Source, tmp_path: Path, address: str) -> None:
    """On another machine than its scorer: both start again, and nothing is lost or twice."""
    output, frozen = tmp_path / "out", tmp_path / "frozen"
    env = {"COLONNADE_FAILPOINT": "before_encode:4=stop", "COLONNADE_FAILPOINT_ONCE": str(frozen)}
    arguments = [*words(source, output), *staged(address)]
    with small_job.popen(*arguments, env=env) as process:
        while not frozen.exists():
            assert process.poll() is None
            time.sleep(0.02)
        (scorer,) = (p for p in actors("ScorerActor") if p.status() == "stopped")
        (stage,) = actors("StageActor")
        assert stage.ppid() != scorer.ppid(), "raylets of their own"
        stage.kill()
        os.kill(scorer.pid, signal.SIGCONT)
        run = small_job.finish(process)
    assert run.code == 0, run.stderr
    (death,) = run.events("ScorerDied")
    assert "stage 1" in death["reason"]
    assert len(run.events("ScorerReady")) == 2
    assert SHARDS < len(run.lent) <= SHARDS + 2, "only what was in flight is lent again"
    small_job.check_exactly_once(source, output)
