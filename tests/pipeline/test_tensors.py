from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph import Value
from pipeline.binding import Binding, bind
from pipeline.errors import RowError
from pipeline.flat import only
from pipeline.tensors import bad_rows, to_batch, to_feeds, without_rows

Array = np.ndarray[Any, Any]
DTYPES = ("bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64")
FORMS = ("list", "large_list", "fixed", "nested", "list_of_fixed", "tensor")


def arrow(array: Array, form: str) -> pa.Array:
    """The rows of array[N, ...] as an Arrow column of the given form."""
    n, count = len(array), math.prod(array.shape[1:])
    flat = pa.array(array.reshape(-1))
    if form == "tensor":
        storage = pa.FixedSizeListArray.from_arrays(flat, count)
        kind = pa.fixed_shape_tensor(flat.type, array.shape[1:])
        return pa.ExtensionArray.from_storage(kind, storage)
    if form == "nested":
        for size in reversed(array.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        return flat
    if form == "list_of_fixed":
        flat = pa.FixedSizeListArray.from_arrays(flat, count)
        return pa.ListArray.from_arrays(pa.array(np.arange(n + 1), pa.int32()), flat)
    if form == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, count)
    cls = pa.ListArray if form == "list" else pa.LargeListArray
    offset = pa.int32() if form == "list" else pa.int64()
    return cls.from_arrays(pa.array(np.arange(n + 1) * count, offset), flat)


def binding(
    column: pa.Array, shape: tuple[int, ...], dtype: str, on_error: str = "fail"
) -> Binding:
    x = Value("x", np.dtype(dtype), ("N", *shape))
    y = Value("y", np.dtype(dtype), ("N", *shape))
    schema = pa.schema([("x", column.type), ("id", pa.int64())])
    return bind(schema, (x,), (y,), on_error=on_error)


def batch_of(column: pa.Array) -> pa.RecordBatch:
    return pa.record_batch({"x": column, "id": np.arange(len(column))})


@st.composite
def sliced(draw: st.DrawFn) -> tuple[Array, int, int]:
    """An array [N, a, b] and a slice of its rows."""
    rows = draw(st.integers(0, 12))
    shape = (rows, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    start = draw(st.integers(0, rows))
    stop = draw(st.integers(start, rows))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    values = np.arange(math.prod(shape)).reshape(shape)
    return (values % 2 if dtype.kind == "b" else values % 100).astype(dtype), start, stop


@settings(deadline=None)
@given(sliced(), st.sampled_from(FORMS))
def test_every_form_comes_through_slices_and_back(case: tuple[Array, int, int], form: str) -> None:
    array, start, stop = case
    column = arrow(array, form)
    bound = binding(column, array.shape[1:], array.dtype.name)
    batch = batch_of(column).slice(start, stop - start)
    assert bad_rows(batch, bound) == ()
    feed = to_feeds(batch, bound)["x"]
    assert feed.dtype == array.dtype
    np.testing.assert_array_equal(feed, array[start:stop])
    back = to_batch(batch, {"y": feed}, bound)
    back.validate(full=True)
    assert back.column("id").to_pylist() == list(range(start, stop))
    np.testing.assert_array_equal(to_feeds(_as_input(back), bound_to_output(back))["x"], feed)


def _as_input(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.record_batch({"x": batch.column("y"), "id": batch.column("id")})


def bound_to_output(batch: pa.RecordBatch) -> Binding:
    kind = batch.schema.field("y").type
    dtype = np.dtype(kind.value_type.to_pandas_dtype()).name
    return binding(batch.column("y"), tuple(kind.shape), dtype)


@pytest.mark.parametrize("form", FORMS)
def test_feeds_look_into_the_arrow_buffer(form: str) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    column = arrow(array, form)
    feed = to_feeds(batch_of(column).slice(1, 2), binding(column, (6,), "float32"))["x"]
    leaf = column
    while not pa.types.is_primitive(leaf.type):
        leaf = leaf.storage if isinstance(leaf, pa.ExtensionArray) else leaf.values
    address = leaf.buffers()[1].address
    assert feed.ctypes.data == address + 6 * 4
    assert not feed.flags.writeable


def test_outputs_are_not_copied() -> None:
    y = np.arange(12, dtype=np.float32).reshape(4, 3)
    column = pa.FixedSizeListArray.from_arrays(pa.array(y.reshape(-1)), 3)
    batch = to_batch(batch_of(column), {"y": y}, binding(column, (3,), "float32"))
    assert batch.column("y").values.buffers()[1].address == y.ctypes.data


def test_scalars_widen_and_round() -> None:
    column = pa.array([1, 2, 3], pa.uint8())
    feeds = to_feeds(batch_of(column), binding(column, (), "float32"))
    assert feeds["x"].dtype == np.float32
    assert feeds["x"].tolist() == [1, 2, 3]


def test_nan_is_data() -> None:
    column = pa.array([1.0, math.nan, math.inf], pa.float32())
    bound = binding(column, (), "float32")
    assert bad_rows(batch_of(column), bound) == ()
    back = to_batch(batch_of(column), {"y": to_feeds(batch_of(column), bound)["x"]}, bound)
    assert back.column("y").null_count == 0
    assert math.isnan(back.column("y")[1].as_py())


ROWS: list[Any] = [
    [1.0, 2.0],
    None,
    [3.0],
    [4.0, None],
    [],
    [5.0, 6.0],
    [7.0, 8.0, 9.0],
    [0.0, 1.0],
]
REASONS = {
    1: "is null",
    2: "has 1 elements, expected 2",
    3: "holds a null",
    4: "has 0 elements, expected 2",
    6: "has 3 elements, expected 2",
}


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float32())])
@settings(deadline=None)
@given(start=st.integers(0, 8), length=st.integers(0, 8))
def test_bad_lists_are_found_wherever_the_slice_begins(
    kind: pa.DataType, start: int, length: int
) -> None:
    column = pa.array(ROWS, kind)
    bound = binding(column, (2,), "float32")
    batch = batch_of(column).slice(start, length)
    bad = bad_rows(batch, bound)
    inside = {r: why for r, why in REASONS.items() if start <= r < start + length}
    assert {start + b.row: b.reason for b in bad} == inside
    if bad:
        with pytest.raises(RowError, match="field 'x'") as caught:
            to_feeds(batch, bound)
        assert caught.value.row == bad[0].row
    good = without_rows(batch, bad)
    expected = [r for i, r in enumerate(ROWS) if start <= i < start + length and i not in REASONS]
    assert to_feeds(good, bound)["x"].tolist() == expected


