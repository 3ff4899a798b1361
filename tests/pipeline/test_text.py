"""Text into tokens: what an Encoder makes of a batch, and which tokenizers are refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import token_jobs

from engine.graph import Value
from engine.ragged import Ragged
from pipeline import text as text_of
from pipeline.binding import Binding, TokenRules, bind
from pipeline.errors import BindingError
from pipeline.tensors import bad_rows, to_feeds, without_rows
from pipeline.text import Encoder, TokenizerFile, check_fits
from scripts.digits import EXAMPLE

INT64 = np.dtype(np.int64)
INPUTS = tuple(
    Value(n, INT64, ("N", "S")) for n in ("input_ids", "attention_mask", "token_type_ids")
)
KINDS = (
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFile:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    token_jobs.tokenizer().save(str(path))
    return TokenizerFile.of(str(path))


def bound(kind: Any = None, **rules: Any) -> Binding:
    schema = pa.schema([("words", kind or pa.string()), ("attention_mask", pa.string())])
    found = TokenRules({"input_ids": 100, "token_type_ids": 2}, 24, tokenizer="t.json", **rules)
    return bind(schema, INPUTS, (), {"input_ids": "words"}, rules=found)


def batch_of(rows: Any, kind: Any = None) -> pa.RecordBatch:
    column = rows if isinstance(rows, pa.Array) else pa.array(rows, kind or pa.string())
    return pa.record_batch({"words": column, "attention_mask": ["x"] * len(column)})


def ids(feeds: dict[str, Any], name: str = "input_ids") -> list[list[int]]:
    assert isinstance(feeds[name], Ragged)
    return [row.tolist() for row in feeds[name]]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_ids_and_types_are_those_of_the_tokenizer(
    file: TokenizerFile, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_of, "CHUNK_ROWS", 7)
    texts = token_jobs.texts()
    binding = bound(kind)
    assert [f.input for f in binding.fields] == ["input_ids", "token_type_ids"]
    assert binding.known == ("attention_mask",), "a field of its name is of other tokens"
    assert binding.columns == ("words", "attention_mask")
    batch = Encoder(file, binding)(batch_of(["x", *texts], kind).slice(1))
    assert bad_rows(batch, binding) == ()
    feeds = to_feeds(batch, binding)
    alone = token_jobs.tokenizer(padded=False)
    assert ids(feeds) == [alone.encode(text).ids for text in texts]
    assert ids(feeds, "token_type_ids") == [[0] * len(row) for row in ids(feeds)]


def test_texts_that_cannot_be_fed_say_why(file: TokenizerFile) -> None:
    raw = pa.array([b"cat", None, b"\xff", b"a " * 23, b"a " * 22, b""], pa.binary())
    column = pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:], raw.buffers()[0])
    binding = bound()
    batch = Encoder(file, binding)(batch_of(column))
    bad = bad_rows(batch, binding)
    assert [(b.row, b.field, b.reason) for b in bad] == [
        (1, "words", "is null"),
        (2, "words", "is no valid UTF-8"),
        (3, "words", "has more tokens, expected at most 24"),
    ]
    assert [len(row) for row in ids(to_feeds(without_rows(batch, bad), binding))] == [3, 24, 2]


def test_long_texts_keep_their_special_tokens_when_cut(file: TokenizerFile) -> None:
    binding = bound(too_long="truncate", max_tokens=5)
    batch = Encoder(file, binding)(batch_of(["cat sat on the mat", "cat"]))
    alone = token_jobs.tokenizer(padded=False)
    names = [[alone.id_to_token(i) for i in row] for row in ids(to_feeds(batch, binding))]
    assert names == [["[CLS]", "cat", "sat", "on", "[SEP]"], ["[CLS]", "cat", "[SEP]"]]


@pytest.mark.parametrize("too_long", ["reject", "truncate"])
def test_only_the_beginning_of_a_very_long_text_is_encoded(
    file: TokenizerFile, too_long: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_of, "CHUNK_LETTERS", 100)
    binding = bound(too_long=too_long)
    sparse = "cat" + " " * 500 + "dog"
    batch = Encoder(file, binding)(batch_of(["cat " * 400, sparse, "dog"]))
    bad = bad_rows(batch, binding)
    assert [b.row for b in bad] == ([0] if too_long == "reject" else [])
    found = ids(to_feeds(without_rows(batch, bad), binding))
    alone = token_jobs.tokenizer(padded=False)
    assert found[-2:] == [alone.encode(text).ids for text in (sparse, "dog")]
    assert [len(row) for row in found[:-2]] == ([] if bad else [24])


def test_real_texts_are_cut_as_the_tokenizer_cuts_them(file: TokenizerFile) -> None:
    batch = pq.read_table(EXAMPLE.parent / "minilm" / "data" / "sentences-0.parquet")
    texts = batch["text"].to_pylist()
    binding = bound(too_long="truncate")
    encoded = Encoder(file, binding)(batch_of(texts))
    alone = token_jobs.tokenizer(padded=False)
    alone.enable_truncation(24)
    found = ids(to_feeds(encoded, binding))
    assert found == [alone.encode(text).ids for text in texts]
    assert max(map(len, found)) == 24 > min(map(len, found))


def test_an_empty_batch_has_the_columns(file: TokenizerFile) -> None:
    binding = bound()
    batch = Encoder(file, binding)(batch_of([]))
    assert ids(to_feeds(batch, binding)) == []


def test_ids_that_the_tables_do_not_have_are_bad_rows_too(file: TokenizerFile) -> None:
    rules = TokenRules({"input_ids": 5}, 24, tokenizer="t.json")
    binding = bind(batch_of([]).schema, INPUTS, (), {"input_ids": "words"}, rules=rules)
    (bad,) = bad_rows(Encoder(file, binding)(batch_of(["mat"])), binding)
    assert bad.reason.startswith("holds the id 9, expected ids from 0 to 4")


def test_a_larger_vocabulary_than_the_models_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    token_jobs.tokenizer(1234).save(str(path))
    with pytest.raises(BindingError, match=r"expected at most 100 tokens.*got 1,234; is it the mo"):
        check_fits(TokenizerFile.of(str(path)), bound())
    token_jobs.tokenizer(100).save(str(path))
    check_fits(TokenizerFile.of(str(path)), bound())


def test_special_tokens_have_to_leave_room(file: TokenizerFile) -> None:
    with pytest.raises(BindingError, match="--max-tokens 2: expected more than the 2 special"):
        check_fits(file, bound(max_tokens=2))


@pytest.mark.parametrize("content", [b"{}", b"no", b"\xff"])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(BindingError, match=r"t\.json: expected a tokenizer\.json of"):
        TokenizerFile.of(str(path)).load()
    with pytest.raises(BindingError, match="none: cannot be read: No such file"):
        TokenizerFile.of(str(tmp_path / "none"))


def test_a_tokenizer_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    token_jobs.tokenizer().save(str(path))
    file = TokenizerFile.of(str(path))
    token_jobs.tokenizer(99).save(str(path))
    with pytest.raises(BindingError, match="expected the tokenizer that was planned, got another"):
        file.load()


def test_a_missing_package_is_named_with_its_extra(
    file: TokenizerFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BindingError, match=r"pip install 'colonnade\[text\]'"):
        file.load()
