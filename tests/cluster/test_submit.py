"""`colonnade submit` to a real head with its dashboard: log, exit code, watching, stopping."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import pytest
import small_job
from click.testing import CliRunner
from small_job import SHARDS, Result, Source, colonnade

from jobs.cli import main

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of the dashboard of a cluster of one machine; its `python` is ours."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(prefix="ray-") as folder:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        from ray._private.utils import write_ray_address
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 2, "object_store_memory": 80 << 20, "temp_dir": folder}
        options |= {"include_dashboard": True, "dashboard_port": free_port()}
        # Other clusters of this machine have the port that agents take by default.
        options |= {"dashboard_agent_listen_port": free_port()}
        running = Cluster(initialize_head=True, head_node_args=options)
        # As `ray start` does, for Ray's jobs to find their own cluster among those of a machine.
        write_ray_address(running.address, folder)
        patch.setenv("RAY_API_SERVER_ADDRESS", f"http://{running.head_node.webui_url}")
        yield f"http://{running.head_node.webui_url}"
        running.shutdown()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def here(*arguments: str) -> Result:
    """A command in this process, where Ray is imported already."""
    run = CliRunner().invoke(main, arguments)
    return Result(run.exit_code, run.stdout, run.stderr)


def words(source: Source, output: Path, *more: str) -> list[str]:
    return ["submit", *small_job.words(source, output, *more)[1:]]


def read_until(stream: IO[str] | None, wanted: str) -> str:
    assert stream is not None
    read = ""
    for line in stream:
        read += line
        if wanted in line:
            return read
    raise AssertionError(f"expected {wanted!r}, got {read}")


def test_the_log_and_the_exit_code_are_the_jobs(source: Source, tmp_path: Path, head: str) -> None:
    output = tmp_path / "out"
    run = colonnade(*words(source, output), "--address", head)
    assert run.code == 0, run.stderr
    assert len(run.lent) == SHARDS and "submitted as colonnade-" in run.stderr
    small_job.check_exactly_once(source, output)
    again = here(*words(source, output))
    assert again.code == 0 and "was done before" in again.stderr and not again.stdout


def test_what_is_not_there_is_said(source: Source, tmp_path: Path, head: str) -> None:
    run = here(*words(source, tmp_path / "out", "--input", "/there/data"))
    assert run.code == 1
    assert "/there/data: expected a file, folder or glob" in run.stdout
    assert "must have the same paths on the machines of the cluster" in run.stderr


def test_ctrl_c_leaves_it_running_until_it_is_stopped(
    source: Source, tmp_path: Path, head: str
) -> None:
    output = tmp_path / "out"
    # A scorer that freezes at its fourth shard: a job without end.
    env = {"COLONNADE_FAILPOINT": "before_run:4=stop"}
    with small_job.popen(*words(source, output), env=env) as process:
        read_until(process.stdout, "PartCommitted")
        process.send_signal(signal.SIGINT)
        left = small_job.finish(process)
    assert left.code == 130 and "goes on without us" in left.stderr
    id = left.stderr.split("submitted as ")[1].split()[0]
    assert f"colonnade stop --address {head} {id}" in left.stderr
    running = json.loads(here("status", "--json", id).stdout)
    assert (running["state"], running["output"]) == ("RUNNING", str(output))

    attached = here(*words(source, output, "--no-wait"))
    assert attached.code == 0 and attached.stdout == f"{id}\n"
    assert "running already" in attached.stderr
    refused = here(*words(source, output, "--restart"))
    assert refused.code == 2 and f"colonnade stop --address {head} {id}" in refused.stderr

    begun = time.monotonic()
    stopped = here("stop", id)
    assert stopped.code == 0 and "stopped, exit code 143" in stopped.stdout
    assert time.monotonic() - begun < small_job.PROMPT
    done = small_job.finals(output)
    assert 0 < len(done) < SHARDS
    assert here("status", id).code == 143

    anew = colonnade(*words(source, output))
    assert anew.code == 0, anew.stderr
    assert f"submitted as {id}-2" in anew.stderr
    assert not done & set(anew.lent), "a committed shard was computed again"
    small_job.check_exactly_once(source, output)
    listed = here("status").stdout
    assert f"{id}: stopped" in listed and f"{id}-2: succeeded" in listed
