"""Positions that are counted from ids or a mask: what is recognised, what only looks alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from exporters import SIZE, WAYS, model
from onnx import TensorProto, helper
from rewritten import checked, fallbacks, floats, labels
from small_models import Array

import engine
from engine.batch import Batch
from engine.errors import FeedError
from engine.ragged import Ragged
from engine.reader import graph_of
from scripts.models.writer import Writer

TABLE = floats(12, 8)
IDS = np.array([[5, 0, 7, 7, 0], [0, 0, 3, 1, 9], [2, 2, 2, 2, 2]], np.int64)
COUNTS = [[1, 0, 2, 3, 0], [0, 0, 1, 2, 3], [1, 2, 3, 4, 5]]


def test_tokens_that_are_no_padding_are_counted() -> None:
    batch = Batch(3, np.array([0, 5, 10, 15]))
    assert batch.counted(IDS.reshape(-1), 0).reshape(3, 5).tolist() == COUNTS
    ragged = Batch(2, np.array([0, 1, 3]))
    assert ragged.counted(np.array([4, 4, 0], np.int32), 0).tolist() == [1, 1, 0]
    assert ragged.counted(np.array([1, 1, 1], np.int32), None).tolist() == [1, 1, 2]


def looked_up(
    padding: int = 0,
    other: int = 0,
    by: str = "Equal",
    cast: int = TensorProto.INT64,
    behind: int = 0,
    axis: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """y = TABLE[cumsum(real) * real + 2], with what must be otherwise to mean something else."""
    write = Writer(17)

    def real(number: int) -> str:
        same = write.op(by, "ids", write.int_scalar(number))
        return write.cast(write.op("Not", same), cast)

    sums = write.op("CumSum", real(padding), write.int_scalar(axis), **attributes)
    if behind:
        sums = write.op("Add", sums, write.int_scalar(behind))
    product = write.op("Mul", sums, real(other))
    places = write.op("Add", write.cast(product, TensorProto.INT64), write.int_scalar(2))
    table = write.weight("table", TABLE)
    write.op("Gather", table, places, output="y")
    x = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "S"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "S", 8])
    constants = list(write.initializers.values())
    graph = helper.make_graph(write.nodes, "counted", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("cast", [TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_lookup_by_counts_is_one_node(cast: int, axis: int) -> None:
    found = checked(looked_up(cast=cast, axis=axis), {"ids": IDS})
    assert labels(found) == ["colonnade.Counted"] and not fallbacks(found)
    assert found.program is not None
    assert found.program.max_tokens == len(TABLE) - 3 and not found.program.id_limits


ALIKE: dict[str, dict[str, Any]] = {
    "another padding in the product": {"other": 7},
    "without the token itself": {"exclusive": 1},
    "from the end": {"reverse": 1},
    "a past": {"behind": 1},
    "less than, not equal": {"by": "Less", "padding": 2, "other": 2},
}


@pytest.mark.parametrize("case", ALIKE)
def test_what_looks_alike_stays(case: str) -> None:
    found = checked(looked_up(**ALIKE[case]), {"ids": IDS})
    assert "CumSum" in fallbacks(found)


def run(program: engine.Program, ids: list[Array]) -> Any:
    with engine.Session(program, cpus=[0]) as session:
        return session.run({"ids": Ragged.of(ids)})["y"]


def test_rows_are_counted_each_for_itself() -> None:
    program = engine.compile(graph_of(looked_up()))
    random = np.random.default_rng(0)
    rows = [random.integers(0, 3, n) for n in (1, 9, 4, 7, 9, 2, 8, 8)]
    for ids, found in zip(rows, run(program, rows), strict=True):
        real = ids != 0
        assert found.tobytes() == TABLE[np.cumsum(real) * real + 2].tobytes()


def test_a_sequence_with_more_tokens_than_places_is_named() -> None:
    program = engine.compile(graph_of(looked_up()))
    with pytest.raises(FeedError, match=r"row 1: expected a sequence of at most 9 tokens, .* 10"):
        run(program, [np.ones(9, np.int64), np.ones(10, np.int64)])


def test_a_model_that_counts_knows_how_long_rows_may_be() -> None:
    program = engine.compile(graph_of(model(WAYS["counted"].style)))
    assert program.max_tokens == SIZE.positions - 2
    assert program.id_limits == {"input_ids": SIZE.vocabulary, "token_type_ids": 2}
