"""all-MiniLM-L6-v2 from its weights, and its job: the cosines that its makers published."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import token_jobs
from onnx.reference import ReferenceEvaluator
from small_job import colonnade, read_parts
from small_models import onnxruntime_session

import engine
from engine.segments import Fallback
from engine.stages import compile_stage, cut
from examples.minilm.make_model import (
    PACKAGE,
    SPELLINGS,
    find_package,
    minilm,
    plain_tokenizer,
    read_safetensors,
    read_size,
)
from scripts.digits import EXAMPLE
from scripts.models.bert import bert
from scripts.models.bert_weights import random_weights

Array = np.ndarray[Any, np.dtype[Any]]

FOLDER = find_package() or Path()
DATA = EXAMPLE.parent / "minilm" / "data"

SENTENCES = (
    "That is a happy person",
    "That is a happy dog",
    "That is a very happy person",
    "Today is a sunny day",
)
COSINES = (1, 0.6945773, 0.9429151, 0.2568761)
"""Of the first sentence to each."""

needs_weights = pytest.mark.skipif(
    find_package() is None, reason=f"{PACKAGE} is not installed; extra minilm"
)


@cache
def tokenizer() -> Any:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers; extra text")
    return tokenizers.Tokenizer.from_str(plain_tokenizer(FOLDER))


def feeds(*texts: str) -> dict[str, Array]:
    """Tokens padded to the longest of the texts."""
    found = tokenizer().encode_batch(list(texts))
    shape = (len(found), max(len(text.ids) for text in found))
    arrays = {}
    for name, at in (
        ("input_ids", "ids"),
        ("attention_mask", "attention_mask"),
        ("token_type_ids", "type_ids"),
    ):
        arrays[name] = np.zeros(shape, np.int64)
        for row, text in zip(arrays[name], found, strict=True):
            row[: len(text.ids)] = getattr(text, at)
    return arrays


@cache
def session(spelling: str) -> Any:
    return onnxruntime_session(minilm(FOLDER, spelling))


def embed(spelling: str, *texts: str) -> Array:
    (found,) = session(spelling).run(["sentence_embedding"], feeds(*texts))
    return np.asarray(found)


@needs_weights
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_published_cosines_padded_and_alone(spelling: str) -> None:
    padded = embed(spelling, *SENTENCES, "A sentence that is longer than all the others here.")[:4]
    alone = np.concatenate([embed(spelling, text) for text in SENTENCES])
    for found in (padded, alone):
        assert found.shape == (4, 384) and found.dtype == np.float32
        np.testing.assert_allclose(found @ found[0], COSINES, atol=1e-5)


@needs_weights
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_onnx_reference_gives_them_too(spelling: str) -> None:
    (found,) = ReferenceEvaluator(minilm(FOLDER, spelling)).run(None, feeds(*SENTENCES))
    np.testing.assert_allclose(found @ found[0], COSINES, atol=1e-5)


@needs_weights
def test_spellings_agree_on_real_sentences() -> None:
    texts = ds.dataset(DATA, format="parquet").head(32)["text"].to_pylist()
    one, other = (embed(spelling, *texts) for spelling in SPELLINGS)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.linalg.norm(one, axis=1) == pytest.approx(1, abs=1e-5)


@needs_weights
def test_the_tokenizer_pads_nothing_and_cuts_at_256() -> None:
    (short,), (long,) = (tokenizer().encode_batch([t]) for t in ("happy", "happy " * 400))
    assert (len(short.ids), len(long.ids)) == (3, 256)


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SPELLING.onnx and tokenizer.json, as the README makes them."""
    folder = tmp_path_factory.mktemp("minilm")
    for spelling in SPELLINGS:
        onnx.save(minilm(FOLDER, spelling), folder / f"{spelling}.onnx")
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def job(model: Path, files: Path, data: Path, output: Path, most: int = 256) -> Array:
    """The embeddings of data's texts, in order of id, by `colonnade run`."""
    run = colonnade(
        "run", "--model", str(model), "--input", str(data), "--output", str(output),
        "--tokenizer", str(files / "tokenizer.json"), "--bind", "input_ids=text",
        "--too-long", "truncate", "--max-tokens", str(most), "--keep", "id",
        "--engines", "1", "--threads", "1", "--progress", "none",
    )  # fmt: skip
    assert run.code == 0, run.stderr
    table = read_parts(output).combine_chunks()
    assert table["id"].to_pylist() == list(range(len(table)))
    values = table["sentence_embedding"].combine_chunks()
    return np.asarray(values.flatten().to_numpy().reshape(len(table), -1))


def write_texts(folder: Path, texts: tuple[str, ...] | list[str], rows: int = 1000) -> Path:
    folder.mkdir()
    table = pa.table({"id": np.arange(len(texts)), "text": pa.array(texts)})
    pq.write_table(table, folder / "texts.parquet", row_group_size=rows)
    return folder


