"""Thrift's compact protocol: pyarrow's footers come back byte for byte, no odd data does."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.thrift import I8, I16, I32, I64, KINDS, STRUCT, Items, OddThrift, parsed, serialised

NUMBERS = st.one_of(
    st.integers(0, 255).map(I8),
    st.integers(-(1 << 15), (1 << 15) - 1).map(I16),
    st.integers(-(1 << 31), (1 << 31) - 1).map(I32),
    st.integers(-(1 << 63), (1 << 63) - 1).map(I64),
    st.floats(allow_nan=False),
)
FLAT = NUMBERS | st.booleans() | st.binary(max_size=20)
LISTS = st.one_of(
    st.lists(st.binary(max_size=5), max_size=40).map(lambda b: Items(KINDS[bytes], b)),
    st.lists(st.booleans(), max_size=40).map(lambda b: Items(1, b)),
    st.lists(st.integers(-9, 9).map(I32), max_size=40).map(lambda b: Items(KINDS[I32], b)),
)
VALUES = st.recursive(
    FLAT | LISTS,
    lambda inner: st.one_of(
        st.dictionaries(st.integers(1, 200), inner, max_size=4),
        st.lists(st.dictionaries(st.integers(1, 20), inner, max_size=3), max_size=20).map(
            lambda b: Items(STRUCT, b)
        ),
    ),
    max_leaves=12,
)


def kinds(value: Any) -> Any:
    """Values with their types, which equality of integers does not see."""
    if isinstance(value, dict):
        return {n: kinds(v) for n, v in value.items()}
    if isinstance(value, Items):
        return value.kind, [kinds(v) for v in value]
    return type(value), value


@given(st.dictionaries(st.integers(1, 300), VALUES, max_size=6), st.binary(max_size=9))
def test_a_struct_comes_back(value: dict[int, Any], behind: bytes) -> None:
    data = serialised(value)
    found, nbytes = parsed(data + behind)
    assert nbytes == len(data) and kinds(found) == kinds(value)


def test_footers_of_pyarrow_come_back_byte_for_byte() -> None:
    table = pa.table(
        {
            "when": pa.array([1, None], pa.timestamp("us", "UTC")),
            "deep": [[{"a": [1.5], "b": "x"}], None],
            "d": pa.array([1, 2], pa.decimal128(9, 2)),
            "m": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int8())),
            **{f"c{n}": [n, n] for n in range(20)},
        }
    ).replace_schema_metadata({"key": "välue"})
    stream = pa.BufferOutputStream()
    with pq.ParquetWriter(stream, table.schema) as writer:
        for _ in range(17):
            writer.write_table(table)
    data = stream.getvalue().to_pybytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
    found, nbytes = parsed(footer)
    assert nbytes == len(footer) and serialised(found) == footer
    assert found[3] == 34 and len(found[4]) == 17


@pytest.mark.parametrize(
    "odd",
    [
        b"",  # cut off
        b"\x15",
        b"\x17\x00",  # half a float
        b"\x18\x05abc",
        b"\x19\xf5" + b"\xff" * 8 + b"\x7f",  # a list longer than what follows
        b"\x19\xf1\xff\xff\xff\x0f",
        b"\x1b\x00",  # a map
        b"\x15" + b"\xff" * 20,  # a number without an end
        b"\x15" + b"\xff" * 20 + b"\x01\x00",  # one whose end comes too late
        b"\x1c" * 5000,  # deeper than Python's stack
        b"\x19" * 5000,
        b"\x19\x1c" * 5000,
    ],
)
def test_what_is_cut_off_or_hostile_is_refused(odd: bytes) -> None:
    with pytest.raises(OddThrift):
        parsed(odd)
