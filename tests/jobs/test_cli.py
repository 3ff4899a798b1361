"""The small commands, usage errors, and what --help says and costs."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import small_job
from click.testing import CliRunner, Result
from here import here
from small_job import ROOT, SHARDS, Source, words

from jobs.cli import main

NEEDED = ["--model", "m", "--input", "i", "--output", "o"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_help_answers_at_once_with_examples() -> None:
    """Processor time of the best of five tries, which others on the machine do not lengthen."""
    taken = []
    for _ in range(5):
        began = children_seconds()
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", "run", "--help"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        taken.append(children_seconds() - began)
    assert "Examples:" in done.stdout and "--bind pixels=image" in done.stdout
    assert "130/143 interrupted" in done.stdout
    assert min(taken) < 0.3


def children_seconds() -> float:
    """Processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "Did you mean 'run'?"),
        (["run", "--modle", "m"], "Did you mean '--model'?"),
        (["run", "--engines", "two"], "'two' is not a valid integer"),
        (["run", "--executor", "rai"], "'rai' is not one of 'local', 'ray'"),
        (["explain"], "Missing argument 'MODEL'"),
        (["explain", "m", "--bind", "x"], "expected INPUT=FIELD, got 'x'"),
        (["explain", "m", "--bind", "x=a"], "expected --input too"),
        (["topology", "--threads", "0"], "0 is not in the range x>=1"),
        (["run", "--model", "m"], "expected --input"),
        (["run", *NEEDED, "--engines", "0"], "engines: expected at least 1, got 0"),
        (["run", *NEEDED, "--stall-seconds", "nan"], "stall_seconds: expected at least 0.1"),
        (["run", *NEEDED, "--batch-rows", "1" + "0" * 19], "batch_rows: expected at most"),
        (["run", *NEEDED, "--output", ""], "output: expected a path, got ''"),
        (["run", *NEEDED, "--max-errors", "3"], "add --on-error skip"),
        (["bench", "m", "--threads", "0"], "threads: expected at least 1, got 0"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2 and said in result.stderr


@pytest.mark.parametrize("option", ["--engines", "--threads"])
def test_more_than_the_machine_has_is_refused_with_the_numbers(option: str) -> None:
    result = invoke("run", *NEEDED, option, "9999")
    assert result.exit_code == 1, result.output
    assert "expected at most" in result.stderr and "got 9999" in result.stderr


def test_a_fault_of_the_config_is_no_usage_error(tmp_path: Path) -> None:
    config = tmp_path / "job.toml"
    config.write_text("threads = 0")
    result = invoke("run", *NEEDED, "--config", str(config))
    assert result.exit_code == 1 and f"{config}: threads: expected at least 1" in result.stderr


def test_version_with_and_without_an_installed_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    assert invoke("--version").stdout.startswith("colonnade ")
    monkeypatch.setattr("importlib.metadata.version", missing)
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, "colonnade, not installed\n")


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


def test_explain_measures_when_asked(source: Source) -> None:
    result = invoke("explain", str(source.model), "--measure")
    assert result.exit_code == 0, result.stderr
    assert "Measured on cpu" in result.stdout and "the cost model chose" in result.stdout
    plain = json.loads(invoke("explain", str(source.model), "--measure", "--json").stdout)
    assert {k["chosen"] for k in plain["measured"]["kernels"]} == {True, False}
    assert "Measured" not in invoke("explain", str(source.model)).stdout


def test_topology_shows_places() -> None:
    result = invoke("topology", "--engines", "1", "--threads", "1")
    assert result.exit_code == 0 and "engine 0 on node 0" in result.stdout
    plain = json.loads(invoke("topology", "--engines", "1", "--threads", "1", "--json").stdout)
    assert len(plain["places"]) == 1 and len(plain["places"][0]["cpus"]) == 1
    result = invoke("topology", "--engines", "99999")
    assert result.exit_code == 1 and "ask for fewer engines" in result.stderr


def test_dry_run_as_json(source: Source, tmp_path: Path) -> None:
    result = invoke(*words(source, tmp_path / "out", "--dry-run", "--json"))
    said = json.loads(result.stdout)
    plan = said["plan"]
    assert len(plan["shards"]) == SHARDS and plan["memory"]["engines"] == 1
    assert plan["binding"]["fields"][0]["field"] == "x" and len(plan["places"]) == 1
    assert said["standing"]["resumed"] is False and "exit_code" not in said


def test_verify_finds_a_flipped_byte(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert here(*words(source, output)).code == 0
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
    monkeypatch.setattr("jobs.executors.local.memory_limit", lambda topology: 100 << 20)
    output = tmp_path / "out"
    result = invoke(*words(source, output, "--progress", "none"))
    assert result.exit_code == 1 and "within 100 MiB of memory" in result.stderr
    assert not output.exists()
