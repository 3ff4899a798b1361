"""`colonnade bench` of models of sequences: tokens a second, real lengths, layers shown once."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small
import token_jobs
from click.testing import CliRunner, Result
from rich.console import Console
from token_models import interrupted

from jobs.bench.folding import Run, pattern, runs
from jobs.bench.measure import measure
from jobs.bench.page import page
from jobs.bench.report import Report
from jobs.bench.spec import BenchSpec
from jobs.bench.table import print_report
from jobs.cli import main
from scripts.models.bert import bert
from scripts.models.bert_weights import Size, random_weights

QUICK = ("--rounds", "1", "--seconds", "0.001", "--threads", "1")
DEEP = Size(layers=5, hidden=32, heads=4, feed_forward=64, vocabulary=100, positions=24)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *(str(a) for a in arguments), *QUICK])


def bench(*arguments: object) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = token_jobs.write(tmp_path_factory.mktemp("tokens") / "job", token_jobs.rows())
    onnx.save(interrupted(token_jobs.proto()), folder / "interrupted.onnx")
    deep = bert(DEEP, random_weights(DEEP, 0.5), "torch", outputs=("last_hidden_state",))
    onnx.save(deep, folder / "deep.onnx")
    return folder


@pytest.fixture(scope="module")
def deep(folder: Path) -> Iterator[Report]:
    spec = BenchSpec(model=folder / "deep.onnx", rounds=1, seconds=0.001, threads=1)
    yield measure(spec, lambda text: None)


def contenders(plain: Any) -> set[str]:
    return {figure["contender"] for figure in plain["figures"]}


def test_made_up_sequences_are_all_of_one_length(folder: Path) -> None:
    plain = bench(folder / "model.onnx", "--rows", 5, "--tokens", 11)
    assert (plain["rows"], plain["tokens"], plain["padding"]) == (5, 55, 0)
    assert (plain["shortest"], plain["longest"]) == (11, 11)
    assert contenders(plain) == {"colonnade", "onnxruntime", "columns off", "sparse off"}
    for figure in plain["figures"]:
        assert figure["tokens"] == pytest.approx(11 * figure["median"])
    attention = [s for s in plain["profile"]["steps"] if s["kernel"].startswith("attention")]
    assert [s["multiply_adds"] for s in attention] == [2 * 11 * 11 * 32] * 2
    assert plain["notes"] == []


def test_defaults_go_by_tokens_not_by_rows(folder: Path) -> None:
    plain = bench(folder / "model.onnx", "--engine-only")
    assert (plain["longest"], plain["rows"]) == (24, 1024 // 24), "all positions there are"
    plain = bench(folder / "model.onnx", "--engine-only", "--input", folder / "data")
    assert 1000 < plain["tokens"] <= 1024 and "wanted" not in plain["feeds"]


def test_more_tokens_than_positions_are_refused(folder: Path) -> None:
    result = invoke(folder / "model.onnx", "--tokens", 25)
    assert result.exit_code == 2 and "at most 24" in result.stderr and "got 25" in result.stderr


def test_real_lengths_are_padded_for_who_needs_it(folder: Path) -> None:
    plain = bench(folder / "model.onnx", "--input", folder / "data", "--rows", 20)
    lengths = [len(row) for row in token_jobs.rows()[:20]]
    assert (plain["tokens"], plain["longest"]) == (sum(lengths), max(lengths))
    share = 1 - sum(lengths) / (20 * max(lengths))
    assert plain["padding"] == pytest.approx(share)
    assert {"onnxruntime", "padded"} < contenders(plain)
    (note,) = plain["notes"]
    assert f"padded to {max(lengths)} tokens" in note and f"{share:.1%}" in note


def test_rows_that_cannot_be_scored_are_passed_over(folder: Path) -> None:
    token_jobs.write_data(folder / "bad" / "a.parquet", [[1, 2], [], [100], None, [0] * 25, [3]])
    plain = bench(folder / "model.onnx", "--input", folder / "bad", "--rows", 6)
    assert (plain["rows"], plain["tokens"]) == (2, 3) and "6 were wanted" in plain["feeds"]


def test_without_a_mask_onnxruntime_does_not_take_part(tmp_path: Path) -> None:
    table = np.ones((9, 4), np.float32)
    nodes = [small.node("Gather", "table ids", "y", name="lookup")]
    model = small.model(nodes, {"ids": ["N", "S"]}, {"y": ["N", "S", 4]}, {"table": table})
    model.graph.input[0].CopyFrom(small.info("ids", ["N", "S"], np.int64))
    onnx.save(model, tmp_path / "lookup.onnx")
    token_jobs.write_data(tmp_path / "a.parquet", [[1, 2], [3]])
    plain = bench(
        tmp_path / "lookup.onnx", "--input", tmp_path / "a.parquet", "--bind", "ids=input_ids"
    )
    assert contenders(plain) == {"colonnade", "columns off", "sparse off"}
    assert len(plain["notes"]) == 1 and "no mask" in plain["notes"][0]


def test_a_fallback_between_sequences_is_told(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    result = invoke(
        folder / "interrupted.onnx", "--input", folder / "data", "--rows", 9, "--html", target
    )
    assert result.exit_code == 0, result.stderr
    assert "nodes without a kernel" in result.stdout and "odd" in result.stdout
    shown = target.read_text(encoding="utf-8")
    for text in (
        "Cache stop",
        "row by row, as lengths differ",
        "128 B a token",
        "no kernel for Mod",
    ):
        assert text in shown
    assert "@offsets" not in shown


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_fits_its_terminal_and_folds_layers(deep: Report, width: int) -> None:
    out = io.StringIO()
    print_report(deep, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    text = out.getvalue()
    assert "5 times, summed" in text and text.count("attention_f32") == 1
    assert text.count("embed_") == 3, "what is not repeated stays"
    for line in lines:
        numbers = re.findall(r"\d…", line)
        assert not numbers, line
    shares = [float(s) for s in re.findall(r"([0-9.]+)%(?= )", text.partition("node ")[2])]
    assert sum(shares) > 90


def test_the_page_has_every_node_of_folded_layers(deep: Report) -> None:
    source = page(deep)
    for node in deep.explanation.nodes:
        assert node.node in source
    head, _, each = source.partition("<details")
    assert "5 layers alike" in head and "/layer/*/attention/self/query" in head
    # one beam in the fold, and one for each of what it folds
    assert head.count('class="beam"') == 1 and source.count('class="beam"') == 6
    assert each.partition("</details>")[0].count('class="beam"') == 5
    assert "6 of them" not in source and "5 of them over whole sequences" in source


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ("", []),
        ("abcdabcd", [Run(0, 8, 1)]),
        ("abcdabcdabcd", [Run(0, 4, 3)]),
        ("xyabcdabcdabcdab", [Run(0, 2, 1), Run(2, 4, 3), Run(14, 2, 1)]),
        ("aaaaaaaaaaaa", [Run(0, 4, 3)]),
        ("ababababab", [Run(0, 10, 1)]),
        ("abcdabcdabcd" + "z" + "efghi" * 4, [Run(0, 4, 3), Run(12, 1, 1), Run(13, 5, 4)]),
    ],
)
def test_runs_of_repeated_items(items: str, expected: list[Run]) -> None:
    assert list(runs(items)) == expected


def test_patterns_of_names() -> None:
    assert pattern(["/layer/0/MatMul_34", "/layer/1/MatMul_143"]) == "/layer/*/MatMul_*"
    assert pattern(["/layer/0/x_7", "/layer/1/x_7"]) == "/layer/*/x_7"
    assert pattern(["a", "b"]) == "a"
