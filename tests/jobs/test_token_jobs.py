"""Whole jobs of a small transformer: rows of any length, nothing padded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import token_jobs
from click.testing import CliRunner
from here import here
from small_job import read_parts

from jobs.cli import main

two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_jobs.write(tmp_path_factory.mktemp("tokens"), token_jobs.rows())


def check(table: pa.Table, rows: dict[int, list[int]]) -> None:
    """The outputs of those rows, by id, and no others."""
    assert table["id"].to_pylist() == sorted(rows)
    for row in table.to_pylist():
        want = token_jobs.expected(rows[row["id"]])
        hidden = np.array(row["last_hidden_state"], np.float32)
        assert hidden.shape == want["last_hidden_state"].shape
        np.testing.assert_allclose(hidden, want["last_hidden_state"], atol=1e-4)
        embedding = np.array(row["sentence_embedding"], np.float32)
        np.testing.assert_allclose(embedding, want["sentence_embedding"], atol=1e-4)


def parts(output: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(output.glob("part-*"))]


@two_cpus
def test_lists_of_any_length_with_one_engine_and_two(folder: Path, tmp_path: Path) -> None:
    for engines in (1, 2):
        run = here(*token_jobs.words(folder, tmp_path / str(engines), engines=engines))
        assert run.code == 0, run.stderr
    check(read_parts(tmp_path / "1"), dict(enumerate(token_jobs.rows())))
    assert len(parts(tmp_path / "1")) == 4
    assert parts(tmp_path / "1") == parts(tmp_path / "2")


def outputs_by_tokens(output: Path) -> dict[tuple[int, ...], Any]:
    """Outputs to the last bit, by the ids that they were computed from."""
    table = read_parts(output)
    keys = [tuple(row) for row in table["input_ids"].to_pylist()]
    return dict(zip(keys, table.drop_columns(["id", "input_ids"]).to_pylist(), strict=True))


def test_a_row_has_the_same_bytes_wherever_it_stands(folder: Path, tmp_path: Path) -> None:
    rows = token_jobs.rows()
    order = np.random.default_rng(1).permutation(len(rows))
    other = token_jobs.write(tmp_path / "other", [rows[i] for i in order])
    found = []
    for source, more in ((folder, ()), (other, ("--batch-rows", "7"))):
        output = tmp_path / f"out-{len(found)}"
        keep = ("--keep", "id,input_ids", *more)
        run = here(*token_jobs.words(source, output, *keep))
        assert run.code == 0, run.stderr
        found.append(outputs_by_tokens(output))
    assert found[0] == found[1]


def plan_of(folder: Path, *more: str) -> Any:
    words = token_jobs.words(folder, folder / "never", *more, "--dry-run", "--json")
    run = CliRunner().invoke(main, words)
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)["plan"]


def test_the_plan_says_what_lengths_tell(folder: Path) -> None:
    words = token_jobs.words(folder, folder / "never", "--dry-run")
    words[words.index("json")] = "none"
    run = CliRunner().invoke(main, words)
    assert "attention_mask: known from the lengths" in run.output
    assert "lengths: at most 24 tokens, longer rows are bad rows" in run.output
    assert "run by 32,768 tokens" in run.output
    assert plan_of(folder)["batch_tokens"] == 32_768


BAD = [None, [], [3, None], [100], [-1], list(range(25)), [7] * 24]
REASONS = [
    "is null",
    "is an empty sequence, expected a token or more",
    "holds a null",
    "holds the id 100, expected ids from 0 to 99",
    "holds the id -1, expected ids from 0 to 99",
    "has 25 tokens, expected at most 24",
]


@pytest.mark.parametrize("on_error", ["skip", "null"])
def test_bad_rows_are_listed(tmp_path: Path, on_error: str) -> None:
    folder = token_jobs.write(tmp_path / "in", [[5, 6], *BAD])
    output = tmp_path / "out"
    run = here(*token_jobs.words(folder, output, "--on-error", on_error))
    assert run.code == 0, run.stderr
    table = read_parts(output)
    good = {0: [5, 6], 7: [7] * 24}
    if on_error == "null":
        assert table["last_hidden_state"].is_null().to_pylist() == [i not in good for i in range(8)]
        assert table["sentence_embedding"].is_null().to_pylist()[1:7] == [True] * 6
        table = table.filter(table["last_hidden_state"].is_valid())
    check(table, good)
    (rejects,) = (output / "_colonnade" / "rejects").iterdir()
    found = pq.read_table(rejects).to_pylist()
    assert [(r["row"], r["field"], r["reason"]) for r in found] == [
        (i, "input_ids", reason) for i, reason in enumerate(REASONS, 1)
    ]
    assert {r["file"] for r in found} == {str(folder / "data" / "a.parquet")}


@pytest.mark.parametrize("number", range(len(REASONS)))
def test_a_bad_row_stops_a_job_by_its_file_and_row(tmp_path: Path, number: int) -> None:
    folder = token_jobs.write(tmp_path / "in", [[5, 6], [4], BAD[number]])
    run = here(*token_jobs.words(folder, tmp_path / "out"))
    assert run.code == 1
    where = f"{folder / 'data' / 'a.parquet'}: row 2, field 'input_ids': {REASONS[number]}"
    assert where in run.stderr


def test_long_rows_are_cut_if_asked(tmp_path: Path) -> None:
    folder = token_jobs.write(tmp_path / "in", [list(range(99)), [5]])
    output = tmp_path / "out"
    run = here(*token_jobs.words(folder, output, "--too-long", "truncate"))
    assert run.code == 0, run.stderr
    check(read_parts(output), {0: list(range(24)), 1: [5]})
    again = here(*token_jobs.words(folder, output))
    assert again.code == 1
    assert "lengths: the folder has at most 24 tokens, longer rows are cut" in again.stderr
    more = ("--too-long", "truncate", "--max-tokens", "3", "--restart")
    assert here(*token_jobs.words(folder, output, *more)).code == 0
    check(read_parts(output), {0: [0, 1, 2], 1: [5]})


def test_rows_of_one_length_give_arrays(tmp_path: Path) -> None:
    rows = [list(range(i, i + 6)) for i in range(5)]
    folder = token_jobs.write(tmp_path / "in", rows, pa.list_(pa.int32(), 6))
    run = here(*token_jobs.words(folder, tmp_path / "out"))
    assert run.code == 0, run.stderr
    table = read_parts(tmp_path / "out")
    assert list(table.schema.field("last_hidden_state").type.shape) == [6, 32]
    hidden = np.stack(
        [row.to_numpy_ndarray() for row in table["last_hidden_state"].chunks]
    ).reshape(5, 6, 32)
    want = np.stack([token_jobs.expected(row)["last_hidden_state"] for row in rows])
    np.testing.assert_allclose(hidden, want, atol=1e-4)


def test_masks_bound_by_hand_leave_tokens_out(tmp_path: Path) -> None:
    folder = token_jobs.write(tmp_path / "in", [])
    ids = [[9, 8, 7, 5, 5], [4, 3, 5]]
    mask = [[1, 1, 1, 0, 0], [1, 1, 0]]
    table = pa.table({"id": [0, 1], "input_ids": ids, "m": mask})
    pq.write_table(table, folder / "data" / "a.parquet")
    more = ("--bind", "attention_mask=m", "--keep", "id")
    run = here(*token_jobs.words(folder, tmp_path / "out", *more))
    assert run.code == 0, run.stderr
    found = read_parts(tmp_path / "out")["sentence_embedding"].to_pylist()
    for row, want in zip(found, ([9, 8, 7], [4, 3]), strict=True):
        np.testing.assert_allclose(row, token_jobs.expected(want)["sentence_embedding"], atol=1e-4)
