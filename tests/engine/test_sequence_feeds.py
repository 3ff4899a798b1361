"""Feeds of sequences: what is refused, by row and token, and what lengths tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from exporters import SIZE, WEIGHTS, batch
from small_models import onnxruntime_run

import engine
from engine.errors import FeedError
from engine.program import Program
from engine.ragged import Ragged
from engine.reader import graph_of
from scripts.models.bert import OUTPUTS, bert

named = pytest.mark.parametrize
ALL = tuple(OUTPUTS)
LENGTHS = (75, 1, 33, 16, 17, 2, 48)


def run(program: Program, feeds: Mapping[str, Any], cpus: int = 1) -> dict[str, Any]:
    with engine.Session(program, cpus=range(cpus)) as session:
        return session.run(feeds)


def ragged(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    """The tokens of `batch`, without its padding."""
    padded = batch(lengths)
    mask = padded.pop("attention_mask") == 1
    return {n: Ragged.of([a[m] for a, m in zip(x, mask, strict=True)]) for n, x in padded.items()}


# ---- feeds --------------------------------------------------------------------------------------

IDS = [[1, 2, 3], [4, 5], [6]]


def lists(name: str, rows: list[list[int]], dtype: Any = np.int64) -> dict[str, Any]:
    feeds = {n: Ragged.of(IDS, np.int64) for n in ("input_ids", "token_type_ids")}
    feeds["token_type_ids"] = Ragged.of([[0] * len(r) for r in IDS], np.int64)
    return feeds | {name: Ragged.of(rows, dtype)}


@named(
    ("feeds", "match"),
    [
        (
            lists("input_ids", [[1, 2, 3], [4, 100], [6]]),
            "feed input_ids: row 1, token 1: expected an id below 100, got 100",
        ),
        (lists("input_ids", [[1, 2, -101], [4, 5], [6]]), "row 0, token 2: .*got -101"),
        (lists("token_type_ids", [[0, 0, 0], [0, 0], [2]]), "feed token_type_ids: row 2, token 0"),
        (lists("input_ids", [[1, 2, 3], [4, 5], []]), "input_ids|row 2"),
        (lists("token_type_ids", [[0, 0, 0], [0], [0]]), "expected 2 tokens in row 1.*got 1"),
        (lists("token_type_ids", [[0, 0, 0], [0, 0]]), "expected 3 rows .*got 2"),
        (lists("input_ids", IDS, np.int32), "feed input_ids: expected .*int64.* got int32"),
        (lists("input_ids", IDS, np.float32), "feed input_ids: expected .*got float32"),
        (lists("attention_mask", [[1, 1, 1], [1, 1], [1, 1]]), "row 2 .*got 2"),
        (lists("ids", IDS), "expected .*input_ids.* got .*'ids'"),
        ({"token_type_ids": Ragged.of(IDS, np.int64)}, "missing .*input_ids"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_by_row_and_token(
    feeds: dict[str, Any], match: str
) -> None:
    program = engine.compile(graph_of(bert(SIZE, WEIGHTS, outputs=ALL)))
    with engine.Session(program, cpus=[0]) as session:
        with pytest.raises(FeedError, match=match):
            session.run(feeds)
        assert len(session.run(lists("input_ids", IDS))["sentence_embedding"]) == 3


def test_empty_and_too_long_sequences_name_their_row() -> None:
    program = engine.compile(graph_of(bert(SIZE, WEIGHTS)))
    with engine.Session(program, cpus=[0]) as session:
        with pytest.raises(FeedError, match="row 1: expected a sequence of one token or more"):
            session.run({"input_ids": Ragged.of([[1], [], [2]], np.int64)})
        match = "row 1: expected a sequence of at most 80 tokens.*got 81; truncate it"
        with pytest.raises(FeedError, match=match):
            session.run({"input_ids": Ragged.of([[1], [2] * 81], np.int64)})
        assert session.run({"input_ids": Ragged.of([[2] * 80], np.int64)})


def test_lengths_tell_masks_types_and_positions() -> None:
    program, feeds = engine.compile(graph_of(bert(SIZE, WEIGHTS))), ragged()
    lengths = [len(r) for r in feeds["input_ids"]]
    given = {
        "input_ids": feeds["input_ids"],
        "token_type_ids": Ragged.of([np.zeros(n, np.int64) for n in lengths]),
        "attention_mask": Ragged.of([np.ones(n, np.int64) for n in lengths]),
    }
    told = run(program, {"input_ids": feeds["input_ids"]})["last_hidden_state"]
    assert told.values.tobytes() == run(program, given)["last_hidden_state"].values.tobytes()


def test_a_mask_with_holes_in_a_ragged_batch() -> None:
    proto = bert(SIZE, WEIGHTS)
    program, feeds = engine.compile(graph_of(proto)), ragged()
    random = np.random.default_rng(3)
    holes = [random.integers(0, 2, len(r)) | (np.arange(len(r)) == 0) for r in feeds["input_ids"]]
    feeds["attention_mask"] = Ragged.of([h.astype(np.int64) for h in holes])
    got = run(program, feeds)["last_hidden_state"]
    for row in range(len(LENGTHS)):
        want = onnxruntime_run(proto, {n: f[row][None] for n, f in feeds.items()})
        np.testing.assert_allclose(got[row], want["last_hidden_state"][0], atol=1e-4)
