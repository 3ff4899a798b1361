"""Jobs on a real Ray cluster whose scorers, machines and messages are lost.

Every test of the module shares one cluster. Its raylets all run on this machine, and start in three
seconds each: the order of the tests starts few.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import misfortunes
import onnx
import picture_jobs
import psutil
import pyarrow as pa
import pytest
import small_job
from here import driven, here
from misfortunes import hooked
from small_job import ROWS, SHARDS, Source, colonnade, words
from watched import Watched

from scripts.models.mlp import mlp

pytestmark = pytest.mark.cluster

STORE = 80 << 20
"""Bytes; the least that Ray takes."""


class Raylets:
    """ray.cluster_utils.Cluster: a head without CPUs, and raylets with one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        # Without a dashboard and without who carries what workers print to drivers.
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        head["include_log_monitor"] = False
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.workers: list[Any] = []

    def have(self, count: int) -> None:
        """Start or stop raylets until there are so many."""
        while len(self.workers) < count:
            self.add()
        while len(self.workers) > count:
            self.lose(self.workers[-1])

    def add(self, **more: Any) -> None:
        # Not `wait`: it waits for machines that a test has killed, too.
        node = self.cluster.add_node(num_cpus=1, object_store_memory=STORE, wait=False, **more)
        self.workers.append(node)

    def lose(self, node: Any, *workers: int) -> None:
        """The machine is gone from one moment to the next, with these processes on it. A stopped
        one that is left alone goes on when its parent is gone, and may do the whole job before Ray
        misses the raylet."""
        for pid in (node.all_processes["raylet"][0].process.pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.workers.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def of(self, pid: int) -> Any:
        """The raylet whose worker that is."""
        parent = psutil.Process(pid).ppid()
        return next(n for n in self.workers if n.all_processes["raylet"][0].process.pid == parent)

    def drain(self, node: Any, seconds: float) -> None:
        """What a cloud does before it takes a machine away."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int((time.time() + seconds) * 1000)
        client = GcsClient(address=self.cluster.address)
        accepted, why = client.drain_node(node.node_id, reason, "spot", deadline)
        assert accepted, why


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(small_job.ROOT))
        running = Raylets()
        yield running
        running.cluster.shutdown()


def on(raylets: Raylets, *more: str) -> tuple[str, ...]:
    return ("--executor", "ray", "--address", raylets.cluster.address, *more)


def at(failpoint: str, once: Path) -> dict[str, str]:
    return {"COLONNADE_FAILPOINT": failpoint, "COLONNADE_FAILPOINT_ONCE": str(once)}


def test_encoded_pictures_give_the_local_bytes(tmp_path: Path, raylets: Raylets) -> None:
    """Not a fault, but this module has a cluster."""
    raylets.have(1)
    files = [picture_jobs.encoded(picture_jobs.picture(seed, 11, 17), "JPEG") for seed in range(9)]
    folder = picture_jobs.write(tmp_path / "in", pa.array(files))
    local, ray = tmp_path / "local", tmp_path / "ray"
    for run, output, more in ((here, local, ()), (driven, ray, on(raylets))):
        done = run(*picture_jobs.words(folder, output, "--image", picture_jobs.IMAGE, *more))
        assert done.code == 0, done.stderr
    parts = sorted(part.name for part in local.glob("part-*"))
    assert len(parts) > 1 and parts == sorted(part.name for part in ray.glob("part-*"))
    for name in parts:
        assert (local / name).read_bytes() == (ray / name).read_bytes()


def test_digits_give_the_local_bytes(tmp_path: Path, raylets: Raylets) -> None:
    """Nor is this."""
    raylets.have(1)
    digits, outputs = small_job.ROOT / "examples" / "digits", (tmp_path / "local", tmp_path / "ray")
    for run, output, more in zip((here, driven), outputs, ((), on(raylets)), strict=True):
        done = run(
            "run", "--model", str(digits / "digits-mlp-s90.onnx"), "--input", str(digits / "data"),
            "--output", str(output), "--engines", "1", "--threads", "1", *more,
        )  # fmt: skip
        assert done.code == 0, done.stderr
    local, ray = ({p.name: p.read_bytes() for p in o.glob("part-*")} for o in outputs)
    assert len(local) > 5 and local == ray


@pytest.mark.parametrize("failpoint", ["before_run:3=kill", "after_fsync:3=crash"])
def test_scorer_killed_in_mid_shard(
    source: Source, tmp_path: Path, raylets: Raylets, failpoint: str
) -> None:
    """By SIGKILL, and by SIGSEGV. Ray prints a paragraph about it, on stdout if it may."""
    raylets.have(1)
    output, killed = tmp_path / "out", tmp_path / "killed"
    run = driven(*words(source, output, *on(raylets)), env=at(failpoint, killed))
    assert run.code == 0, run.stderr
    assert [line for line in run.stdout.splitlines() if not line.startswith("{")] == []
    assert killed.exists() and len(run.events("ScorerDied")) == 1
    twice = [index for index in range(SHARDS) if run.lent.count(index) > 1]
    assert 1 <= len(twice) <= 2, "only what was in flight is lent again"
    small_job.check_exactly_once(source, output)


def test_sigterm_then_resume(source: Source, tmp_path: Path, raylets: Raylets) -> None:
    raylets.have(1)
    output, frozen = tmp_path / "out", tmp_path / "frozen"
    arguments = words(source, output, *on(raylets))
    with small_job.popen(*arguments, env=at("before_run:4=stop", frozen)) as process:
        while not frozen.exists():
            assert process.poll() is None
            time.sleep(0.02)
        sent = time.monotonic()
        process.terminate()
        run = small_job.finish(process)
        assert time.monotonic() - sent < small_job.PROMPT
    assert run.code == 143 and f"--address {raylets.cluster.address}" in run.stderr
    done = small_job.journal(output)
    again = driven(*arguments)
    assert again.code == 0 and len(again.lent) == SHARDS - len(done) >= SHARDS - 3
    small_job.check_exactly_once(source, output)
    assert again.events("JobEnded")[0]["rows_in"] == ROWS


@pytest.mark.slow
def test_frozen_scorer_is_replaced_and_comes_back(
    source: Source, tmp_path: Path, raylets: Raylets
) -> None:
    """A zombie: stopped with a part just written, taken for dead, then continued."""
    raylets.have(1)
    output = tmp_path / "out"
    frozen = at("after_fsync:2=stop", tmp_path / "frozen")
    arguments = words(source, output, *on(raylets, "--stall-seconds", "12"))
    with Watched(tmp_path, *arguments, env=frozen) as job:
        death = job.wait_for("ScorerDied")[0]
        assert "said nothing for 12 s" in death["reason"]
        with contextlib.suppress(ProcessLookupError):
            job.open_gate(death["scorer"])
        run = job.finish()
    assert run.code == 0, run.stderr
    small_job.check_exactly_once(source, output)


@pytest.mark.slow
def test_messages_are_lost_and_late(source: Source, tmp_path: Path, raylets: Raylets) -> None:
    """Ray loses calls to scorers and their answers: they are made again, and nobody dies."""
    raylets.have(1)
    output = tmp_path / "out"
    faults = {
        "RAY_testing_rpc_failure": (
            '{"CoreWorkerService.grpc_client.PushTask": {"num_failures": 8, '
            '"req_failure_prob": 40, "resp_failure_prob": 10}}'
        ),
        "RAY_testing_asio_delay_us": "*=100:5000",
    }
    run = colonnade(*words(source, output, *on(raylets)), env=faults)
    assert run.code == 0, run.stderr
    assert not run.events("ScorerDied") and sorted(run.lent) == list(range(SHARDS))
    small_job.check_exactly_once(source, output)


def actors(kind: str) -> list[psutil.Process]:
    """Ray names a process by the actor that it is."""
    return [p for p in psutil.process_iter() if kind in " ".join(p.cmdline()[:1])]


def test_a_stage_killed_on_another_machine(
    source: Source, tmp_path: Path, raylets: Raylets
) -> None:
    """Than its scorer's: both start again, and nothing is lost, and the bytes are the same."""
    if os.cpu_count() == 1:
        pytest.skip("two stages need two cores")
    raylets.have(2)
    output, whole, frozen = tmp_path / "out", tmp_path / "whole", tmp_path / "frozen"
    arguments = words(source, output, *on(raylets, "--stages", "2"))
    with small_job.popen(*arguments, env=at("before_encode:4=stop", frozen)) as process:
        while not frozen.exists():
            assert process.poll() is None
            time.sleep(0.02)
        (scorer,) = (p for p in actors("ScorerActor") if p.status() == "stopped")
        (stage,) = actors("StageActor")
        assert raylets.of(stage.pid) is not raylets.of(scorer.pid)
        stage.kill()
        os.kill(scorer.pid, signal.SIGCONT)
        run = small_job.finish(process)
    assert run.code == 0, run.stderr
    (death,) = run.events("ScorerDied")
    assert "stage 1" in death["reason"]
    assert len(run.events("ScorerReady")) == 2
    assert SHARDS < len(run.lent) <= SHARDS + 2, "only what was in flight is lent again"
    small_job.check_exactly_once(source, output)
    assert here(*words(source, whole)).code == 0
    for part in whole.glob("part-*"):
        assert part.read_bytes() == (output / part.name).read_bytes()


def test_three_stages_on_raylets_of_their_own(tmp_path: Path, raylets: Raylets) -> None:
    """The third says that it is another machine, so that two cores are enough."""
    if os.cpu_count() == 1:
        pytest.skip("places of three stages need two cores")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, socket\n"
        "if name := os.environ.get('MACHINE'):\n"
        "    socket.gethostname = lambda: name\n"
    )
    path = {"PYTHONPATH": f"{tmp_path}:{small_job.ROOT}"}  # the driver's, and so its workers'
    source = small_job.write(tmp_path)
    onnx.save(mlp((8, 16, 16, 4), 0.5), source.model)
    raylets.have(2)
    raylets.add(env_vars={"MACHINE": "elsewhere"})
    staged, whole = tmp_path / "staged", tmp_path / "whole"
    run = driven(*words(source, staged, *on(raylets, "--stages", "3")), env=path)
    raylets.have(2)
    assert run.code == 0, run.stderr
    report = run.events("ScorerReady")[0]["report"]
    assert [stage["stage"] for stage in report["stages"]] == [1, 2]
    assert here(*words(source, whole)).code == 0
    parts = sorted(part.name for part in whole.glob("part-*"))
    assert len(parts) == SHARDS and parts == sorted(part.name for part in staged.glob("part-*"))
    for name in parts:
        assert (whole / name).read_bytes() == (staged / name).read_bytes()


