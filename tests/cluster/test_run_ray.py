"""The Ray executor on real raylets: same bytes as the local one, deaths of actors and machines."""

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
from small_job import ROWS, SHARDS, Source, colonnade, words

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """ray.cluster_utils.Cluster: a head without CPUs and one raylet with two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(small_job.ROOT))
        from ray.cluster_utils import Cluster

        store = 80 << 20
        options = {"num_cpus": 0, "object_store_memory": store, "include_dashboard": False}
        running = Cluster(initialize_head=True, head_node_args=options)
        running.add_node(num_cpus=2, object_store_memory=store)
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def cluster(machines: Any) -> str:
    """Its address."""
    return str(machines.address)


def test_cluster_started_by_the_command(source: Source, tmp_path: Path) -> None:
    """Without an address Ray is started and stopped; the parts are the local executor's."""
    local, ray = tmp_path / "local", tmp_path / "ray"
    assert colonnade(*words(source, local)).code == 0
    before = {p.pid for p in psutil.process_iter() if p.name() in ("raylet", "gcs_server")}
    run = colonnade(*words(source, ray, "--executor", "ray"))
    assert run.code == 0, run.stderr
    small_job.check_exactly_once(source, ray)
    for part in sorted(local.glob("part-*")):
        assert part.read_bytes() == (ray / part.name).read_bytes()
    after = {p.pid for p in psutil.process_iter() if p.name() in ("raylet", "gcs_server")}
    assert after <= before, "Ray was stopped"
    report = run.events("ScorerReady")[0]["report"]
    assert report["threads_off_place"] == 0 and report["threads"] > 5, "Ray's threads, too"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_ray_starts(source: Source, tmp_path: Path, number: signal.Signals) -> None:
    """Ray takes SIGTERM for itself meanwhile, and must not be left half started."""
    output = tmp_path / "out"
    with small_job.popen(*words(source, output, "--executor", "ray")) as process:
        while not (started := psutil.Process(process.pid).children(recursive=True)):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        run = small_job.finish(process)
    assert run.code == 128 + number, run.stderr
    assert "to go on, run" in run.stderr and "Traceback" not in run.stderr, run.stderr
    assert not output.exists(), "nothing was begun"
    _, left = psutil.wait_procs(started, timeout=20)
    assert not left, "Ray was stopped"


def on(cluster: str, *more: str) -> tuple[str, ...]:
    return ("--executor", "ray", "--address", cluster, *more)


def at(failpoint: str, once: Path) -> dict[str, str]:
    return {"COLONNADE_FAILPOINT": failpoint, "COLONNADE_FAILPOINT_ONCE": str(once)}


@pytest.mark.parametrize("name", ["before_run", "after_fsync"])
def test_actor_killed_in_mid_shard(source: Source, tmp_path: Path, cluster: str, name: str) -> None:
    output = tmp_path / "out"
    killed = tmp_path / "killed"
    run = colonnade(*words(source, output, *on(cluster)), env=at(f"{name}:3", killed))
    assert run.code == 0, run.stderr
    assert killed.exists() and len(run.events("ScorerDied")) == 1
    twice = [index for index in range(SHARDS) if run.lent.count(index) > 1]
    assert 1 <= len(twice) <= 2, "only what was in flight is lent again"
    small_job.check_exactly_once(source, output)


@pytest.mark.slow
def test_frozen_actor_is_replaced(source: Source, tmp_path: Path, cluster: str) -> None:
    output = tmp_path / "out"
    arguments = words(source, output, *on(cluster, "--stall-seconds", "12"))
    run = colonnade(*arguments, env=at("before_run:3=stop", tmp_path / "frozen"))
    assert run.code == 0, run.stderr
    assert "said nothing for 12 s" in run.events("ScorerDied")[0]["reason"]
    small_job.check_exactly_once(source, output)


def test_sigterm_then_resume(source: Source, tmp_path: Path, cluster: str) -> None:
    output = tmp_path / "out"
    frozen = tmp_path / "frozen"
    arguments = words(source, output, *on(cluster))
    with small_job.popen(*arguments, env=at("before_run:4=stop", frozen)) as process:
        while not frozen.exists():
            assert process.poll() is None
            time.sleep(0.02)
        sent = time.monotonic()
        process.terminate()
        run = small_job.finish(process)
        assert time.monotonic() - sent < small_job.PROMPT
    assert run.code == 143 and f"--address {cluster}" in run.stderr
    done = small_job.journal(output)
    again = colonnade(*arguments)
    assert again.code == 0 and len(again.lent) == SHARDS - len(done) >= SHARDS - 3
    small_job.check_exactly_once(source, output)
    assert again.events("JobEnded")[0]["rows_in"] == ROWS


def test_no_cluster_at_the_address(source: Source, tmp_path: Path) -> None:
    for address, said in (("127.0.0.1:1", "refused"), ("ray://h:10001", "host:port")):
        arguments = words(source, tmp_path / "out", *on(address))
        run = colonnade(*arguments)
        assert run.code == 4 and address in run.stderr and said in run.stderr, run.stderr
        assert "Traceback" not in run.stderr and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_machine_lost(source: Source, tmp_path: Path, machines: Any) -> None:
    """A raylet dies with a scorer in mid-shard; the other machine does the rest."""
    if os.cpu_count() == 1:
        pytest.skip("two scorers need two cores")
    machines.add_node(num_cpus=1, object_store_memory=80 << 20)
    output = tmp_path / "out"
    frozen = tmp_path / "frozen"
    arguments = words(source, output, *on(str(machines.address), "--engines", "2"))
    with small_job.popen(*arguments, env=at("before_run:2=stop", frozen)) as process:
        while not frozen.exists():
            assert process.poll() is None
            time.sleep(0.02)
        stopped = next(
            p for p in psutil.process_iter(["status"])
            if p.info["status"] == psutil.STATUS_STOPPED and p.ppid() != process.pid
            and any(p.ppid() == raylet_pid(node) for node in machines.list_all_nodes())
        )  # fmt: skip
        lost = next(n for n in machines.list_all_nodes() if raylet_pid(n) == stopped.ppid())
        machines.remove_node(lost, allow_graceful=False)
        run = small_job.finish(process)
        if stopped.is_running():  # its raylet is gone, and it cannot see that
            stopped.kill()
    assert run.code == 0, run.stderr
    assert run.events("ScorerDied")
    small_job.check_exactly_once(source, output)


def raylet_pid(node: Any) -> int:
    """Process id of a cluster_utils node's raylet, 0 for one that has none."""
    running = node.all_processes.get("raylet")
    return running[0].process.pid if running else 0
