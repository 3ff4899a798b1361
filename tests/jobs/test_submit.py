"""What is submitted, and what becomes of the answers, without a cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from jobs import ray_jobs
from jobs.cli import main
from jobs.errors import INFRASTRUCTURE, USAGE, InfrastructureError
from jobs.ray_jobs import RayJobs, Submission, _Log
from jobs.shipping import HOW, PACKAGES, Shipment, staged_code, submission_name
from jobs.spec import OPTIONS, JobSpec


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    (tmp_path / "m.onnx").write_bytes(b"model")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").write_bytes(b"rows")
    return JobSpec(
        model=str(tmp_path / "m.onnx"), input=(str(tmp_path / "data"),),
        output=str(tmp_path / "out"), executor="ray", address="auto",
    )  # fmt: skip


def test_the_name_is_that_of_the_job_however_it_runs(spec: JobSpec) -> None:
    name = submission_name(spec)
    assert name == submission_name(dataclasses.replace(spec))
    assert set(OPTIONS) > HOW
    for how in ({"engines": 2}, {"restart": True}, {"progress": "none"}, {"stall_seconds": 1.0}):
        assert submission_name(dataclasses.replace(spec, **how)) == name  # type: ignore[arg-type]
    for what in ({"on_error": "skip"}, {"output": "/elsewhere"}, {"keep": ("a",)}):
        assert submission_name(dataclasses.replace(spec, **what)) != name  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", ["m.onnx", "data/a.parquet", "data/b.parquet"])
def test_another_state_of_a_file_is_another_job(spec: JobSpec, changed: str) -> None:
    name = submission_name(spec)
    (Path(spec.model).parent / changed).write_bytes(b"something else")
    assert submission_name(spec) != name


def test_a_job_whose_files_are_not_here_has_a_name(spec: JobSpec) -> None:
    away = dataclasses.replace(spec, model="/there/m.onnx", input=("/there/data",))
    assert submission_name(away) == submission_name(away) != submission_name(spec)


def test_the_entrypoint_is_the_same_run(spec: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLONNADE_X", "a b")
    asked = dataclasses.replace(spec, keep=("it's",), restart=True)
    entrypoint = Shipment.of(asked).entrypoint
    assert entrypoint.startswith("exec env 'COLONNADE_X=a b'")
    assert f"python -m jobs.cli run --model {spec.model} --input" in entrypoint
    assert "--executor ray --address auto" in entrypoint and "--restart" in entrypoint
    assert "--keep 'it'\"'\"'s'" in entrypoint


def test_only_our_code_is_sent() -> None:
    with staged_code() as folder:
        files = [p for p in Path(folder).rglob("*") if p.is_file()]
        assert {p.relative_to(folder).parts[0] for p in files} == set(PACKAGES)
        assert not [p for p in files if p.suffix == ".pyc"]
        assert sum(p.stat().st_size for p in files) < 4 << 20
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("state", "driver", "code"),
    [
        ("PENDING", None, 0), ("RUNNING", None, 0), ("SUCCEEDED", 0, 0), ("FAILED", 3, 3),
        ("FAILED", -9, 137), ("FAILED", None, INFRASTRUCTURE), ("STOPPED", None, 143),
    ],
)  # fmt: skip
def test_exit_codes(state: str, driver: int | None, code: int) -> None:
    found = Submission("colonnade-0a-3", state, "", driver, "/out")
    assert found.exit_code == code
    assert (found.name, found.attempt) == ("colonnade-0a", 3)
    assert (f"exit code {code}" in str(found)) == found.ended


def test_a_log_that_is_read_again_is_shown_once() -> None:
    shown: list[str] = []
    log = _Log(shown.append)
    for texts in (["one ", "two "], ["one t"], ["one two th", "ree"]):
        log.rewind()
        for text in texts:
            log.add(text)
    assert "".join(shown) == "one two three"


class Head:
    """Ray's client, of a job that ends after so many questions; its websockets are as told."""

    def __init__(self, questions: int, tails: bool, answers: bool = True) -> None:
        self.questions, self.tails, self.answers = questions, tails, answers
        self.log = "one\ntwo\n"

    def get_job_info(self, id: str) -> Any:
        if not self.answers:
            raise ConnectionError("no route")
        self.questions -= 1
        state = "RUNNING" if self.questions > 0 else "SUCCEEDED"
        return SimpleNamespace(
            submission_id=id, status=SimpleNamespace(value=state), message="",
            driver_exit_code=0, metadata={"output": "/out"},
        )  # fmt: skip

    def get_job_logs(self, id: str) -> str:
        return self.log[: -self.questions * 4 or None] if self.questions > 0 else self.log

    async def tail_job_logs(self, id: str) -> AsyncIterator[str]:
        if not self.tails:
            raise ValueError("403 instead of a websocket")
        while self.questions > 0:
            self.questions -= 1
            yield self.log[:4]
        yield self.log[4:] if self.log else ""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[[Head], RayJobs]:
    def connected(head: Head) -> RayJobs:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
        monkeypatch.setattr(ray_jobs, "check_reachable", lambda address: None)
        monkeypatch.setattr(ray_jobs, "_POLL_SECONDS", 0.01)
        monkeypatch.setattr(ray_jobs, "_LOST_SECONDS", 0.1)
        monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: head)
        return RayJobs("http://head:8265")

    return connected


def test_a_log_is_shown_to_its_end_without_websockets(
    cluster: Callable[[Head], RayJobs],
) -> None:
    for head in (Head(4, tails=False), Head(0, tails=False), Head(2, tails=True)):
        shown: list[str] = []
        assert cluster(head).follow("colonnade-0a", shown.append).succeeded
        assert "".join(shown) == head.log


def test_a_head_that_stays_lost_is_not_waited_for(cluster: Callable[[Head], RayJobs]) -> None:
    lost = cluster(Head(4, tails=True, answers=False))
    with pytest.raises(InfrastructureError, match="colonnade-0a may well go on"):
        lost.follow("colonnade-0a", str)


WORDS = ("submit", "--model", "m", "--input", "i", "--output", "o")


@pytest.mark.parametrize("address", ["", "ftp://head", "http://"])
def test_no_address_is_a_fault_of_the_command(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    run = CliRunner().invoke(main, [*WORDS, "--address", address])
    assert run.exit_code == USAGE and "expected http://HOST:8265" in run.stderr


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke(main, [*WORDS, "--address", "http://127.0.0.1:9"])
    assert run.exit_code == INFRASTRUCTURE and "127.0.0.1:9" in run.stderr


def test_ray_without_its_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "find_spec", lambda name: None)
    run = CliRunner().invoke(main, [*WORDS, "--address", "http://127.0.0.1:9"])
    assert run.exit_code == INFRASTRUCTURE and "pip install 'colonnade[submit]'" in run.stderr
