"""The sentences that ship, and how they are found in a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from examples.minilm.make_sentences import FILES, ROW_GROUPS, extract, write
from scripts.digits import EXAMPLE

DATA = EXAMPLE.parent / "minilm" / "data"

PAGE = """\
The "with" statement
********************

The "with" statement wraps a block.  It is older (e.g. Python 2 had it)
than you think!

   with_stmt ::= "with" suite

1. The first step is taken now.

2. The second step is not.

* A bullet has its own sentence. and this goes on
* Another bullet has one.

object.__len__(self)
   Called to say how many items there are.

   >>> print("This is no prose.")

   Sheet   Meaning of it.

1 + 1, x = 2, y = 3, z = 4. This stays a sentence.

The first step is taken now.
"""


def test_prose_is_taken_and_nothing_else() -> None:
    assert extract({"page": PAGE}) == [
        'The "with" statement wraps a block.',
        "It is older (e.g. Python 2 had it) than you think!",
        "The first step is taken now.",
        "The second step is not.",
        "Another bullet has one.",
        "Called to say how many items there are.",
        "This stays a sentence.",
    ]


def test_a_long_paragraph_comes_whole_after_its_sentences() -> None:
    one = "This sentence says over and over " + "again " * 40 + "that it is long."
    two = one.replace("long", "nearly over")
    assert extract({"page": f"{one} {two}"}) == [one, two, f"{one} {two}"]
    assert extract({"page": f"{one} {one}"}) == [one, f"{one} {one}"]
    assert extract({"page": one}) == [one]
    assert extract({"page": " ".join([one, two, one])}) == [one, two], "too long"


def test_the_shipped_texts_are_many_distinct_and_of_mixed_length() -> None:
    table = ds.dataset(DATA, format="parquet").to_table().sort_by("id")
    assert table.schema.equals(pa.schema([("id", pa.int64()), ("text", pa.string())]))
    texts = table["text"].to_pylist()
    assert table["id"].to_pylist() == list(range(len(texts)))
    assert len(set(texts)) == len(texts) >= 2000
    words = np.array([len(text.split()) for text in texts])
    assert words.min() == 3 and words.max() == 120
    assert np.median(words) < 20 and np.sum(words > 60) > 50
    assert all(text == " ".join(text.split()) for text in texts)


@pytest.mark.parametrize("path", sorted(DATA.glob("*.parquet")), ids=lambda p: p.name)
def test_each_file_can_be_split(path: Path) -> None:
    assert len(list(DATA.iterdir())) == FILES, "provenance and licence stand beside the dataset"
    assert pq.ParquetFile(path).num_row_groups == ROW_GROUPS


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    texts = [f"Sentence number {i} is here." for i in range(10)]
    write(texts, tmp_path / "data")
    table = ds.dataset(tmp_path / "data", format="parquet").to_table().sort_by("id")
    assert table["text"].to_pylist() == texts
    assert len(list((tmp_path / "data").iterdir())) == FILES
