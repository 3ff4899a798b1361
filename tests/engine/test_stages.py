"""A model in stages: the same bytes as in one piece, and the lightest heaviest stage."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import image_nets
import numpy as np
import onnx
import psutil
import pytest
import small_models as small
from exporters import batch, model
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine.errors import EngineError
from engine.ragged import Ragged
from engine.reader import graph_of
from engine.stages import CROSSING, _lightest, compile_stage, cut, cut_at, cuttable
from scripts.models.bert import STYLES

named = pytest.mark.parametrize
rng = np.random.default_rng(3)


def deep() -> onnx.ModelProto:
    """Four layers, and a value of the first that the output needs beside that of the last."""
    layers = [
        small.node("MatMul", "x w1", "a"), small.node("Relu", "a", "b"),
        small.node("MatMul", "b w2", "c"), small.node("Tanh", "c", "d"),
        small.node("MatMul", "d w3", "e"), small.node("Add", "e b", "f"),
        small.node("MatMul", "f w4", "y"),
    ]  # fmt: skip
    sizes = {"w1": (20, 30), "w2": (30, 40), "w3": (40, 30), "w4": (30, 5)}
    weights = {n: rng.normal(size=s).astype(np.float32) for n, s in sizes.items()}
    return small.model(layers, {"x": ["N", 20]}, {"y": ["N", 5], "b": ["N", 30]}, weights)


def ragged() -> dict[str, Any]:
    padded = batch((40, 1, 17, 33))
    mask = padded.pop("attention_mask") == 1
    return {n: Ragged.of([a[m] for a, m in zip(x, mask, strict=True)]) for n, x in padded.items()}


CASES: dict[str, tuple[onnx.ModelProto, Mapping[str, Any]]] = {
    "mlp": (deep(), {"x": rng.normal(size=(37, 20)).astype(np.float32)}),
    "bert": (model(STYLES["torch"]), batch((40, 1, 17, 33))),
    "bert, ragged": (model(STYLES["old"]), ragged()),
}


def chain(proto: onnx.ModelProto, count: int, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of stage after stage."""
    graph = graph_of(proto)
    known: dict[str, Any] = dict(feeds)
    choices = engine.compile(graph).choices
    for stage in cut(graph, count):
        program = compile_stage(stage, choices)
        given = {v.name: known[v.name] for v in program.inputs if v.name in known}
        with engine.Session(program, cpus=[0]) as session:
            known |= session.run(given)
        known = {name: known[name] for name in stage.carries if name in known}
    return known


@named("count", [1, 2, 3])
@named("case", CASES)
def test_stages_give_the_bytes_of_the_whole(case: str, count: int) -> None:
    proto, feeds = CASES[case]
    with engine.Session(engine.compile(graph_of(proto)), cpus=[0]) as session:
        whole = session.run(feeds)
    staged = chain(proto, count, feeds)
    assert staged.keys() == whole.keys()
    for name, want in whole.items():
        for have, row in zip(staged[name], want, strict=True):
            assert have.tobytes() == row.tobytes(), name


@named("net", [image_nets.resnet, image_nets.densenet])
def test_networks_of_pictures_do_too(net: Any) -> None:
    proto = net()
    (name,) = [v.name for v in graph_of(proto).inputs]
    shape = [int(d) for d in graph_of(proto).inputs[0].shape[1:]]
    feeds = {name: rng.normal(size=(3, *shape)).astype(np.float32)}
    with engine.Session(engine.compile(graph_of(proto)), cpus=[0]) as session:
        whole = session.run(feeds)
    staged = chain(proto, 2, feeds)
    assert {n: a.tobytes() for n, a in staged.items()} == {n: a.tobytes() for n, a in whole.items()}


