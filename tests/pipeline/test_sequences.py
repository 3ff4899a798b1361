"""Lists of tokens: bound, fed without a copy, refused row by row, and back into lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph import Value
from engine.ragged import Ragged
from pipeline.binding import Binding, TokenRules, bind
from pipeline.errors import BindingError, RowError
from pipeline.sequences import joined, rows_of
from pipeline.tensors import bad_rows, to_batch, to_feeds, without_rows

Array = np.ndarray[Any, Any]
IDS = Value("ids", np.dtype(np.int64), ("N", "S"))
MASK = Value("attention_mask", np.dtype(np.int64), ("N", "S"))
TYPES = Value("token_type_ids", np.dtype(np.int64), ("N", "S"))
HIDDEN = Value("hidden", np.dtype(np.float32), ("N", "S", 2))
SCORE = Value("score", np.dtype(np.float32), ("N", "S"))
POOLED = Value("pooled", np.dtype(np.float32), ("N", 3))
INPUTS = (IDS, MASK, TYPES)
OUTPUTS = (HIDDEN, SCORE, POOLED)
RULES = TokenRules({"ids": 100}, 8)
LISTS = (
    pa.list_(pa.int64()),
    pa.large_list(pa.int32()),
    pa.list_view(pa.int64()),
    pa.large_list_view(pa.uint8()),
)


def bound(kind: pa.DataType, rules: TokenRules = RULES, on_error: str = "fail") -> Binding:
    schema = pa.schema([("ids", kind), ("id", pa.int64())])
    return bind(schema, INPUTS, OUTPUTS, on_error=on_error, rules=rules)


def batch_of(rows: Any, kind: pa.DataType = LISTS[0]) -> pa.RecordBatch:
    column = rows if isinstance(rows, pa.Array) else pa.array(rows, kind)
    return pa.record_batch({"ids": column, "id": np.arange(len(column))})


def feed(batch: pa.RecordBatch, binding: Binding) -> Ragged:
    found = to_feeds(batch, binding)["ids"]
    assert isinstance(found, Ragged) and found.dtype == np.int64
    return found


def test_a_list_binds_and_what_lengths_tell_needs_no_field() -> None:
    binding = bound(pa.list_(pa.int64()))
    (field,) = binding.fields
    assert field.tokens and field.entries == 100 and field.note.startswith("no copy")
    assert binding.known == ("attention_mask", "token_type_ids")
    text = str(binding)
    assert "ids: int64[N, S] <- ids: list<item: int64> (no copy, each row at its own" in text
    assert "attention_mask: known from the lengths" in text
    assert "lengths: at most 8 tokens, longer rows are bad rows" in text
    kinds = {o.field: o.to_arrow().type for o in binding.outputs}
    number = pa.field("item", pa.float32(), nullable=False)
    pair = pa.field("item", pa.list_(number, 2), nullable=False)
    assert kinds["hidden"] == pa.list_(pair)
    assert kinds["score"] == pa.list_(number)
    assert kinds["pooled"] == pa.list_(number, 3)


def test_int32_is_widened_and_floats_are_refused() -> None:
    assert "widened from int32" in bound(pa.list_(pa.int32())).fields[0].note
    with pytest.raises(BindingError, match="expected int64, got float32, which does not fit"):
        bound(pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("kind", "got"),
    [
        (pa.int64(), "a list with a number for each token, got int64"),
        (pa.list_(pa.list_(pa.int64(), 2)), "a list with a number for each token, got list"),
        (pa.list_(pa.list_(pa.int64())), "a list inside a list has no fixed shape"),
        (pa.list_(pa.int64(), 0), "a list with a number for each token"),
        (pa.string(), "string is no number; give --tokenizer"),
    ],
)
def test_what_is_no_sequence_is_refused(kind: pa.DataType, got: str) -> None:
    with pytest.raises(BindingError, match=got):
        bound(kind)


def test_masks_may_be_bound_by_hand_and_by_name() -> None:
    kind = pa.list_(pa.int64())
    schema = pa.schema([("ids", kind), ("token_type_ids", kind), ("m", kind)])
    binding = bind(schema, INPUTS, (), {"attention_mask": "m"}, rules=RULES)
    assert [f.field for f in binding.fields] == ["ids", "m", "token_type_ids"]
    assert binding.known == ()
    rows = pa.array([[1, 2], [3], [4]], kind)
    other = pa.array([[1, 1], [1, 1], [1]], kind)
    batch = pa.record_batch({"ids": rows, "token_type_ids": other, "m": rows})
    (bad,) = bad_rows(batch, binding)
    assert (bad.row, bad.field) == (1, "token_type_ids")
    assert bad.reason == "has 2 tokens, expected 1 as in 'ids'"


def test_known_inputs_need_one_that_says_the_length() -> None:
    with pytest.raises(BindingError, match="input 'ids': expected a field 'ids'"):
        bind(pa.schema([("other", pa.int64())]), INPUTS, (), rules=RULES)
    with pytest.raises(BindingError, match="input 'attention_mask': expected a field"):
        bind(pa.schema([("other", pa.int64())]), (MASK,), (), rules=RULES)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=8), max_size=12),
    st.sampled_from(LISTS),
    st.data(),
)
def test_lists_come_through_slices_and_back(
    rows: list[list[int]], kind: pa.DataType, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(rows)))
    batch = batch_of(rows, kind).slice(start)
    binding = bound(kind)
    assert bad_rows(batch, binding) == ()
    found = feed(batch, binding)
    assert [row.tolist() for row in found] == rows[start:]
    values = found.values.astype(np.float32)
    outputs = {
        "hidden": Ragged(np.stack([values, values], 1), found.offsets),
        "score": Ragged(values, found.offsets),
        "pooled": np.zeros((len(found), 3), np.float32),
    }
    back = to_batch(batch, outputs, binding)
    back.validate(full=True)
    assert back["score"].to_pylist() == rows[start:]
    assert back["hidden"].to_pylist() == [[[t, t] for t in row] for row in rows[start:]]


def test_nothing_is_copied_where_the_buffer_is_the_tensor() -> None:
    values = pa.array(np.arange(40))
    column = pa.ListArray.from_arrays(pa.array(np.arange(0, 41, 4, dtype=np.int32)), values)
    found = feed(batch_of(column).slice(3), bound(column.type))
    assert np.shares_memory(found.values, values.to_numpy())
    assert found.values[0] == 12 and found.offsets[0] == 0
    part = rows_of(found, 2, 4)
    assert isinstance(part, Ragged) and np.shares_memory(part.values, found.values)
    assert [row.tolist() for row in part] == [[20, 21, 22, 23], [24, 25, 26, 27]]


BAD = [[1, 2], None, [], [3, None], [100], [-1, 100], list(range(9)), [99]]
REASONS = {
    1: "is null",
    2: "is an empty sequence, expected a token or more",
    3: "holds a null",
    4: "holds the id 100, expected ids from 0 to 99",
    5: "holds the id -1, expected ids from 0 to 99",
    6: "has 9 tokens, expected at most 8",
}


@pytest.mark.parametrize("kind", LISTS[:3])
def test_bad_rows_say_why(kind: pa.DataType) -> None:
    if pa.types.is_large_list(kind):
        kind = pa.large_list(pa.int64())
    batch = batch_of([[7], *BAD], kind).slice(1)
    binding = bound(kind)
    bad = bad_rows(batch, binding)
    assert {b.row: b.reason for b in bad} == REASONS
    assert {b.field for b in bad} == {"ids"}
    with pytest.raises(RowError, match="row 1, field 'ids': is null"):
        to_feeds(batch, binding)
    good = without_rows(batch, bad)
    assert [row.tolist() for row in feed(good, binding)] == [[1, 2], [99]]


def test_a_null_row_may_hide_values_behind_it() -> None:
    hidden = pa.ListArray.from_arrays(
        pa.array([0, 2, 4, 5], pa.int32()), pa.array([1, 2, 777, 777, 3]),
        mask=pa.array([False, True, False]),
    )  # fmt: skip
    binding = bound(hidden.type)
    bad = bad_rows(batch_of(hidden), binding)
    assert [(b.row, b.reason) for b in bad] == [(1, "is null")]
    found = feed(without_rows(batch_of(hidden), bad), binding)
    assert [row.tolist() for row in found] == [[1, 2], [3]]


def test_long_rows_are_cut_before_they_are_looked_into() -> None:
    rules = TokenRules({"ids": 100}, 8, max_tokens=3, too_long="truncate")
    binding = bound(LISTS[0], rules)
    batch = batch_of([[9], [1, 2, 3, 500, None], [4], [5, 6, 7, 8]]).slice(1)
    assert bad_rows(batch, binding) == ()
    assert [row.tolist() for row in feed(batch, binding)] == [[1, 2, 3], [4], [5, 6, 7]]
    assert "at most 3 tokens, longer rows are cut" in str(binding)


def test_nulls_stand_for_bad_rows_in_lists() -> None:
    binding = bound(LISTS[0], on_error="null")
    batch = batch_of([[1], None, [2, 3], []])
    bad = bad_rows(batch, binding)
    found = feed(without_rows(batch, bad), binding)
    outputs = {
        "hidden": Ragged(np.ones((3, 2), np.float32), found.offsets),
        "score": Ragged(found.values.astype(np.float32), found.offsets),
        "pooled": np.ones((2, 3), np.float32),
    }
    back = to_batch(batch, outputs, binding, bad)
    back.validate(full=True)
    assert back["score"].to_pylist() == [[1], None, [2, 3], None]
    assert back["hidden"].to_pylist() == [[[1, 1]], None, [[1, 1], [1, 1]], None]
    assert back["pooled"].to_pylist() == [[1, 1, 1], None, [1, 1, 1], None]


X = Value("x", np.dtype(np.float32), ("N", "S", 2))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32(), 2)),
        pa.list_(pa.list_(pa.list_(pa.float32(), 1), 2)),
        pa.list_(pa.float32(), 4),
        pa.list_(pa.list_(pa.float32(), 2), 2),
    ],
)
def test_tokens_of_several_numbers(kind: pa.DataType) -> None:
    rows = [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 1], [2, 3]]]
    flat = {pa.list_(pa.float32(), 4): [[t for pair in row for t in pair] for row in rows]}
    deep = [[[[t] for t in pair] for pair in row] for row in rows]
    given = flat.get(kind) or (deep if "item: fixed_size_list<item: fixed" in str(kind) else rows)
    batch = pa.record_batch({"x": pa.array([*given, None], kind)}).slice(1)
    binding = bind(batch.schema, (X,), (Value("y", X.dtype, ("N", "S", 2)),))
    bad = bad_rows(batch, binding)
    assert [(b.row, b.reason) for b in bad] == [(2, "is null")]
    found = to_feeds(without_rows(batch, bad), binding)["x"]
    assert isinstance(found, Ragged)
    assert [row.tolist() for row in found] == rows[1:]


def test_rows_of_one_length_give_outputs_of_one_length() -> None:
    kind = pa.list_(pa.int64(), 4)
    binding = bound(kind)
    assert "(no copy, 4 tokens a row)" in str(binding) and "lengths: 4 tokens" in str(binding)
    batch = batch_of([[1, 2, 3, 4], [5, 6, 7, 8]], kind)
    found = feed(batch, binding)
    outputs = {
        "hidden": Ragged(np.ones((8, 2), np.float32), found.offsets),
        "score": Ragged(found.values.astype(np.float32), found.offsets),
        "pooled": np.ones((2, 3), np.float32),
    }
    back = to_batch(batch, outputs, binding)
    assert back["score"].type == pa.list_(pa.field("item", pa.float32(), nullable=False), 4)
    assert back["score"].to_pylist() == batch["ids"].to_pylist()
    assert list(back.schema.field("hidden").type.shape) == [4, 2]
    none = {n: rows_of(o, 0, 0) for n, o in outputs.items()}
    assert to_batch(batch.slice(2), none, binding).num_rows == 0


@pytest.mark.parametrize(
    ("kind", "rules", "message"),
    [
        (LISTS[0], TokenRules({}, 8, max_tokens=9), "--max-tokens 9: expected at most 8"),
        (pa.list_(pa.int64(), 9), RULES, "expected at most 8; do --too-long truncate"),
        (LISTS[0], TokenRules(tokenizer="t.json"), "--tokenizer: expected one input of token ids"),
    ],
)
def test_rules_that_cannot_hold_are_refused(
    kind: pa.DataType, rules: TokenRules, message: str
) -> None:
    with pytest.raises(BindingError, match=message):
        bound(kind, rules)


def test_fields_of_one_length_are_cut_to_one_length() -> None:
    kind = pa.list_(pa.int64(), 9)
    binding = bound(kind, TokenRules({}, 8, too_long="truncate"))
    assert binding.lengths is not None and binding.lengths.fixed == 8
    assert feed(batch_of([list(range(9))] * 2, kind), binding).lengths.tolist() == [8, 8]


@pytest.mark.parametrize("rules", [TokenRules(too_long="truncate"), TokenRules(max_tokens=3)])
def test_models_without_sequences_take_no_options_of_them(rules: TokenRules) -> None:
    schema = pa.schema([("p", pa.list_(pa.float32(), 3))])
    p = Value("p", np.dtype(np.float32), ("N", 3))
    with pytest.raises(BindingError, match="expected a model of sequences, got none"):
        bind(schema, (p,), (), rules=rules)


def test_pieces_of_ragged_feeds_join() -> None:
    whole = Ragged.of([[1], [2, 3], [4, 5, 6]], np.int64)
    again = joined([rows_of(whole, 0, 0), rows_of(whole, 0, 2), rows_of(whole, 2, 3)])
    assert isinstance(again, Ragged)
    assert again.offsets.tolist() == whole.offsets.tolist()
    assert again.values.tolist() == whole.values.tolist()
