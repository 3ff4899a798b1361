"""Transformers through a session: as onnxruntime has them, and a row's bytes whatever stands by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from exporters import SIZE, WAYS, WEIGHTS, batch, model
from rewritten import STYLES_AND_MASKS
from small_models import Array, onnxruntime_run

import engine
from engine.compiler import Compilation, compilation
from engine.program import Program
from engine.ragged import Ragged
from engine.reader import graph_of
from engine.rewrites.near_rules import LONG, POSITIONS, NearRule, _measured
from engine.segments import Fallback
from scripts.models.bert import OUTPUTS, STYLES, bert
from scripts.models.bert_weights import random_weights

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


def rows_of(feeds: Mapping[str, Any], rows: list[int]) -> dict[str, Any]:
    return {n: Ragged.of([f[r] for r in rows]) for n, f in feeds.items()}


def bytes_of(outputs: Mapping[str, Any], row: int) -> dict[str, bytes]:
    return {name: array[row].tobytes() for name, array in outputs.items()}


def fallbacks(program: Program) -> list[str]:
    return [n.label for s in program.segments if isinstance(s, Fallback) for n in s.nodes]


def assert_close(
    got: Mapping[str, Any], proto: onnx.ModelProto, feeds: Mapping[str, Array], near: float = 1e-4
) -> None:
    """As near to onnxruntime, but for what tokens of padding say."""
    real = feeds["attention_mask"] == 1
    for name, want in onnxruntime_run(proto, feeds).items():
        have, want = (a[real] if a.ndim == 3 else a for a in (got[name], want))
        np.testing.assert_allclose(have, want, atol=near, err_msg=name)


@named("gelu", ["erf", "tanh"])
@named(("style", "opset", "mask"), STYLES_AND_MASKS)
def test_each_style_is_native_from_end_to_end(
    style: str, opset: int, mask: float | None, gelu: Any
) -> None:
    proto = bert(SIZE, WEIGHTS, style, outputs=ALL, opset=opset, gelu=gelu, mask_value=mask)
    program = engine.compile(graph_of(proto))
    assert [type(s).__name__ for s in program.segments] == ["Sequences", "Column"]
    assert_close(run(program, batch(LENGTHS)), proto, batch(LENGTHS))


@named("points", [16, 32])
@named("positions", [32, 9])
def test_a_model_with_few_positions(positions: int, points: int) -> None:
    size = replace(SIZE, positions=positions)
    proto = bert(size, random_weights(size, 0.5), "torch", outputs=ALL)
    program = engine.compile(graph_of(proto), points=points)
    assert not fallbacks(program)
    feeds = batch((positions, 3, 1))
    assert_close(run(program, feeds), proto, feeds)


# ---- recognised, or right all the same ----------------------------------------------------------


def compiled(way: str) -> Compilation:
    return compilation(graph_of(model(WAYS[way].style)))


@named("way", WAYS)
def test_what_exporters_write_means_what_onnxruntime_says(way: str) -> None:
    found = compiled(way)
    assert found.program is not None
    attentions = [e for e in found.events if e.rewrite == "attention" and e.fired]
    assert len(attentions) == (0 if WAYS[way].refusal else SIZE.layers)
    if WAYS[way].refusal:
        assert any(WAYS[way].refusal in e.reason for e in found.events if not e.fired)
    elif way != "counted backwards":
        assert not fallbacks(found.program)
    for lengths in ((75, 70, 41, 7), (1, 1)):
        feeds = batch(lengths)
        near = 2e-3 if way == "float16" else 1e-4
        assert_close(run(found.program, feeds), model(WAYS[way].style), feeds, near)


def test_only_positions_that_are_counted_backwards_fall_back() -> None:
    program = compiled("counted backwards").program
    assert program is not None
    assert sorted(fallbacks(program)) == ["Add", "CumSum", "Gather", "Mul"]


@named(
    ("way", "reason"),
    [
        ("window of 4096", "its number 4096 may be the size of a window"),
        ("first keys", "depends on more than the mask of the key"),
        ("every second", "hides keys between others that are seen"),
        ("kept, little", "it fills scores with -20.0, not with -1e+09 or less"),
    ],
)
def test_what_is_no_mask_of_keys_is_never_taken_for_one(way: str, reason: str) -> None:
    events = [e for e in compiled(way).events if e.rewrite == "mask"]
    assert not any(e.fired for e in events)
    assert any(reason in e.reason for e in events)


def test_numbers_that_grow_evenly_with_the_distance_go_on_beyond_the_longest_trial() -> None:
    """Each slope is multiplied with the distance, as the model would; the last trial's is not."""
    table = np.stack([s * np.arange(-1100, 1101, dtype=np.float32) for s in (-0.5, 0.0883883)])
    table = table.astype(np.float32)
    known = table[:, 1100 - LONG + 1 : 1100 + LONG]
    rule = _measured("biases", known, None)
    assert isinstance(rule, NearRule) and rule.table is not None
    middle = rule.table.shape[1] // 2
    assert (rule.table.shape[1] + 1) // 2 == POSITIONS
    np.testing.assert_allclose(rule.table[:, middle - 1100 : middle + 1101], table, rtol=3e-7)
    assert rule.table[:, middle - LONG + 1 : middle + LONG].tobytes() == known.tobytes()
    bent = known + np.where(np.arange(known.shape[1]) < 3, 1, 0).astype(np.float32)
    assert _measured("biases", bent, None) == "biases goes on changing with the distance"


