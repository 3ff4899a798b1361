"""onnx's own operator tests against the oracle, and against what engine.rows claims."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engine import reference
from engine.errors import EngineError
from engine.graph import Graph
from engine.reader import graph_of
from engine.rows import mixes_rows

pytestmark = pytest.mark.slow
Array = np.ndarray[Any, np.dtype[Any]]

ENOUGH = 3
"""Cases an operator that are tried; there are hundreds of Casts."""

KNOWN_WRONG = {
    # onnx's evaluator stacks the scalars that a Loop gives one by one as [n, 1], not [n]
    "test_range_float_type_positive_delta_expanded",
    "test_range_float16_type_positive_delta_expanded",
    "test_range_bfloat16_type_positive_delta_expanded",
    "test_range_int32_type_negative_delta_expanded",
}


def _cases() -> Iterator[tuple[str, onnx.ModelProto, dict[str, Array], list[Array]]]:
    """Name, model, inputs, outputs of the cases that are made of plain arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases  # takes ten seconds

        cases = collect_testcases(None)
    for case in cases:
        inputs, outputs = (case.data_sets or [([], [])])[0]
        found = (*inputs, *outputs)
        arrays = [np.asarray(a) for a in found if isinstance(a, np.ndarray | np.generic)]
        numbers = all(a.dtype.kind in "biuf" for a in arrays)
        if case.model is None or len(arrays) < len(inputs) + len(outputs) or not numbers:
            continue
        if not all(v.type.HasField("tensor_type") for v in case.model.graph.input):
            continue
        names = [v.name for v in case.model.graph.input]
        feeds = dict(zip(names, arrays[: len(inputs)], strict=True))
        yield case.name, case.model, feeds, arrays[len(inputs) :]


@pytest.fixture(scope="module")
def cases() -> list[tuple[str, onnx.ModelProto, dict[str, Array], list[Array]]]:
    return list(_cases())


def test_the_oracle_gives_what_onnx_expects(cases: list[Any]) -> None:
    wrong, ran = [], 0
    for name, proto, feeds, expected in cases:
        try:
            graph = graph_of(proto)
            found = reference.run(graph, feeds)
        except EngineError:
            continue
        random = any(n.op.startswith(("Random", "Bernoulli")) for n in graph.nodes)
        ran += 1
        for value, array in zip(graph.outputs, expected, strict=True):
            same = (
                np.allclose(
                    np.float64(found[value.name]), np.float64(array), 1e-3, 1e-5, equal_nan=True
                )
                and np.shape(found[value.name]) == array.shape
            )
            if not same and not random and name not in KNOWN_WRONG:
                wrong.append(name)
    assert not wrong
    assert ran > 1300


def with_rows(proto: onnx.ModelProto, feeds: dict[str, Array], rows: list[str]) -> Graph | None:
    """The case with a free leading dimension for `rows`, its other inputs being constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for info in copy.graph.input:
        if info.name in rows:
            info.type.tensor_type.shape.dim[0].dim_param = "rows"
        else:
            copy.graph.initializer.append(numpy_helper.from_array(feeds[info.name], info.name))
    for info in copy.graph.output:
        info.type.tensor_type.ClearField("shape")
    try:
        graph = graph_of(copy)
    except EngineError:
        return None
    single = len(graph.nodes) == 1 and any(v.has_rows for v in graph.inputs)
    return graph if single and mixes_rows(graph.nodes[0], graph) is None else None


def test_nodes_said_to_keep_rows_apart_do(cases: list[Any]) -> None:
    shown: Counter[str] = Counter()
    for _, proto, feeds, _ in cases:
        arrays = {n: a for n, a in feeds.items() if a.ndim and len(a)}
        first, nodes = next(iter(feeds), ""), proto.graph.node
        if len(nodes) != 1 or first not in arrays or shown[nodes[0].op_type] >= ENOUGH:
            continue
        together = [n for n, a in arrays.items() if len(a) == len(arrays[first])]
        for rows in ([first], together):
            graph = with_rows(proto, feeds, rows)
            if graph is not None:
                _expect_rows_apart(graph, {n: feeds[n] for n in rows})
                shown[graph.nodes[0].op] += 1
    assert len(shown) > 100


def _expect_rows_apart(graph: Graph, feeds: dict[str, Array]) -> None:
    """A batch gives what some of its rows give alone."""
    batch = {n: np.concatenate([a, a[::-1], a[:1]]) for n, a in feeds.items()}
    rows = len(next(iter(batch.values())))
    whole = reference.run(graph, batch)
    for row in (0, rows // 2, rows - 1):
        alone = reference.run(graph, {n: a[row : row + 1] for n, a in batch.items()})
        for name, array in alone.items():
            found, expected = np.float64(whole[name][row : row + 1]), np.float64(array)
            np.testing.assert_allclose(found, expected, 1e-4, 1e-5, err_msg=str(graph))
