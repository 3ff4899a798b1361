"""Ray as the command starts it, and where there is none."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import small_job
from here import driven, here
from small_job import Source, colonnade, words

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


def daemons(name: str, value: str) -> list[psutil.Process]:
    """Ray's own that run with that variable in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get(name) == value
            if ours and process.name() in ("raylet", "gcs_server"):
                found.append(process)
    return found


def test_cluster_started_by_the_command(source: Source, tmp_path: Path) -> None:
    """Without an address Ray is started and stopped; the parts are the local executor's, here by a
    model in two stages."""
    local, ray = tmp_path / "local", tmp_path / "ray"
    assert here(*words(source, local)).code == 0
    stages = min(2, len(os.sched_getaffinity(0)))
    more = ("--executor", "ray", "--stages", str(stages))
    run = colonnade(*words(source, ray, *more), env={"COLONNADE_TEST_RUN": str(ray)})
    left = daemons("COLONNADE_TEST_RUN", str(ray))
    assert not left, "Ray was stopped"
    assert run.code == 0, run.stderr
    small_job.check_exactly_once(source, ray)
    for part in sorted(local.glob("part-*")):
        assert part.read_bytes() == (ray / part.name).read_bytes()
    report = run.events("ScorerReady")[0]["report"]
    assert report["threads_off_place"] == 0 and report["threads"] > 5, "Ray's threads, too"
    assert [later["threads_off_place"] for later in report.get("stages", [])] == [0] * (stages - 1)


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
    _, left = psutil.wait_procs(started, timeout=small_job.TIMEOUT)
    assert not left, "Ray was stopped"


def test_no_cluster_at_the_address(source: Source, tmp_path: Path) -> None:
    for address, said in (("127.0.0.1:1", "refused"), ("ray://h:10001", "host:port")):
        more = ("--executor", "ray", "--address", address)
        run = driven(*words(source, tmp_path / "out", *more))
        assert run.code == 4 and address in run.stderr and said in run.stderr, run.stderr
        assert "Traceback" not in run.stderr and not (tmp_path / "out").exists()