def test_numbers_that_grow_unevenly_with_the_distance_are_left_to_the_reference() -> None:
    events = [e for e in compiled("squares").events if e.rewrite == "mask" and not e.fired]
    assert any("goes on changing with the distance" in e.reason for e in events)


PLACE_WAYS = ["causal", "causal apart", "window of 8", "relative", "buckets", "four, causal"]
PLACE_WAYS += ["slopes, causal", "counted", "counted by mask"]


@named("way", PLACE_WAYS)
@named("points", [16, 32])
def test_what_looks_at_places_is_the_same_ragged_padded_alone_and_in_any_order(
    way: str, points: int
) -> None:
    program = engine.compile(graph_of(model(WAYS[way].style)), points=points)
    order = [int(r) for r in np.random.default_rng(0).permutation(len(LENGTHS))]
    together = run(program, ragged())
    shuffled = run(program, rows_of(ragged(), order), 2)
    padded = run(program, batch(LENGTHS))["last_hidden_state"]
    with engine.Session(program, cpus=[0]) as session:
        for place, row in enumerate(order):
            own = bytes_of(together, row)
            assert bytes_of(shuffled, place) == own
            assert bytes_of(session.run(rows_of(ragged(), [row])), 0) == own
            hidden = padded[row, : LENGTHS[row]]
            np.testing.assert_allclose(together["last_hidden_state"][row], hidden, atol=1e-4)


def test_what_a_causal_model_says_of_a_token_does_not_change_with_what_follows() -> None:
    program, ids = compiled("causal").program, batch((60,))["input_ids"][0]
    assert program is not None
    feeds = {"input_ids": Ragged.of([ids, ids[:23]])}
    feeds["token_type_ids"] = Ragged.of([np.zeros(60, np.int64), np.zeros(23, np.int64)])
    whole, start = run(program, feeds)["last_hidden_state"]
    assert whole[:23].tobytes() == start.tobytes()


def test_a_table_of_distances_limits_the_length() -> None:
    assert engine.compile(graph_of(model(WAYS["relative"].style))).max_tokens == SIZE.positions


# ---- the same bytes -----------------------------------------------------------------------------


@named("style", STYLES)
def test_a_row_of_a_ragged_batch_has_the_bytes_it_has_alone(style: str) -> None:
    proto = bert(SIZE, WEIGHTS, style, outputs=ALL)
    program, feeds = engine.compile(graph_of(proto)), ragged()
    together = run(program, feeds)
    with engine.Session(program, cpus=[0]) as session:
        for row, length in enumerate(LENGTHS):
            alone = session.run(rows_of(feeds, [row]))
            assert bytes_of(alone, 0) == bytes_of(together, row)
            whole = {n: f[row][None] for n, f in feeds.items()}
            whole["attention_mask"] = np.ones((1, length), np.int64)
            rectangle = session.run(whole)
            assert bytes_of(rectangle, 0) == bytes_of(together, row)
            assert_close(rectangle, proto, whole)


