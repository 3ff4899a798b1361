"""One type for the values of several, against casts there and back of values at the ends."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import permutations, product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.conforming import as_kind
from pipeline.merging import NO_SIZE, NO_TYPE, NO_ZONE, merged, merged_field, null_nbytes


def ends(kind: pa.DataType) -> pa.Array:
    """A null, and the values that are hardest to hold."""
    limits: list[Any] = []
    if pa.types.is_integer(kind):
        info = np.iinfo(kind.to_pandas_dtype())
        limits = [info.min, info.max]
    elif pa.types.is_floating(kind):
        info = np.finfo(kind.to_pandas_dtype())
        limits = [info.min, info.max, info.smallest_subnormal, 1 + info.eps, float("inf")]
        limits = [float(number) for number in limits]
    return pa.array([None, *limits], kind)


NUMBERS = (
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
    pa.uint64(), pa.float16(), pa.float32(), pa.float64(),
)  # fmt: skip


@pytest.mark.parametrize(("one", "other"), list(product(NUMBERS, NUMBERS)), ids=str)
def test_numbers_come_back_from_the_type_that_holds_both(
    one: pa.DataType, other: pa.DataType
) -> None:
    found = merged([one, other])
    assert found == merged([other, one])
    if isinstance(found, str):
        # Arrow has none, either, or one that rounds integers of 64 bits.
        assert pa.uint64() in (one, other) or pa.int64() in (one, other)
        return
    for kind in (one, other):
        assert ends(kind).cast(found).cast(kind).equals(ends(kind))
    sizes = [kind.bit_width for kind in (one, other)]
    assert found.bit_width <= max(64 if max(sizes) == 64 else 2 * max(sizes), 8)


def tensor(kind: pa.DataType, *shape: int, **more: Any) -> pa.DataType:
    return pa.fixed_shape_tensor(kind, shape, **more)


F32, F64, INT, TEXT = pa.float32(), pa.float64(), pa.int64(), pa.string()
TEXTS = pa.dictionary(pa.int8(), TEXT)
SURE = pa.field("item", F32, nullable=False)

HELD: dict[str, tuple[list[pa.DataType], pa.DataType]] = {
    "the same": ([TEXTS, TEXTS], TEXTS),
    "nothing yet": ([pa.null(), TEXT, pa.null()], TEXT),
    "nothing at all": ([pa.null(), pa.null()], pa.null()),
    "texts": ([TEXT, pa.large_string()], pa.large_string()),
    "views": ([pa.string_view(), TEXT], pa.large_string()),
    "bytes": ([pa.binary(), pa.binary_view()], pa.large_binary()),
    "dictionary": ([TEXTS, TEXT], TEXT),
    "dictionaries": ([TEXTS, pa.dictionary(pa.int32(), TEXT)], TEXT),
    "dictionary of large": ([TEXTS, pa.large_string()], pa.large_string()),
    "dictionary of numbers": ([pa.dictionary(pa.int8(), pa.int32()), INT], INT),
    "units": ([pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("s")], pa.timestamp("us")),
    "names of UTC": ([pa.timestamp("s", "UTC"), pa.timestamp("s", "+00:00")],
                     pa.timestamp("s", "UTC")),
    "zones": ([pa.timestamp("s", "Europe/Paris"), pa.timestamp("ms", "Asia/Tokyo")],
              pa.timestamp("ms", "UTC")),
    "one zone": ([pa.timestamp("s", "Europe/Paris"), pa.timestamp("ms", "Europe/Paris")],
                 pa.timestamp("ms", "Europe/Paris")),
    "times": ([pa.time32("s"), pa.time64("us")], pa.time64("us")),
    "short times": ([pa.time32("s"), pa.time32("ms")], pa.time32("ms")),
    "durations": ([pa.duration("s"), pa.duration("ns")], pa.duration("ns")),
    "dates": ([pa.date32(), pa.date64()], pa.date64()),
    "decimals": ([pa.decimal128(5, 2), pa.decimal128(6, 4)], pa.decimal128(7, 4)),
    "long decimals": ([pa.decimal128(38, 0), pa.decimal128(4, 4)], pa.decimal256(42, 4)),
    "lists": ([pa.list_(F32), pa.large_list(F32)], pa.large_list(F32)),
    "elements": ([pa.list_(F32), pa.list_(F64)], pa.list_(F64)),
    "some null elements": ([pa.list_(SURE, 3), pa.list_(F32, 3)], pa.list_(F32, 3)),
    "no null elements": ([pa.list_(SURE, 3), pa.list_(pa.field("x", F64, False), 3)],
                         pa.list_(pa.field("item", F64, False), 3)),
    "sizes and any": ([pa.list_(F32, 3), pa.list_(F32)], pa.list_(F32)),
    "sizes and large": ([pa.list_(F32, 3), pa.large_list(F32)], pa.large_list(F32)),
    "tensors": ([tensor(F32, 2, 2), tensor(F64, 2, 2)], tensor(F64, 2, 2)),
    "named tensors": ([tensor(F32, 2, 2, dim_names=["a", "b"]), tensor(F32, 2, 2)],
                      tensor(F32, 2, 2)),
    "tensors of other shapes": ([tensor(F32, 2, 2), tensor(F32, 4)], pa.list_(F32, 4)),
    "tensor and list": ([tensor(F32, 2, 2), pa.list_(F64, 4)], pa.list_(F64, 4)),
    "structs": ([pa.struct({"a": pa.int32(), "b": TEXT}), pa.struct({"b": TEXT, "a": INT})],
                pa.struct({"a": INT, "b": TEXT})),
    "growing structs": ([pa.struct({"a": INT}), pa.struct({"a": INT, "b": TEXT})],
                        pa.struct({"a": INT, "b": TEXT})),
    "lists of structs": ([pa.list_(pa.struct({"a": pa.int8()})), pa.list_(pa.struct({"a": INT}))],
                         pa.list_(pa.struct({"a": INT}))),
    "maps": ([pa.map_(TEXT, pa.int32()), pa.map_(TEXT, INT)], pa.map_(TEXT, INT)),
    "names of elements": ([pa.list_(pa.field("element", F32)), pa.list_(F32)], pa.list_(F32)),
}  # fmt: skip

MOMENT = datetime(2024, 2, 3, 4, 5, 6)
VALUES: dict[str, list[Any]] = {
    "texts": ["", "ä"], "views": ["", "a text that is longer than a view"], "bytes": [b"", b"\0a"],
    "dictionary": ["a", "b", "a"], "dictionaries": ["a"], "dictionary of large": ["a", "b"],
    "dictionary of numbers": [3, 3], "units": [MOMENT], "one zone": [MOMENT], "zones": [MOMENT],
    "times": [time(1, 2, 3)], "short times": [time(1, 2, 3)], "durations": [timedelta(3)],
    "dates": [date(2024, 2, 3)], "decimals": [Decimal("1.25")], "long decimals": [Decimal(0)],
    "lists": [[1.5], [], [2, 3]], "elements": [[1.5], [None]], "some null elements": [[1, 2, 3]],
    "no null elements": [[1, 2, 3]], "sizes and any": [[1, 2, 3]], "sizes and large": [[1, 2, 3]],
    "structs": [{"a": 1, "b": "x"}, {"a": None, "b": "y"}], "growing structs": [{"a": 1}],
    "lists of structs": [[{"a": 1}], []], "maps": [[("k", 1)], []], "names of elements": [[1, 2]],
    "tensors": [[1, 2, 3, 4]], "named tensors": [[1, 2, 3, 4]], "tensor and list": [[1, 2, 3, 4]],
    "tensors of other shapes": [[1, 2, 3, 4]], "nothing yet": [], "nothing at all": [],
}  # fmt: skip


def made(values: list[Any], kind: pa.DataType) -> pa.Array:
    """With a null among them, and cut out of something longer."""
    whole = [*values, None, *values]
    if isinstance(kind, pa.FixedShapeTensorType):
        array = pa.ExtensionArray.from_storage(kind, pa.array(whole, kind.storage_type))
    elif pa.types.is_dictionary(kind):
        array = pa.array(whole, kind.value_type).dictionary_encode().cast(kind)
    else:
        array = pa.array(whole if not pa.types.is_null(kind) else [None] * 3, kind)
    return array.slice(1)


def plain(array: pa.Array) -> list[Any]:
    """As a reader of the part would have it; of structs without fields that are null."""
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    values = array.to_pylist()
    return [_without_nulls(v) if isinstance(v, dict) else v for v in values]


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


@pytest.mark.parametrize("name", HELD)
def test_a_type_holds_the_values_of_all_in_any_order(name: str) -> None:
    kinds, expected = HELD[name]
    for order in permutations(kinds):
        found = merged(order)
        if name == "structs":  # fields in the order in which they come
            assert {f.name: f.type for f in found} == {f.name: f.type for f in expected}
        else:
            assert found == expected
    for kind in kinds:
        array = made(VALUES.get(name, []), kind)
        cast = as_kind(array, expected)
        cast.validate(full=True)
        wanted = cast.type.value_type if pa.types.is_dictionary(cast.type) else cast.type
        assert wanted == (TEXT if expected == TEXTS else expected)
        assert plain(cast) == plain(array) or name == "zones"  # other clocks, the same moments


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        ([TEXT, INT], NO_TYPE),
        ([INT, F32], NO_TYPE),
        ([INT, F64], NO_TYPE),
        ([pa.uint64(), pa.int8()], NO_TYPE),
        ([pa.bool_(), pa.int8()], NO_TYPE),
        ([TEXT, pa.binary()], NO_TYPE),
        ([pa.list_(F32), F32], NO_TYPE),
        ([pa.timestamp("s"), pa.date32()], NO_TYPE),
        ([pa.timestamp("s"), pa.timestamp("s", "UTC")], NO_ZONE),
        ([pa.list_(F32, 2), pa.list_(F32, 3)], NO_SIZE),
        ([pa.list_(F32, 2), pa.list_(F32), pa.list_(F32, 3)], NO_SIZE),
        ([pa.list_(TEXT), pa.list_(INT)], NO_TYPE),
        ([pa.struct({"a": INT}), pa.struct({"a": TEXT})], f"a: {NO_TYPE}"),
        ([pa.map_(TEXT, INT), pa.map_(INT, INT)], NO_TYPE),
        ([pa.decimal256(76, 0), pa.decimal256(76, 10)], NO_TYPE),
        ([pa.list_view(F32), pa.list_(F32)], NO_TYPE),
        ([tensor(F32, 2, 3, permutation=[1, 0]), pa.list_(F32, 6)], NO_TYPE),
        ([pa.dictionary(pa.int8(), TEXT), INT], NO_TYPE),
    ],
    ids=str,
)
def test_what_no_type_holds_is_refused_with_the_reason(kinds: list[pa.DataType], why: str) -> None:
    for order in permutations(kinds):
        assert merged(order) == why


def test_a_field_is_nullable_where_any_is() -> None:
    sure, perhaps = pa.field("a", INT, nullable=False), pa.field("a", pa.int32())
    assert not merged_field([sure, sure]).nullable
    assert merged_field([sure, perhaps]).nullable
    assert merged_field([sure], nullable=True).nullable


def test_nulls_of_lists_of_one_size_take_their_place() -> None:
    assert null_nbytes(pa.list_(F32, 100)) >= 400
    assert null_nbytes(INT) >= 8