@pytest.mark.parametrize("tensor", [False, True])
def test_nulls_in_fixed_rows_are_found(tensor: bool) -> None:
    rows: list[Any] = [[1.0, 2.0], None, [None, 4.0], [5.0, 6.0], [7.0, None]]
    column = pa.array(rows, pa.list_(pa.float32(), 2))
    if tensor:
        column = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [2]), column)
    bound = binding(column, (2,), "float32")
    assert [(b.row, b.reason) for b in bad_rows(batch_of(column), bound)] == [
        (1, "is null"),
        (2, "holds a null"),
        (4, "holds a null"),
    ]
    late = batch_of(column).slice(2)
    assert [b.row for b in bad_rows(late, bound)] == [0, 2]
    assert to_feeds(without_rows(late, bad_rows(late, bound)), bound)["x"].tolist() == [[5, 6]]


def test_nulls_of_inner_lists_are_found() -> None:
    rows: list[Any] = [[[1.0], [2.0]], [None, [3.0]], [[4.0], [None]]]
    column = pa.array(rows, pa.list_(pa.list_(pa.float32(), 1), 2))
    bound = binding(column, (2,), "float32")
    assert [(b.row, b.reason) for b in bad_rows(batch_of(column), bound)] == [
        (1, "holds a null"),
        (2, "holds a null"),
    ]


def test_a_row_bad_in_two_fields_is_counted_once() -> None:
    schema = pa.schema([("a", pa.float32()), ("b", pa.float32())])
    inputs = [Value(n, np.dtype(np.float32), ("N",)) for n in ("a", "b")]
    bound = bind(schema, inputs, ())
    batch = pa.record_batch({"a": [1.0, None, 2.0], "b": [None, None, 3.0]}, schema)
    assert [(b.row, b.field) for b in bad_rows(batch, bound)] == [(0, "b"), (1, "a")]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_bad_rows_become_nulls_between_the_others(shape: tuple[int, ...]) -> None:
    flags = [True, False, True, True, False]
    width = math.prod(shape)
    column = pa.array([1.0 if f else None for f in flags], pa.float32())
    y = Value("y", np.dtype(np.float32), ("N", *shape))
    x = Value("x", np.dtype(np.float32), ("N",))
    schema = pa.schema([("x", pa.float32()), ("id", pa.int64())])
    bound = bind(schema, (x,), (y,), on_error="null")
    batch = batch_of(column)
    good = np.arange(3 * width, dtype=np.float32).reshape(3, *shape)
    back = to_batch(batch, {"y": good}, bound, bad_rows(batch, bound))
    back.validate(full=True)
    assert [v is not None for v in back.column("y").to_pylist()] == flags
    column = back.column("y").drop_null()
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    flat = storage if not shape else storage.flatten()
    assert flat.to_pylist() == good.reshape(-1).tolist()


def test_an_output_of_another_shape_is_refused() -> None:
    column = pa.array([1.0, 2.0], pa.float32())
    bound = binding(column, (), "float32")
    with pytest.raises(ValueError, match=r"expected float32\[2\], got float32\[2, 1\]"):
        to_batch(batch_of(column), {"y": np.ones((2, 1), np.float32)}, bound)
    with pytest.raises(ValueError, match="got float64"):
        to_batch(batch_of(column), {"y": np.ones(2)}, bound)


@pytest.mark.parametrize("mask", [[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [0] * 5, [1] * 5])
@pytest.mark.parametrize(
    "kind",
    [
        pa.string_view(), pa.list_(pa.string_view()), pa.struct([("a", pa.string_view())]),
        pa.list_view(pa.int64()), pa.dictionary(pa.int32(), pa.string()), pa.string(),
    ],
    ids=str,
)  # fmt: skip
def test_rows_of_every_kind_are_picked(kind: pa.DataType, mask: list[int]) -> None:
    values = [f"{i}" * 20 * i if i else None for i in range(5)]
    if pa.types.is_struct(kind):
        values = [{"a": v} for v in values]
    if kind.num_fields and not pa.types.is_struct(kind):
        values = [[i] for i in range(5)] if kind.value_type == pa.int64() else [[v] for v in values]
    found = only(pa.record_batch({"k": pa.array(values, kind)}), np.array(mask, np.bool_))
    assert found.schema.field("k").type == kind
    assert found["k"].to_pylist() == [v for v, kept in zip(values, mask, strict=True) if kept]


def test_a_batch_without_kept_fields_keeps_its_rows() -> None:
    column = pa.array([1.0, None, 2.0], pa.float32())
    bound = bind(
        pa.schema([("x", pa.float32())]), (Value("x", np.dtype("f4"), ("N",)),), (), keep=()
    )
    batch = pa.record_batch({"x": column})
    bad = bad_rows(batch, bound)
    assert without_rows(batch.select([]), bad).num_rows == 2