@named("style", ["torch", "fused"])
@named("points", [16, 32])
def test_order_threads_and_columns_change_no_byte(style: str, points: int) -> None:
    graph, feeds = graph_of(bert(SIZE, WEIGHTS, style, outputs=ALL)), ragged()
    program = engine.compile(graph, points=points)
    expected = run(program, feeds)
    order = [int(r) for r in np.random.default_rng(0).permutation(len(LENGTHS))]
    shuffled = rows_of(feeds, order)
    off = engine.compile(graph, points=points, columns=False)
    for outputs in (run(program, shuffled, 2), run(off, shuffled), run(off, shuffled, 2)):
        for place, row in enumerate(order):
            assert bytes_of(outputs, place) == bytes_of(expected, row)


@named("cut", [1, 2, 3, 5])
def test_a_batch_in_pieces_gives_the_same_bytes(cut: int) -> None:
    program, feeds = engine.compile(graph_of(bert(SIZE, WEIGHTS, outputs=ALL))), ragged()
    expected = run(program, feeds)
    with engine.Session(program, cpus=[0, 1]) as session:
        for first in range(0, len(LENGTHS), cut):
            rows = list(range(len(LENGTHS)))[first : first + cut]
            outputs = session.run(rows_of(feeds, rows))
            for place, row in enumerate(rows):
                assert bytes_of(outputs, place) == bytes_of(expected, row)


def test_many_more_tokens_than_a_column_holds() -> None:
    lengths = tuple(int(n) for n in np.random.default_rng(1).integers(1, 80, 60))
    program, feeds = engine.compile(graph_of(bert(SIZE, WEIGHTS, outputs=ALL))), ragged(lengths)
    expected = run(program, feeds, 2)
    with engine.Session(program, cpus=[0]) as session:
        for row in range(0, 60, 7):
            assert bytes_of(session.run(rows_of(feeds, [row])), 0) == bytes_of(expected, row)


def test_padding_gives_other_bytes_but_the_same_numbers() -> None:
    program = engine.compile(graph_of(bert(SIZE, WEIGHTS, outputs=ALL)))
    apart, padded = run(program, ragged()), run(program, batch(LENGTHS))
    np.testing.assert_allclose(apart["sentence_embedding"], padded["sentence_embedding"], atol=1e-5)
    for row, length in enumerate(LENGTHS):
        hidden = padded["last_hidden_state"][row, :length]
        np.testing.assert_allclose(apart["last_hidden_state"][row], hidden, atol=1e-4)


@named("way", ["counted backwards", "squares", "float16", "first keys", "every second"])
def test_fallbacks_run_each_row_at_its_own_length(way: str) -> None:
    program, feeds = compiled(way).program, ragged()
    assert program is not None and fallbacks(program)
    together = run(program, feeds)
    with engine.Session(program, cpus=[0]) as session:
        for row, length in enumerate(LENGTHS):
            assert bytes_of(session.run(rows_of(feeds, [row])), 0) == bytes_of(together, row)
            whole = {n: f[row][None] for n, f in feeds.items()}
            whole["attention_mask"] = np.ones((1, length), np.int64)
            assert bytes_of(session.run(whole), 0) == bytes_of(together, row)
            want = onnxruntime_run(model(WAYS[way].style), whole)["last_hidden_state"][0]
            near = 2e-3 if way == "float16" else 1e-4
            np.testing.assert_allclose(together["last_hidden_state"][row], want, atol=near)


def test_no_rows_give_no_rows() -> None:
    program = engine.compile(graph_of(bert(SIZE, WEIGHTS, outputs=ALL)))
    outputs = run(program, {"input_ids": Ragged.of([], np.int64)})
    assert len(outputs["last_hidden_state"]) == 0
    assert outputs["sentence_embedding"].shape == (0, SIZE.hidden)
