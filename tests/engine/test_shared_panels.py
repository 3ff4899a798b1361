"""Panels that live from stretch to stretch: which of them lie in one place, and which must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import engine
from engine import sequences
from engine.compiler import compilation
from engine.ragged import Ragged
from engine.reader import graph_of
from engine.reference import Reference
from engine.segments import Sequences, Step
from engine.steps import StepBuilder
from scripts.models.bert import bert
from scripts.models.bert_weights import Size, random_weights

named = pytest.mark.parametrize
LENGTHS = (31, 1, 17, 16, 5)
HIDDEN = "last_hidden_state"
FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", "sequence", 48])


def model() -> onnx.ModelProto:
    size = Size(layers=3, hidden=48, heads=2, feed_forward=64, vocabulary=100, positions=40)
    return bert(size, random_weights(size, 0.5), "fused", outputs=(HIDDEN,))


def segment_of(found: Any) -> Sequences:
    (segment,) = found.program.segments
    assert isinstance(segment, Sequences)
    return segment


def attentions(segment: Sequences) -> list[Step]:
    return [s for s in segment.steps if s.kernel.startswith("attention_")]


def wide_offsets(segment: Sequences) -> set[int]:
    """Where panels of a layer's width lie: scores are narrower."""
    widest = max(span.nbytes for span in segment.spread.spans)
    return {span.offset for span in segment.spread.spans if span.nbytes == widest}


def check(whole: onnx.ModelProto, points: int) -> Any:
    """Runs it ragged, a column of all rows, against the reference; gives what was compiled."""
    found = compilation(graph_of(whole), points=points)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 100, length) for length in LENGTHS]
    feeds = {"input_ids": Ragged.of(rows), "token_type_ids": Ragged.of([0 * r for r in rows])}
    with engine.Session(found.program, cpus=[0]) as session:
        got = session.run(feeds)
    for name, values in got.items():
        for row, ids in enumerate(rows):
            given = {"input_ids": ids[None], "token_type_ids": 0 * ids[None]}
            given["attention_mask"] = np.ones_like(ids)[None]
            want = Reference(graph_of(whole)).run(given)[name][0]
            np.testing.assert_allclose(values[row], want, rtol=1e-4, atol=1e-4)
    return found


@named("points", [16, 32])
def test_four_panels_carry_any_number_of_layers(points: int) -> None:
    """The residual, then queries and what attention makes of them, keys, and values."""
    segment = segment_of(check(model(), points))
    assert len(attentions(segment)) == 3
    assert all(step.writes[0] == step.reads[0] for step in attentions(segment))
    assert len(wide_offsets(segment)) == 4


@named("points", [16, 32])
def test_queries_that_are_read_later_are_not_written_over(points: int) -> None:
    whole = model()
    query = next(x for x in whole.graph.node if any("query.bias" in name for name in x.input))
    whole.graph.output.append(onnx.ValueInfoProto(name=query.output[0]))
    whole.graph.output[-1].type.CopyFrom(FLOATS)
    first, *others = attentions(segment_of(check(whole, points)))
    assert first.writes[0] not in first.reads
    assert all(step.writes[0] == step.reads[0] for step in others)


@named(("features", "places"), [(32, 1), (30, 2)])
def test_only_whole_slices_take_a_place(features: int, places: int) -> None:
    """A slice of four outputs writes beyond 30 features, into the tile that is read next."""
    builder = StepBuilder.__new__(StepBuilder)
    builder.points, builder.features = 16, {"x": features, "y": features, "z": 8}
    reads = [(), ("x",), ("z",)]
    writes = [("x",), ("z",), ("y",)]
    steps = [Step("", "", (), r, w) for r, w in zip(reads, writes, strict=True)]
    found = sequences.spread(builder, steps, [True, False, False], {"x", "y"})
    assert len({span.offset for span in found.spans}) == places
