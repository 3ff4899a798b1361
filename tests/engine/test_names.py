"""Names that the engine makes up are nobody else's."""

from __future__ import annotations

import numpy as np
from small_models import Array, model, node, onnxruntime_run

from engine import reference
from engine.reader import graph_of
from engine.rewrites import rewrite
from engine.rewrites.rewrite import View

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def test_a_node_of_a_rewrite_takes_no_name_of_the_model() -> None:
    """Gemm B with a C that flows, and is spread over the outputs, becomes B and B.add, a name that
    the next node has already."""
    nodes = [node("Gemm", "x w z", "h", name="B"), node("Add", "h h", "y", name="B.add")]
    proto = model(nodes, {"x": ["N", 4], "z": ["N", 1]}, "y", {"w": floats(4, 3)})
    after, _ = rewrite(graph_of(proto))
    assert [n.name for n in after.nodes] == ["B", "B.add_2", "B.add"]
    feeds = {"x": floats(5, 4), "z": floats(5, 1)}
    expected = onnxruntime_run(proto, feeds)["y"]
    np.testing.assert_allclose(reference.run(after, feeds)["y"], expected, rtol=1e-5)


def test_a_view_gives_no_name_twice() -> None:
    proto = model([node("Relu", "x", "y", name="it")], {"x": ["N", 4]}, "y")
    view = View(graph_of(proto))
    assert [view.fresh("new"), view.fresh("new"), view.fresh("x")] == ["new", "new_2", "x_2"]
    assert [view.fresh_node("it"), view.fresh_node("it")] == ["it_2", "it_3"]


def test_a_freed_reshape_spoils_no_constant_of_the_model() -> None:
    """Its new target would be called t.R, as a factor is."""
    nodes = [node("Reshape", "x t", "h", name="R"), node("Mul", "h t.R", "y")]
    factors = floats(3)
    proto = model(nodes, {"x": [1, 6]}, "y", {"t": [1, 2, 3], "t.R": factors})
    graph = graph_of(proto)
    assert [str(v) for v in graph.outputs] == ["y: float32[N, 2, 3]"]
    x = floats(4, 6)
    expected = x.reshape(4, 2, 3) * factors
    np.testing.assert_array_equal(reference.run(graph, {"x": x})["y"], expected)