def test_each_weight_is_in_one_stage() -> None:
    graph = graph_of(model(STYLES["torch"]))
    (whole,) = cut(graph, 1)
    stages = cut(graph, 2)
    assert [n.name for s in stages for n in s.graph.nodes] == [n.name for n in whole.graph.nodes]
    first, second = ({n for n, a in s.graph.initializers.items() if a.ndim > 1} for s in stages)
    assert first and second and not first & second
    work = cuttable(graph).multiply_adds
    assert 0.4 < sum(work[: len(stages[0].graph.nodes)]) / sum(work) < 0.6


@named("count", [1, 2, 3])
def test_a_cut_is_told_by_the_names_of_nodes(count: int) -> None:
    graph = graph_of(model(STYLES["torch"]))
    stages = cut(graph, count)
    again = cut_at(graph, [s.begin for s in stages])
    assert [compile_stage(s).fingerprint for s in again] == [
        compile_stage(s).fingerprint for s in stages
    ]
    assert [s.carries for s in again] == [s.carries for s in stages]


@named("begins", [["nowhere"], ["first", "nowhere"], ["second", "first"], ["second"]])
def test_a_cut_at_nodes_that_are_not_there_is_refused(begins: list[str]) -> None:
    graph = graph_of(deep())
    (whole,) = cut(graph, 1)
    names = {"first": whole.graph.nodes[0].name, "second": whole.graph.nodes[1].name}
    with pytest.raises(EngineError, match="expected stages that begin with nodes"):
        cut_at(graph, [names.get(name, name) for name in begins])


def test_no_place_to_cut_is_said() -> None:
    proto = small.model(
        [small.node("MatMul", "x w", "y")],
        {"x": ["N", 2]},
        {"y": ["N", 2]},
        {"w": np.eye(2, dtype=np.float32)},
    )
    with pytest.raises(EngineError, match="expected 1 places at least to cut it into 2 stages"):
        cut(graph_of(proto), 2)


amounts = st.lists(st.integers(0, 9), min_size=3, max_size=7)


@given(amounts, st.data())
def test_no_other_cut_is_lighter(work: list[int], data: st.DataObject) -> None:
    """Against every way to cut."""
    count = data.draw(st.integers(1, min(4, len(work))))
    weights = data.draw(st.lists(st.integers(0, 9), min_size=len(work), max_size=len(work)))
    places = list(range(len(work) + 1))
    crossing = {p: data.draw(st.floats(0, 1)) for p in places[1:-1]}

    def shares(of: list[int]) -> list[float]:
        return [sum(of[:p]) / (sum(of) or 1) for p in places]

    def heaviest(edges: list[int]) -> float:
        return max(
            max(shares(of)[b] - shares(of)[a] for of in (weights, work))
            + CROSSING * crossing.get(b, 0.0)
            for a, b in pairwise(edges)
        )

    found = _lightest(places, count, shares(weights), shares(work), crossing)
    assert found == sorted(set(found)) and len(found) == count + 1
    assert (found[0], found[-1]) == (0, len(work))
    ways = [[0, *inner, len(work)] for inner in combinations(places[1:-1], count - 1)]
    assert heaviest(found) == pytest.approx(min(map(heaviest, ways)))


def test_cutting_where_told_looks_at_no_weights(tmp_path: Path) -> None:
    """64 MB of weights in the model file; the whole graph is read, rewritten and cut."""
    weights = {f"w{i}": np.zeros((2048, 2048), np.float32) for i in range(4)}
    layers = [small.node("MatMul", f"x{i} w{i}", f"h{i}") for i in range(4)]
    layers += [small.node("Add", f"h{i} b", f"x{i + 1}") for i in range(4)]
    constants = {**weights, "b": np.ones(2048, np.float32)}
    proto = small.model(layers, {"x0": ["N", 2048]}, {"x4": ["N", 2048]}, constants)
    onnx.save(proto, tmp_path / "m.onnx")
    begins = [s.begin for s in cut(engine.load(tmp_path / "m.onnx"), 4)]
    del weights, constants, proto
    process = psutil.Process()
    before = process.memory_info().rss
    stages = cut_at(engine.load(tmp_path / "m.onnx"), begins)
    assert len(stages) == 4 and process.memory_info().rss - before < 8 << 20
