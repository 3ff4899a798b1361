"""Whole jobs from text: tokens are made in the scorer, beside the engine."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scorer_jobs
import token_jobs
from click.testing import CliRunner
from here import here
from small_job import read_parts

import engine
from jobs.cli import main
from pipeline import text as text_of
from pipeline.binding import TokenRules, bind
from pipeline.dataset import Dataset
from pipeline.events import PartWritten, ScorerDied
from pipeline.fingerprint import model_sha256
from pipeline.scorer_spec import ScorerSpec
from pipeline.shards import plan_shards
from pipeline.text import TokenizerFile

CPUS = tuple(sorted(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_jobs.write_texts(tmp_path_factory.mktemp("texts"), token_jobs.texts())


def check(table: pa.Table, texts: dict[int, str]) -> None:
    assert table["id"].to_pylist() == sorted(texts)
    alone = token_jobs.tokenizer(padded=False)
    for row in table.to_pylist():
        want = token_jobs.expected(alone.encode(texts[row["id"]]).ids)
        for name in token_jobs.OUTPUTS:
            np.testing.assert_allclose(np.array(row[name]), want[name], atol=1e-4)


@pytest.mark.skipif(len(CPUS) < 2, reason="two engines need two processors")
def test_text_with_one_engine_and_two(folder: Path, tmp_path: Path) -> None:
    for engines in (1, 2):
        run = here(*token_jobs.words(folder, tmp_path / str(engines), engines=engines))
        assert run.code == 0, run.stderr
    check(read_parts(tmp_path / "1"), dict(enumerate(token_jobs.texts())))
    one, two = (
        [path.read_bytes() for path in sorted((tmp_path / name).glob("part-*"))] for name in "12"
    )
    assert one == two and len(one) == 4


def test_another_tokenizer_is_another_run(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert here(*token_jobs.words(folder, output)).code == 0
    other = tmp_path / "other.json"
    token_jobs.tokenizer(99).save(str(other))
    words = token_jobs.words(folder, output, "--bind", "input_ids=text", "--tokenizer", str(other))
    again = here(*words)
    assert again.code == 1
    assert "tokenizer: the folder was made with another tokenizer" in again.stderr


def test_nulls_and_long_texts_obey_on_error(tmp_path: Path) -> None:
    texts = ["cat", None, "a " * 23, "dog ran"]
    source = token_jobs.write_texts(tmp_path / "in", texts)
    output = tmp_path / "out"
    run = here(*token_jobs.words(source, output))
    where = f"{source / 'data' / 'a.parquet'}: row 1, field 'text': is null"
    assert run.code == 1 and where in run.stderr
    run = here(*token_jobs.words(source, output, "--on-error", "skip", "--restart"))
    assert run.code == 0, run.stderr
    check(read_parts(output), {0: "cat", 3: "dog ran"})
    (rejects,) = (output / "_colonnade" / "rejects").iterdir()
    found = [(r["row"], r["field"], r["reason"]) for r in pq.read_table(rejects).to_pylist()]
    assert found == [
        (1, "text", "is null"),
        (2, "text", "has more tokens, expected at most 24"),
    ]


def test_a_tokenizer_that_does_not_fit_is_refused_before_the_start(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    token_jobs.tokenizer(512).save(str(other))
    more = ("--bind", "input_ids=text", "--tokenizer", str(other))
    run = here(*token_jobs.words(folder, tmp_path / "out", *more))
    assert run.code == 1 and not (tmp_path / "out").exists()
    assert "expected at most 100 tokens" in run.stderr and "got 512" in run.stderr


def test_explain_shows_how_text_is_bound(folder: Path) -> None:
    words = ["explain", str(folder / "model.onnx"), "--input", str(folder / "data")]
    words += ["--bind", "input_ids=text"]
    run = CliRunner().invoke(main, words)
    assert run.exit_code == 1 and "string is no number; give --tokenizer FILE" in run.stderr
    run = CliRunner().invoke(main, [*words, "--tokenizer", str(folder / "tokenizer.json")])
    assert run.exit_code == 0, run.output
    assert "input_ids: int64[N, S] <- text: string (ids of tokens, by tokenizer.json)" in run.output


def spec_of(folder: Path, output: Path) -> tuple[ScorerSpec, Dataset]:
    dataset = Dataset.discover([str(folder / "data")])
    model, path = str(folder / "model.onnx"), str(folder / "tokenizer.json")
    program = engine.compile(model)
    rules = TokenRules(program.id_limits, program.max_tokens, tokenizer=path)
    asked = {"input_ids": "text"}
    binding = bind(dataset.schema, program.inputs, program.outputs, asked, rules=rules)
    spec = ScorerSpec(
        scorer=0, model=model, model_sha256=model_sha256(model), program=program.fingerprint,
        choices=program.choices, switches={}, binding=binding, batch_rows=64, cpus=CPUS[:1],
        node=0, output=str(output), format="parquet", fingerprint="f", on_error="fail",
        batch_tokens=4096, tokenizer=TokenizerFile.of(path),
    )  # fmt: skip
    return ScorerSpec.from_json(spec.to_json()), dataset


def test_tokens_are_made_beside_the_engine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's first run waits until text of the batch behind it was encoded."""
    encoded, names = threading.Semaphore(0), []
    whole, run = text_of.Encoder.__call__, engine.Session.run

    def encode(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        names.append(threading.current_thread().name)
        made = whole(self, batch)
        encoded.release()
        return made

    def run_late(self: Any, feeds: Any) -> Any:
        if not waited:
            waited.append(encoded.acquire(timeout=60) and encoded.acquire(timeout=60))
        return run(self, feeds)

    waited: list[bool] = []
    monkeypatch.setattr(text_of.Encoder, "__call__", encode)
    monkeypatch.setattr(engine.Session, "run", run_late)
    spec, dataset = spec_of(folder, tmp_path / "out")
    events = scorer_jobs.ended(scorer_jobs.score(spec, plan_shards(dataset)))
    assert [type(event) for event in events] == [PartWritten] * 4
    assert waited == [True] and set(names) == {"scorer-read"}


def test_a_tokenizer_that_changed_after_the_start_ends_the_scorer(
    folder: Path, tmp_path: Path
) -> None:
    source = token_jobs.write_texts(tmp_path / "in", ["cat"])
    spec, dataset = spec_of(source, tmp_path / "out")
    token_jobs.tokenizer(98).save(str(source / "tokenizer.json"))
    (died,) = scorer_jobs.ended(scorer_jobs.score(spec, plan_shards(dataset)))
    assert isinstance(died, ScorerDied) and died.refused
    assert "expected the tokenizer that was planned" in died.reason
