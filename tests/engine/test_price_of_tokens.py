"""What sessions over sequences allocate stays under the bound that they were priced at."""

from __future__ import annotations

import os
import tracemalloc
from typing import Any

import numpy as np
import pytest

import engine
from engine.graph import Node, Value
from engine.price import Most, fallback_nbytes
from engine.ragged import Ragged
from engine.reader import graph_of
from engine.segments import Fallback, Sequences
from scripts.models.bert import OUTPUTS, bert
from scripts.models.bert_weights import Size, random_weights

CPUS = tuple(sorted(os.sched_getaffinity(0)))[:2]
SIZE = Size(layers=2, hidden=48, heads=4, feed_forward=96, vocabulary=100, positions=600)
LENGTHS = {
    "short": [3, 1, 7] * 60,
    "one long": [4] * 50 + [600],
    "all long": [500] * 6,
    "one": [1],
}


def ids(lengths: list[int]) -> Ragged:
    random = np.random.default_rng(0)
    return Ragged.of([random.integers(0, SIZE.vocabulary, n) for n in lengths], np.int64)


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_a_ragged_batch_stays_under_the_bound(lengths: list[int], columns: bool) -> None:
    model = bert(SIZE, random_weights(SIZE, 0.5), "fused", outputs=tuple(OUTPUTS))
    program = engine.compile(graph_of(model), columns=columns)
    assert any(isinstance(s, Sequences) for s in program.segments)
    rows, tokens, longest = len(lengths), sum(lengths), max(lengths)
    bound = program.session_nbytes(len(CPUS), rows, tokens, longest)
    with engine.Session(program, cpus=CPUS) as session:
        tracemalloc.start()
        try:
            outputs = session.run({"input_ids": ids(lengths)})
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    given = sum(o.values.nbytes if isinstance(o, Ragged) else o.nbytes for o in outputs.values())
    assert peak - given <= bound - 2 * program.weights_nbytes
    assert tokens < 200 or bound <= 30 * peak, "a bound that no machine has is no bound"


def priced(shape: Any, most: Most) -> int:
    values = {n: Value(n, np.dtype(np.float32), shape) for n in "xy"}
    node = Node("n", "Relu", ("x",), ("y",))
    return fallback_nbytes(Fallback((node,), ("",), ("x",), ("y",)), values, {}, most)


def test_values_of_tokens_count_by_tokens_and_pairs_by_the_longest() -> None:
    one = priced(("N", 1), Most(1))
    assert priced(("N", "S"), Most(10, 100, 20)) == 100 * one
    assert priced(("2*N*S", 1), Most(10, 100, 20)) == 200 * one
    assert priced(("N", 3, "S", "S"), Most(10, 100, 20)) == 3 * 100 * 20 * one
    assert priced(("N", 3), Most(10, 100, 20)) == 30 * one