@needs_weights
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_job_gives_the_published_cosines(
    model_files: Path, tmp_path: Path, spelling: str
) -> None:
    data = write_texts(tmp_path / "in", SENTENCES)
    found = job(model_files / f"{spelling}.onnx", model_files, data, tmp_path / "out")
    np.testing.assert_allclose(found @ found[0], COSINES, atol=1e-5)


@needs_weights
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_engine_gives_them_ragged_and_padded_without_a_fallback(
    model_files: Path, spelling: str
) -> None:
    program = engine.compile(model_files / f"{spelling}.onnx")
    assert not [s for s in program.segments if isinstance(s, Fallback)]
    arrays = feeds(*SENTENCES, "A sentence that is longer than all the others here.")
    pairs = zip(arrays["input_ids"], arrays["attention_mask"], strict=True)
    ragged = engine.Ragged.of([ids[mask == 1] for ids, mask in pairs])
    with engine.Session(program) as session:
        for given in (arrays, {"input_ids": ragged}):
            found = session.run(given)["sentence_embedding"][:4]
            np.testing.assert_allclose(found @ found[0], COSINES, atol=1e-5)


@needs_weights
def test_two_stages_give_the_bytes_of_one(model_files: Path) -> None:
    graph = engine.load(model_files / "fused.onnx")
    whole = engine.compile(graph)
    known: dict[str, Any] = feeds(*SENTENCES)
    with engine.Session(whole, cpus=[0]) as session:
        want = session.run(known)
    programs = [compile_stage(stage, whole.choices) for stage in cut(graph, 2)]
    for program in programs:
        given = {v.name: known[v.name] for v in program.inputs}
        with engine.Session(program, cpus=[0]) as session:
            known |= session.run(given)
    assert all(program.held_nbytes < 0.75 * whole.held_nbytes for program in programs)
    for name, array in want.items():
        assert np.asarray(known[name]).tobytes() == np.asarray(array).tobytes()


def expected(texts: list[str]) -> Array:
    """What onnxruntime makes of them."""
    lengths = [len(encoded.ids) for encoded in tokenizer().encode_batch(texts)]
    order = np.argsort(lengths)  # hardly any padding, so a third less time
    found = np.empty((len(texts), 384), np.float32)
    for first in range(0, len(order), 8):
        rows = order[first : first + 8]
        found[rows] = embed("fused", *(texts[i] for i in rows))
    return found


@needs_weights
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_over_all_texts_agrees_with_onnxruntime(model_files: Path, tmp_path: Path) -> None:
    """In one spelling: both become the same program, as their cosines show."""
    spelling = "decomposed"
    found = job(model_files / f"{spelling}.onnx", model_files, DATA, tmp_path / "out")
    texts = ds.dataset(DATA, format="parquet").to_table()["text"].to_pylist()
    assert found.shape == (len(texts), 384) and len(found) >= 2000
    want = expected(texts)
    np.testing.assert_allclose(found, want, atol=1e-4)
    print(f"{spelling}: {np.abs(found - want).max():.2g} from onnxruntime at most")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_small_model_of_each_spelling_makes_the_job(tmp_path: Path, spelling: str) -> None:
    """The same graphs with random weights and other tokens, where MiniLM's are not installed."""
    size = token_jobs.SIZE
    style, weights = SPELLINGS[spelling], random_weights(size, 0)
    model = bert(size, weights, style, outputs=("sentence_embedding",), gelu="erf")
    onnx.save(model, tmp_path / "small.onnx")
    token_jobs.tokenizer().save(str(tmp_path / "tokenizer.json"))
    texts = token_jobs.texts()
    data = write_texts(tmp_path / "in", texts, rows=50)
    alone = token_jobs.tokenizer(padded=False)
    small = onnxruntime_session(model)
    found = job(tmp_path / "small.onnx", tmp_path, data, tmp_path / "out", size.positions)
    for row, text in zip(found, texts, strict=True):
        ids = np.array([alone.encode(text).ids], np.int64)
        given = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
        np.testing.assert_allclose(row, small.run(None, given)[0][0], atol=1e-4)


def safetensors(path: Path, entry: dict[str, Any], data: bytes) -> Path:
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def test_safetensors_are_read(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2, 1], "data_offsets": [4, 12]}
    path = safetensors(tmp_path / "w", entry, np.array([9, 1.5, -2], "<f4").tobytes())
    found = read_safetensors(path)
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"], np.array([[1.5], [-2]], np.float32))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F8", "shape": [2], "data_offsets": [0, 2]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
    ],
    ids=["dtype", "shape", "cut short"],
)
def test_a_tensor_that_is_not_whole_is_named(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = safetensors(tmp_path / "w", entry, bytes(8))
    with pytest.raises(ValueError, match="w: w: expected whole F32, F16, I64"):
        read_safetensors(path)


def test_another_file_is_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"version https://git-lfs.example/spec/v1")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        read_safetensors(tmp_path / "w")


def test_a_config_of_another_network_is_refused(tmp_path: Path) -> None:
    config = {"hidden_act": "silu", "position_embedding_type": "absolute"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="expected gelu and absolute positions"):
        read_size(tmp_path / "config.json")
