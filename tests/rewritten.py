"""Models beside onnxruntime, and what the rewrites made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from small_models import Array, onnxruntime_run

import engine
from engine import reference
from engine.compiler import Compilation, compilation
from engine.graph import Graph
from engine.reader import graph_of
from engine.rewrites import Event, rewrite
from engine.segments import Fallback
from scripts.models.bert import FLOAT_MIN

STYLES_AND_MASKS = [
    ("torch", 14, -10000.0),
    ("torch", 14, FLOAT_MIN),
    ("torch", 18, -10000.0),
    ("sdpa", 17, FLOAT_MIN),
    ("sdpa", 20, -np.inf),
    ("fused", 23, None),
    ("fused", 24, None),
    ("old", 11, -10000.0),
    ("old", 13, -10000.0),
]
"""Ways to write a BERT: style, opset, and what a mask adds."""

RNG = np.random.default_rng(0)
X = {"x": ["batch", 6]}
"""Inputs of small graphs: a row has six features."""


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def checked(proto: onnx.ModelProto, feeds: Mapping[str, Array], near: float = 1e-5) -> Compilation:
    """The compilation, after running it beside onnxruntime."""
    found = compilation(graph_of(proto))
    assert found.program is not None
    with engine.Session(found.program, cpus=[0]) as session:
        got = session.run(feeds)
    for name, want in onnxruntime_run(proto, feeds).items():
        np.testing.assert_allclose(got[name], want, atol=near, rtol=near, err_msg=name)
    return found


def labels(found: Compilation) -> list[str]:
    return [n.label for n in found.graph.nodes]


def fallbacks(found: Compilation) -> list[str]:
    assert found.program is not None
    segments = found.program.segments
    return [n.label for s in segments if isinstance(s, Fallback) for n in s.nodes]


def refusals(found: Compilation, name: str) -> str:
    return "\n".join(e.reason for e in found.events if e.rewrite == name and not e.fired)


def unchanged(proto: onnx.ModelProto) -> tuple[Graph, tuple[Event, ...]]:
    """Rewrite, and compare with onnxruntime; a row alone gives the same bytes as in the batch."""
    after, log = rewrite(graph_of(proto))
    feeds = {v.name: floats(3, *map(int, (v.shape or ())[1:])) for v in after.inputs}
    found = reference.run(after, feeds)
    for name, array in onnxruntime_run(proto, feeds).items():
        small = 1e-5 * float(np.abs(array).max(initial=1.0))  # sums cancel
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=small)
    alone = reference.run(after, {n: a[1:2] for n, a in feeds.items()})
    for name, array in alone.items():
        np.testing.assert_array_equal(found[name][1:2], array)
    return after, log


def agreeing(proto: onnx.ModelProto, **feeds: Array) -> tuple[Graph, tuple[Event, ...]]:
    """Rewrite, and check the meaning against the graph before and onnxruntime."""
    before = graph_of(proto)
    after, log = rewrite(before)
    for value in before.inputs:
        rest = [d if isinstance(d, int) else 3 for d in (value.shape or ())[1:]]
        feeds.setdefault(value.name, floats(5, *rest))
    expected = onnxruntime_run(proto, feeds)
    for graph in (before, after):
        found = reference.run(graph, feeds)
        for name, array in expected.items():
            small = 2e-6 * float(np.abs(array).max(initial=1.0))  # sums cancel
            np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=small)
    assert [v.name for v in after.outputs] == [v.name for v in before.outputs]
    return after, log


def fired(log: tuple[Event, ...]) -> set[str]:
    return {e.rewrite for e in log if e.fired}


def ops(graph: Graph) -> list[str]:
    return [n.label for n in graph.nodes]


def reasons(log: tuple[Event, ...], name: str) -> str:
    return "\n".join(e.reason for e in log if e.rewrite == name and not e.fired)


def activations(graph: Graph) -> list[str]:
    return [op for n in graph.nodes for op, *_ in n.attributes.get("activations", ())]
