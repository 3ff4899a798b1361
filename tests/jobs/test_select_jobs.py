"""Whole runs with --select: which outputs are written, under which names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_models as small
from click.testing import CliRunner
from here import driven, here

from jobs.cli import main
from jobs.errors import SpecError
from jobs.ray_data import _spec

ROWS = 90
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two heads of which one reads an input of its own, and rows without that."""
    found = tmp_path_factory.mktemp("select")
    nodes = [
        small.node("MatMul", "x w", "h", name="first"),
        small.node("Relu", "h", "embedding"),
        small.node("MatMul", "embedding v", "logits", name="second"),
        small.node("Add", "embedding bias", "other"),
    ]
    outputs = {"other": ["n", 6], "logits": ["n", 2]}
    inputs = {"x": ["n", 5], "bias": ["n", 6]}
    onnx.save(small.model(nodes, inputs, outputs, weights()), found / "m.onnx")
    fields = pa.FixedSizeListArray.from_arrays(pa.array(rows().ravel()), 5)
    pq.write_table(pa.table({"id": np.arange(ROWS), "x": fields}), found / "in.parquet")
    return found


def weights() -> dict[str, Array]:
    rng = np.random.default_rng(7)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in (("w", (5, 6)), ("v", (6, 2)))}


def rows() -> Array:
    return np.random.default_rng(8).normal(size=(ROWS, 5)).astype(np.float32)


def words(folder: Path, output: Path, *more: str) -> list[str]:
    return [
        "run", "--model", str(folder / "m.onnx"), "--input", str(folder / "in.parquet"),
        "--output", str(output), "--engines", "1", "--threads", "1", "--progress", "none", *more,
    ]  # fmt: skip


def written(output: Path) -> dict[str, Array]:
    table = pa.concat_tables([pq.read_table(p) for p in sorted(output.glob("*.parquet"))])
    assert table["id"].to_pylist() == list(range(ROWS))
    return {
        name: table[name].combine_chunks().flatten().to_numpy().reshape(ROWS, -1)
        for name in table.column_names[1:]
    }


SELECTED = ("--select", "logits=score", "--select", "embedding")


@pytest.mark.parametrize("stages", ["1", "2"])
def test_chosen_outputs_are_written_under_their_names(
    folder: Path, tmp_path: Path, stages: str
) -> None:
    """An embedding in front of the head, too; the other head's input needs no field."""
    start = here if stages == "1" else driven  # a stage's process is started by a process
    run = start(*words(folder, tmp_path / "out", *SELECTED, "--stages", stages))
    assert run.code == 0, run.stderr
    assert "logits: float32[N, 2] -> score: fixed_size_list<" in run.stdout
    found, made = written(tmp_path / "out"), weights()
    assert list(found) == ["score", "embedding"]
    embedding = np.maximum(rows() @ made["w"], 0)
    np.testing.assert_allclose(found["embedding"], embedding, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["score"], embedding @ made["v"], rtol=1e-4, atol=1e-5)
    assert here("verify", str(tmp_path / "out")).code == 0


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            ("--select", "logits"),
            "outputs: the folder has logits=score: float32[2], embedding: float32[6], "
            "this run has logits: float32[2]",
        ),
        (
            ("--select", "logits=embedding", "--select", "embedding=score"),
            "this run has logits=embedding: float32[2], embedding=score: float32[6]",
        ),
    ],
)
def test_another_choice_is_another_run(
    folder: Path, tmp_path: Path, other: tuple[str, ...], said: str
) -> None:
    output = tmp_path / "out"
    assert here(*words(folder, output, *SELECTED)).code == 0
    again = here(*words(folder, output, *SELECTED, "--json"))
    assert again.code == 0 and json.loads(again.stdout)["standing"]["complete"]
    refused = here(*words(folder, output, *other))
    assert refused.code == 1 and said in refused.stderr
    assert "program:" not in refused.stderr, "that follows"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--select", "logit"), "expected some of other, logits, or values between nodes, got "
                                "'logit'; did you mean 'logits'?"),
        (("--select", "logits=id"), "output 'logits': the dataset has a field 'id', too; leave it "
                                    "out with --keep, or name the output's with --select logits="),
        (("--select", "logits", "--bind", "bias=x"),
         "--bind bias: expected an input of the model that logits needs (x), got 'bias'"),
        ((), "input 'bias': expected a field 'bias', got id, x"),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_is_refused(
    folder: Path, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    run = here(*words(folder, tmp_path / "out", *more, "--dry-run"))
    assert run.code == 1 and said in run.stderr


def test_explain_shows_the_program_that_a_job_would_run(folder: Path) -> None:
    asked = ["explain", str(folder / "m.onnx"), "--input", str(folder / "in.parquet"), "--json"]
    found = CliRunner().invoke(main, [*asked, "--select", "logits=score"])
    assert found.exit_code == 0, found.stderr
    plain = json.loads(found.stdout)
    assert plain["outputs"] == ["logits: float32[N, 2]"] and len(plain["nodes"]) == 2
    assert plain["binding"]["outputs"][0]["field"] == "score"
    twice = CliRunner().invoke(main, [*asked, "--select", "logits=a", "--select", "other=a"])
    assert twice.exit_code == 2 and "select: expected each field once" in twice.stderr


@pytest.mark.parametrize(
    ("outputs", "rival", "note"),
    [("both", True, ""), ("embedding", False, "embedding is no output of the model")],
)
def test_bench_runs_only_what_is_chosen(
    tmp_path: Path, outputs: str, rival: bool, note: str
) -> None:
    """And so does onnxruntime, where it can."""
    pytest.importorskip("onnxruntime")
    nodes = [
        small.node("MatMul", "x w", "embedding"),
        small.node("Relu", "embedding", "both"),
        small.node("Neg", "both", "unwanted"),
    ]
    shapes = {"both": ["n", 6], "unwanted": ["n", 6]}
    onnx.save(small.model(nodes, {"x": ["n", 5]}, shapes, weights()), tmp_path / "m.onnx")
    quick = ("--rounds", "1", "--seconds", "0.001", "--rows", "40", "--json")
    found = CliRunner().invoke(
        main, ["bench", str(tmp_path / "m.onnx"), "--select", outputs, *quick]
    )
    assert found.exit_code == 0, found.stderr
    plain = json.loads(found.stdout)
    assert plain["explanation"]["outputs"] == [f"{outputs}: float32[N, 6]"]
    assert ("onnxruntime" in {f["contender"] for f in plain["figures"]}) is rival
    assert note in " ".join(plain["notes"])


def test_predict_takes_the_choice_as_the_command_does() -> None:
    spec = _spec("m.onnx", {"select": ["logits=score", "label"]})
    assert spec.selection == {"logits": "score", "label": "label"}
    with pytest.raises(SpecError, match="select: expected each output once"):
        _spec("m.onnx", {"select": ["y", "y=z"]})
