"""Tables in memory: Ray's tensors become Arrow's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.tables import canonical, canonical_schema

pytest.importorskip("pandas", reason="Ray Data needs pandas (extra ray-data)")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray Data warns of its own settings


def rays(values: np.ndarray[Any, Any]) -> pa.ExtensionArray:
    from ray.data.extensions import ArrowTensorArray

    made: pa.ExtensionArray = ArrowTensorArray.from_numpy(values)
    return made


@pytest.mark.parametrize("shape", [(5, 3), (4, 2, 3), (0, 7)])
def test_tensors_of_ray_are_tensors_of_arrow(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    table = pa.table({"id": np.arange(len(values)), "x": rays(values)})
    made = canonical(table)
    assert made.schema == canonical_schema(table.schema)
    assert made.schema.field("x").type == pa.fixed_shape_tensor(pa.float32(), list(shape[1:]))
    assert made["id"].equals(table["id"])
    chunk = made["x"].combine_chunks()
    found = chunk.storage.flatten().to_numpy().reshape(shape)
    np.testing.assert_array_equal(found, values)


def test_pieces_and_nulls_stay_where_they_are() -> None:
    values = np.arange(12, dtype=np.int64).reshape(4, 3)
    whole = rays(values)
    holed = pa.ExtensionArray.from_storage(
        whole.type, pa.array([[1, 2, 3], None, [7, 8, 9]], whole.storage.type)
    )
    column = pa.chunked_array([whole.slice(1, 2), holed, whole.slice(0, 0)])
    made = canonical(pa.table({"x": column}))["x"]
    rows = [None if row is None else list(row) for chunk in made.chunks
            for row in chunk.storage.to_pylist()]  # fmt: skip
    assert rows == [[3, 4, 5], [6, 7, 8], [1, 2, 3], None, [7, 8, 9]]


def test_other_tables_are_left_alone() -> None:
    table = pa.table({"x": [1, 2], "t": ["a", "b"]})
    assert canonical(table) is table
