"""Rows that the model itself cannot run on. The engine here is a function that refuses some."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import info, model, node

import engine
from engine.errors import EngineError, FeedError
from engine.graph import Value
from pipeline.binding import Binding, bind
from pipeline.errors import RowError
from pipeline.scoring import encode, prepare, score

SCHEMA = pa.schema([("x", pa.float32()), ("id", pa.int64())])


def binding(on_error: str) -> Binding:
    x, y = (Value(n, np.dtype(np.float32), ("N",)) for n in "xy")
    return bind(SCHEMA, (x,), (y,), on_error=on_error)


def refusing(bad: set[int]) -> Any:
    def run(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        if bad & {int(v) for v in feeds["x"]}:
            raise EngineError("gather: index out of range")
        return {"y": feeds["x"] * 2}

    return run


@given(
    st.integers(0, 40), st.sets(st.integers(0, 39)), st.sets(st.integers(0, 39)),
    st.sampled_from(["skip", "null"]),
)  # fmt: skip
def test_only_the_refused_rows_are_lost(
    rows: int, refused: set[int], nulls: set[int], on_error: str
) -> None:
    bound = binding(on_error)
    x = [None if i in nulls else float(i) for i in range(rows)]
    batch = pa.record_batch({"x": x, "id": range(rows)}, SCHEMA)
    scored = score(refusing(refused), prepare(batch, bound, on_error), on_error)
    bad = sorted(i for i in range(rows) if i in refused | nulls)
    assert [b.row for b in scored.bad] == bad
    for b in scored.bad:
        assert (b.field, "is null" in b.reason) == (("x", True) if b.row in nulls else ("", False))
    out = encode(scored, bound, on_error)
    out.validate(full=True)
    kept = [i for i in range(rows) if i not in bad]
    assert out.column("id").to_pylist() == (kept if on_error == "skip" else list(range(rows)))
    assert out.column("y").drop_null().to_pylist() == [2.0 * i for i in kept]


@given(st.integers(1, 40), st.sets(st.integers(0, 39), min_size=1))
def test_fail_names_the_first_refused_row(rows: int, refused: set[int]) -> None:
    batch = pa.record_batch({"x": [float(i) for i in range(rows)], "id": range(rows)}, SCHEMA)
    prepared = prepare(batch, binding("fail"), "fail")
    if min(refused) >= rows:
        assert score(refusing(refused), prepared, "fail").bad == ()
        return
    with pytest.raises(RowError, match=f"^row {min(refused)}: the model cannot run.*gather"):
        score(refusing(refused), prepared, "fail")


def test_fail_blames_no_row_for_what_only_rows_together_bring_about() -> None:
    def run(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        if len(feeds["x"]) > 2:
            raise EngineError("too many")
        return {"y": feeds["x"]}

    batch = pa.record_batch({"x": [1.0, 2.0, 3.0], "id": [0, 1, 2]}, SCHEMA)
    with pytest.raises(EngineError, match="too many"):
        score(run, prepare(batch, binding("fail"), "fail"), "fail")


def test_wrong_feeds_are_no_fault_of_rows() -> None:
    def run(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        raise FeedError("expected z")

    batch = pa.record_batch({"x": [1.0, 2.0], "id": [0, 1]}, SCHEMA)
    with pytest.raises(FeedError):
        score(run, prepare(batch, binding("skip"), "skip"), "skip")


def test_a_model_in_float16_gives_a_field_of_halffloat(tmp_path: Path) -> None:
    """Whether it is computed in float32 or as it is written."""
    w = np.eye(3, 2, dtype=np.float16)
    proto = model([node("MatMul", "x w", "y")], {}, {}, {"w": w})
    proto.graph.input.append(info("x", ["n", 3], np.float16))
    proto.graph.output.append(info("y", ["n", 2], np.float16))
    onnx.save(proto, tmp_path / "m.onnx")
    values = pa.array(np.arange(12, dtype=np.float16))
    batch = pa.record_batch({"x": pa.FixedSizeListArray.from_arrays(values, 3)})
    for off in ((), ("halves",)):
        program = engine.compile(tmp_path / "m.onnx", rewrites_off=off)
        bound = bind(batch.schema, program.inputs, program.outputs, on_error="fail")
        with engine.Session(program, cpus=range(1)) as session:
            scored = score(session.run, prepare(batch, bound, "fail"), "fail")
        y = encode(scored, bound, "fail").column("y")
        assert y.type.value_type == pa.float16()
        assert y.to_pylist() == [[0, 1], [3, 4], [6, 7], [9, 10]]
