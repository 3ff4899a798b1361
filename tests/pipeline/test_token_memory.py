"""What a scorer of sequences holds at most, in a process of its own, against its price."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scorer_jobs
import token_jobs

import engine
from pipeline.batches import default_batch_rows, default_batch_tokens
from pipeline.binding import TokenRules, bind
from pipeline.dataset import Dataset
from pipeline.fingerprint import model_sha256
from pipeline.plan import price
from pipeline.scorer_spec import ScorerSpec
from pipeline.startup import open_course
from pipeline.text import TokenizerFile
from scripts.models.bert import bert
from scripts.models.bert_weights import Size, random_weights

SIZE = Size(layers=1, hidden=64, heads=4, feed_forward=64, vocabulary=1000, positions=512)
CPUS = tuple(sorted(os.sched_getaffinity(0)))[:1]
LENGTHS = {
    "short": np.random.default_rng(0).integers(1, 60, 8000),
    "long last": np.concatenate([np.full(7500, 4), np.full(500, 500)]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "bert.onnx"
    onnx.save(bert(SIZE, random_weights(SIZE, 0.5), "fused"), path)
    return path


def write(path: Path, lengths: np.ndarray) -> Dataset:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = np.random.default_rng(1).integers(0, SIZE.vocabulary, offsets[-1])
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
    pq.write_table(pa.table({"input_ids": lists}), path)
    return Dataset.discover([str(path)])


def write_texts(path: Path) -> Dataset:
    """3,000 texts of up to 300 words, and one of 300,000."""
    random = np.random.default_rng(2)
    counts = [*random.integers(0, 300, 3000), 300_000]
    texts = [" ".join(random.choice(token_jobs.WORDS, n)) for n in counts]
    pq.write_table(pa.table({"input_ids": texts}), path)
    return Dataset.discover([str(path)])


def spec_of(
    model: Path, dataset: Dataset, output: Path, program: engine.Program, tokenizer: Path | None
) -> ScorerSpec:
    file = None if tokenizer is None else TokenizerFile.of(str(tokenizer))
    rules = TokenRules(
        program.id_limits, program.max_tokens, too_long="truncate", tokenizer=str(tokenizer or "")
    )
    binding = bind(dataset.schema, program.inputs, program.outputs, rules=rules)
    return ScorerSpec(
        scorer=0, model=str(model), model_sha256=model_sha256(str(model)),
        program=program.fingerprint, choices=program.choices, switches={}, binding=binding,
        batch_rows=default_batch_rows(dataset, binding), cpus=CPUS, node=0, output=str(output),
        format="parquet", fingerprint="f", on_error="fail",
        batch_tokens=default_batch_tokens(binding), tokenizer=file,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [*LENGTHS, "text"])
def test_memory_stays_under_the_price(model: Path, tmp_path: Path, kind: str) -> None:
    path, tokenizer = tmp_path / "a.parquet", None
    if kind == "text":
        dataset, tokenizer = write_texts(path), tmp_path / "tokenizer.json"
        token_jobs.tokenizer(SIZE.vocabulary).save(str(tokenizer))
    else:
        dataset = write(path, LENGTHS[kind])
    program = engine.compile(str(model))
    spec = spec_of(model, dataset, tmp_path / "out", program, tokenizer)
    open_course(spec)[0].close()  # compiles kernels, which takes memory only once
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_json()))
    done = subprocess.run(
        [sys.executable, scorer_jobs.__file__, tmp_path / "spec.json", tmp_path / "a.parquet"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ready, peak = map(int, done.stdout.split())
    bound = price(
        dataset, program, spec.binding, engines=1, threads=1,
        batch_rows=spec.batch_rows, batch_tokens=spec.batch_tokens, tokenizer=spec.tokenizer,
    )  # fmt: skip
    assert ready <= bound.interpreter + bound.weights + bound.session
    assert peak <= bound.engine
    held = bound.reading + bound.outputs + bound.writing
    assert peak - ready <= bound.session + held
    assert peak - ready > held // 30, "a bound that no machine has is no bound"


def test_a_batch_is_cut_and_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    dataset = write(tmp_path / "a.parquet", LENGTHS["short"][:200])
    program = engine.compile(str(model))
    written = []
    for tokens in (1, 500, 1 << 20):
        spec = spec_of(model, dataset, tmp_path / str(tokens), program, None)
        events = scorer_jobs.score(
            replace(spec, batch_tokens=tokens), scorer_jobs.plan_shards(dataset)
        )
        (end,) = scorer_jobs.ended(events)
        part = getattr(end, "part", None)
        assert part is not None, end
        written.append((Path(spec.output) / part.temp).read_bytes())
    assert written[0] == written[1] == written[2]