@pytest.mark.slow
def test_stragglers_run_elsewhere(source: Source, tmp_path: Path, raylets: Raylets) -> None:
    """A frozen scorer holds two shards; the other one does them, long before it is missed."""
    if os.cpu_count() == 1:
        pytest.skip("two scorers need two cores")
    raylets.have(2)
    output = tmp_path / "out"
    arguments = words(source, output, *on(raylets, "--engines", "2"))
    run = driven(*arguments, env=at("before_fsync:2=stop", tmp_path / "frozen"))
    assert run.code == 0, run.stderr
    assert not run.events("ScorerDied")
    slow = run.events("PartDiscarded")
    assert len(slow) == 2 and slow[0]["scorer"] == slow[1]["scorer"]
    small_job.check_exactly_once(source, output)


@pytest.mark.slow
def test_machine_lost_another_joins_and_one_is_drained(
    source: Source, tmp_path: Path, raylets: Raylets
) -> None:
    """Three raylets, the head among them: one is killed, one comes, one will be taken away."""
    if os.cpu_count() == 1:
        pytest.skip("two scorers need two cores")
    raylets.have(2)
    output = tmp_path / "out"
    arguments = words(source, output, *on(raylets, "--engines", "2"))
    with Watched(tmp_path, *arguments, gated=True) as job:
        job.wait_for("ScorerReady", 2)
        for scorer in (0, 1):
            job.wait_at_gate(scorer)
        raylets.lose(raylets.of(job.pid(0)), job.pid(0))
        raylets.add()  # as one that is started anew, before Ray has missed the other
        assert job.wait_for("ScorerLeft")[0]["scorer"] == 0
        assert job.wait_for("ScorerJoined")[0]["scorer"] == 2
        job.wait_for("ScorerReady", 3)
        job.wait_at_gate(2)
        drained = raylets.of(job.pid(1))
        raylets.drain(drained, 10.0 * small_job.TIMEOUT)
        assert job.wait_for("ScorerDraining")[0]["scorer"] == 1
        lent = job.seen.events("ShardLent")
        job.open_gate(1)
        # What a leaving scorer holds an idle one takes over at once: on a busy machine before the
        # first had begun. So the other stands still until it is gone.
        job.wait_for("ScorerLeft", 2)
        job.open_gate(2)
        run = job.finish()
    raylets.lose(drained)
    assert run.code == 0, run.stderr
    small_job.check_exactly_once(source, output)
    assert not run.events("ScorerDied"), "nobody is to blame"
    later = run.events("ShardLent")[len(lent) :]
    assert later and {event["scorer"] for event in later} == {2}, "the one that stays"
    by = [event["scorer"] for event in run.events("PartCommitted")]
    assert by.count(1) >= 1 and by.count(2) > 2, "what the draining one had is kept"
    assert [e["scorer"] for e in run.events("ScorerLeft")] == [0, 1]


@pytest.mark.slow
def test_shard_that_takes_too_much_memory_is_set_aside(
    source: Source, tmp_path: Path, raylets: Raylets
) -> None:
    """Ray kills a scorer when its machine runs out of memory: here when 2.5 GB more are in use."""
    memory = psutil.virtual_memory()
    used = (memory.total - memory.available + (5 << 29)) / memory.total
    if memory.available < 4 << 30:
        pytest.skip("expected 4 GB of free memory")
    raylets.have(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_memory_usage_threshold", f"{used:.4f}")
        patch.setenv("RAY_memory_monitor_refresh_ms", "50")
        raylets.have(1)
    arguments = words(source, tmp_path / "out", *on(raylets), *misfortunes.OPTIONS)
    run = driven(*arguments, env=hooked(tmp_path, "hog"))
    assert run.code == 3, run.stderr
    deaths = run.events("ScorerDied")
    assert len(deaths) >= 2 and "memory" in deaths[-1]["reason"], deaths
    assert [e["shard"] for e in run.events("ShardSetAside")] == [misfortunes.SHARD]
    assert small_job.finals(tmp_path / "out") == set(range(SHARDS)) - {misfortunes.SHARD}
