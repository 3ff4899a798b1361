"""The small commands, usage errors, and what --help says and costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_job
from click.testing import CliRunner, Result
from small_job import ROOT, SHARDS, Source, colonnade, words

from jobs.cli import main


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_help_answers_at_once_with_examples() -> None:
    """0.3 s on an idle machine: the best of five tries."""
    taken = []
    for _ in range(5):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", "run", "--help"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        taken.append(time.monotonic() - began)
    assert "Examples:" in done.stdout and "--bind pixels=image" in done.stdout
    assert "130/143 interrupted" in done.stdout
    assert min(taken) < 0.3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "Did you mean 'run'?"),
        (["run", "--modle", "m"], "Did you mean '--model'?"),
        (["run", "--engines", "two"], "'two' is not a valid integer"),
        (["run", "--executor", "rai"], "'rai' is not one of 'local', 'ray'"),
        (["explain"], "Missing argument 'MODEL'"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2 and said in result.stderr


def test_wrong_values_exit_with_1() -> None:
    needed = ["--model", "m", "--input", "i", "--output", "o"]
    result = invoke("run", *needed, "--engines", "0")
    assert result.exit_code == 1 and "engines: expected at least 1, got 0" in result.stderr
    result = invoke("run", "--model", "m")
    assert result.exit_code == 1 and "expected --input" in result.stderr


def test_explain_with_binding(source: Source) -> None:
    result = invoke("explain", str(source.model), "--input", str(source.data))
    assert result.exit_code == 0, result.stderr
    assert "spmm_f32" in result.stdout and "kept: id, label" in result.stdout
    plain = json.loads(
        invoke("explain", str(source.model), "--input", str(source.data), "--json").stdout
    )
    assert plain["binding"]["fields"][0]["field"] == "x" and plain["nodes"]
    result = invoke("explain", str(source.model), "--input", str(source.data), "--bind", "x=id")
    assert result.exit_code == 1 and "'id'" in result.stderr


def test_topology_shows_places() -> None:
    result = invoke("topology", "--engines", "1", "--threads", "1")
    assert result.exit_code == 0 and "engine 0 on node 0" in result.stdout
    plain = json.loads(invoke("topology", "--engines", "1", "--threads", "1", "--json").stdout)
    assert len(plain["places"]) == 1 and len(plain["places"][0]["cpus"]) == 1
    result = invoke("topology", "--engines", "99999")
    assert result.exit_code == 1 and "ask for fewer engines" in result.stderr


def test_dry_run_as_json(source: Source, tmp_path: Path) -> None:
    result = invoke(*words(source, tmp_path / "out", "--dry-run", "--json"))
    plan = json.loads(result.stdout)
    assert len(plan["shards"]) == SHARDS and plan["memory"]["engines"] == 1


def test_verify_finds_a_flipped_byte(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert colonnade(*words(source, output)).code == 0
    assert "all is well" in invoke("verify", str(output)).stdout
    part = output / "part-000004.parquet"
    content = bytearray(part.read_bytes())
    content[20] ^= 1
    part.write_bytes(content)
    result = invoke("verify", str(output))
    assert result.exit_code == 1 and part.name in result.stdout
    report = json.loads(invoke("verify", str(output), "--json").stdout)
    assert report["ok"] is False and report["parts"] == SHARDS
    result = invoke("verify", str(tmp_path))
    assert result.exit_code == 1 and "expected the output of a run" in result.stderr


def test_plan_too_large_for_the_machine_is_refused(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.plan.memory_limit", lambda topology: 100 << 20)
    output = tmp_path / "out"
    result = invoke(*words(source, output, "--progress", "none"))
    assert result.exit_code == 1 and "within 100 MiB of memory" in result.stderr
    assert not output.exists()
