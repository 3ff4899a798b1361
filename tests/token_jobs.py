"""A small transformer as a job: random weights, rows of any length, and onnxruntime as oracle."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import small_models

from scripts.models.bert import bert
from scripts.models.bert_weights import Size, random_weights

Array = np.ndarray[Any, np.dtype[Any]]
SIZE = Size(layers=2, hidden=32, heads=4, feed_forward=64, vocabulary=100, positions=24)
OUTPUTS = ("last_hidden_state", "sentence_embedding")
KIND = pa.list_(pa.int64())
ROWS, GROUP = 120, 30


@cache
def proto() -> onnx.ModelProto:
    return bert(SIZE, random_weights(SIZE, 0.5), "fused", outputs=OUTPUTS)


def rows() -> list[list[int]]:
    """Ids of sequences of 1 to 24 tokens."""
    random = np.random.default_rng(4)
    lengths = random.integers(1, SIZE.positions + 1, ROWS)
    return [random.integers(0, SIZE.vocabulary, n).tolist() for n in lengths]


def expected(ids: list[int]) -> dict[str, Array]:
    """The outputs of one row, alone, without padding."""
    array = np.array([ids], np.int64)
    feeds = {
        "input_ids": array,
        "attention_mask": np.ones_like(array),
        "token_type_ids": np.zeros_like(array),
    }
    return {name: out[0] for name, out in small_models.onnxruntime_run(proto(), feeds).items()}


WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far", "away", "from", "it"]


def tokenizer(size: int = SIZE.vocabulary, *, padded: bool = True) -> Any:
    """Words and letters; the file says that everything is padded and cut, as some do."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, *(f"##{c}" for c in letters)]
    names = list(dict.fromkeys(names))
    names += [f"unused{i}" for i in range(size - len(names))]
    made = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    if padded:
        made.enable_padding(length=20)
        made.enable_truncation(8)
    return made


def texts() -> list[str]:
    """Of 0 to 18 words."""
    random = np.random.default_rng(6)
    return [" ".join(random.choice(WORDS, n)) for n in random.integers(0, 19, ROWS)]


def write_texts(folder: Path, given: list[Any], kind: pa.DataType | None = None) -> Path:
    """The same as `write`, with the field text, and tokenizer.json."""
    write(folder, [])
    table = pa.table({"id": np.arange(len(given)), "text": pa.array(given, kind or pa.string())})
    pq.write_table(table, folder / "data" / "a.parquet", row_group_size=GROUP)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def write(folder: Path, given: list[Any], kind: pa.DataType = KIND) -> Path:
    """model.onnx, and data/a.parquet with the fields id and input_ids; gives the folder."""
    folder.mkdir(exist_ok=True)
    onnx.save(proto(), folder / "model.onnx")
    write_data(folder / "data" / "a.parquet", given, kind)
    return folder


def write_data(path: Path, given: list[Any], kind: pa.DataType = KIND) -> None:
    path.parent.mkdir(exist_ok=True)
    table = pa.table({"id": np.arange(len(given)), "input_ids": pa.array(given, kind)})
    pq.write_table(table, path, row_group_size=GROUP)


def words(folder: Path, output: Path, *more: str, engines: int = 1) -> list[str]:
    if (folder / "tokenizer.json").exists() and "--tokenizer" not in more:
        more = (*more, "--tokenizer", str(folder / "tokenizer.json"), "--bind", "input_ids=text")
    return [
        "run", "--model", str(folder / "model.onnx"), "--input", str(folder / "data"),
        "--output", str(output), "--engines", str(engines), "--threads", "1",
        "--progress", "json", *more,
    ]  # fmt: skip
