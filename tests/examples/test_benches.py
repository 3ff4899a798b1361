"""The benches run to their end on little data. What they measure then means nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import token_jobs
from onnx import numpy_helper

from scripts import bench_pictures
from scripts.bench_minilm import pruned, workload
from scripts.bench_models import calls_a_second, check_agreement
from scripts.bench_scaling import Rate
from scripts.openvino_rival import OpenVino

ROOT = Path(__file__).resolve().parents[2]


def bench(*words: str) -> Any:
    """The JSON that a bench prints."""
    done = subprocess.run(
        [sys.executable, "-m", *words, "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_whole_jobs_are_timed_and_their_outputs_compared(tmp_path: Path) -> None:
    figures = bench(
        "scripts.bench_job", "--rows", "200", "--repeats", "1", "--folder", str(tmp_path)
    )
    assert [f["name"] for f in figures] == ["colonnade", "plain"]
    for figure in figures:
        assert len(figure["all_seconds"]) == 1
        assert figure["rows_a_second"] == pytest.approx(200 / figure["all_seconds"][0])
        assert figure["peak_mb"] > 50
    assert len(list((tmp_path / "rows-200").glob("*.parquet"))) == 8
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_models_are_timed_beside_onnxruntime() -> None:
    cores = ["1", "2"][: len(os.sched_getaffinity(0))]
    words = "--sparsity 0.9 --batch 16 --rounds 1 --seconds 0.01"
    figure, *of_two = bench("scripts.bench_models", *words.split(), "--cores", *cores)
    assert figure["round_trips_ns"] == []
    assert all(len(f["round_trips_ns"]) == f["rounds"] == 1 for f in of_two)
    assert (figure["sparsity"], figure["batch"], figure["cores"]) == (0.9, 16, 1)
    rates = figure["rates"]
    assert list(rates) == ["colonnade", "onnxruntime"]
    ratio = pytest.approx(rates["colonnade"] / rates["onnxruntime"])
    assert figure["ratios"] == {"onnxruntime": ratio}
    assert figure["scaling"] == {"colonnade": 1, "onnxruntime": 1, "registers": 1}


def test_who_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install openvino"):
        OpenVino(Path("m.onnx"), "y", {}, [0], calls_a_second)


@pytest.mark.slow
def test_texts_are_timed_ragged_and_padded(tmp_path: Path) -> None:
    folder = token_jobs.write_texts(tmp_path, token_jobs.texts())
    words = [str(folder / name) for name in ("model.onnx", "tokenizer.json")]
    words += ["--input", str(folder / "data"), "--max-tokens", "24", "--batches", "2"]
    ragged, padded, rival, by_length = bench(
        "scripts.bench_minilm", *words, "--rounds", "1", "--sparsity", "0.9"
    )
    assert (ragged["tokens_saved"], ragged["ragged_ratio"]) == (1, 1)
    assert padded["tokens_saved"] == rival["tokens_saved"] > by_length["tokens_saved"] >= 1
    assert padded["ragged_ratio"] == pytest.approx(
        ragged["tokens_a_second"] / padded["tokens_a_second"]
    )


def test_a_workload_counts_what_each_computes() -> None:
    lengths = [1, 9, *[2] * 31]
    given = workload([np.full(n, 7, np.int64) for n in lengths], ["input_ids"], None)
    assert (given.sentences, given.tokens) == (33, 72)
    assert (given.padded_tokens, given.sorted_tokens) == (32 * 9 + 2, 32 * 2 + 9)
    first = given.padded[0]["input_ids"]
    assert first.shape == (32, 9) and first[0].tolist() == [7] + [0] * 8
    assert given.ragged[0]["input_ids"].lengths.tolist() == lengths[:32]


def test_pruning_zeroes_the_smallest_weights_of_products_alone() -> None:
    before = {t.name: numpy_helper.to_array(t) for t in token_jobs.proto().graph.initializer}
    copy = onnx.ModelProto()
    copy.CopyFrom(token_jobs.proto())
    after = {t.name: numpy_helper.to_array(t) for t in pruned(copy, 0.75).graph.initializer}
    name = next(n for n in after if n.endswith("attention.self.query.weight"))
    assert np.mean(after[name] == 0) == 0.75
    kept = after[name] != 0
    assert np.abs(before[name][~kept]).max() <= np.abs(after[name][kept]).min()
    table = "embeddings.word_embeddings.weight"
    np.testing.assert_array_equal(after[table], before[table])


def test_outputs_that_differ_end_the_bench() -> None:
    y = np.linspace(-1, 1, 64, dtype=np.float32)
    check_agreement(y, y + np.float32(1e-5))
    with pytest.raises(SystemExit, match="outputs differ"):
        check_agreement(y + np.float32(0.01), y)
    with pytest.raises(SystemExit, match="outputs differ"):
        check_agreement(np.full(64, np.nan, np.float32), y)


def test_pictures_are_written_encoded_and_decoded_alike(tmp_path: Path) -> None:
    encoded, pixels = tmp_path / "jpeg.parquet", tmp_path / "pixels.parquet"
    decoder, batch = bench_pictures.write(encoded, pixels, 3)
    made = decoder(batch)
    table = pq.read_table(pixels)
    assert table["id"].to_pylist() == batch.column("id").to_pylist() == [0, 1, 2]
    side = bench_pictures.SIDE
    found = table["input"].combine_chunks().flatten().to_numpy().reshape(3, 3, side, side)
    column = next(n for n in made.schema.names if "pixels" in n)
    assert found.ravel().tobytes() == made.column(column).flatten().to_numpy().tobytes()
    assert found.std() > 10 and (found[0] != found[1]).any()
    assert 20_000 < batch.column("input").nbytes / 3 < 200_000, "as large as a photograph"


def test_a_job_of_pictures_is_held_to_decoding_and_engine_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rates = {
        "decoding alone": Rate(600.0, 3000.0),
        "engine alone": Rate(300.0, 6000.0),
        "job of pixels": Rate(280.0, 6500.0),
        "job of JPEGs": Rate(150.0, 10000.0),
    }
    bench_pictures.report(rates)
    told = capsys.readouterr().out
    assert "without a wait: 200 pictures/s, 9,000 µs" in told
    assert "job of JPEGs / that: 0.75 by the clock" in told
    assert "that / job of JPEGs: 0.90 by CPU" in told
