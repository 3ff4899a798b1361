"""ALiBi by the key's place alone, as BLOOM and MPT have it, from end to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import alibi_models as models
import numpy as np
import onnx
import pytest
from exporters import batch
from rewritten import fallbacks, floats, labels, reasons, refusals
from small_models import model as small
from small_models import node, onnxruntime_run

import engine
from engine.compiler import Compilation, compilation
from engine.ragged import Ragged
from engine.reader import graph_of
from engine.reference import Reference
from engine.rewrites import rewrite
from engine.rewrites.near_rules import LONG, POSITIONS
from engine.segments import Sequences

Array = np.ndarray[Any, np.dtype[Any]]
named = pytest.mark.parametrize
LENGTHS = (31, 1, 80, 17, 16, 46)
MODELS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "bloom": models.bloom,
    "bloom, six heads": partial(models.bloom, models.SIX),
    "bloom, older": partial(models.bloom, older=True),
    "bloom, no mask": partial(models.bloom, fed=False),
    "mpt": models.mpt,
    "mpt, six heads": partial(models.mpt, models.SIX),
}


def feeds(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Array]:
    return {n: x for n, x in batch(lengths).items() if n != "token_type_ids"}


def ragged(rows: list[int]) -> dict[str, Ragged]:
    whole = feeds()
    real = whole["attention_mask"] == 1
    return {"input_ids": Ragged.of([whole["input_ids"][r][real[r]] for r in rows])}


def logits(found: Compilation, given: Mapping[str, Any], cpus: int = 1) -> Any:
    assert found.program is not None
    with engine.Session(found.program, cpus=range(cpus)) as session:
        return session.run(given)["logits"]


@named("points", [16, 32])
@named("name", MODELS)
def test_it_is_native_and_agrees(name: str, points: int) -> None:
    proto = MODELS[name]()
    found = compilation(graph_of(proto), points=points)
    assert found.program is not None
    assert [type(s) for s in found.program.segments] == [Sequences]
    given, real = feeds(), feeds()["attention_mask"] == 1
    given = {v.name: given[v.name] for v in found.source.inputs}
    got = logits(found, given)[real]
    want = onnxruntime_run(proto, given)["logits"][real]
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)
    meant = Reference(found.graph).run(given)["logits"][real]
    np.testing.assert_allclose(got, meant, atol=1e-4, rtol=1e-4)


@named("name", ["bloom, older", "mpt"])
def test_ragged_is_padded_is_single(name: str) -> None:
    found, rows = compilation(graph_of(MODELS[name]())), list(range(len(LENGTHS)))
    together, padded = logits(found, ragged(rows)), logits(found, feeds())
    order = rows[::-1]
    shuffled = logits(found, ragged(order), 2)
    for place, row in enumerate(order):
        own = together[row].tobytes()
        assert shuffled[place].tobytes() == own
        assert logits(found, ragged([row]))[0].tobytes() == own
        np.testing.assert_allclose(padded[row, : LENGTHS[row]], together[row], atol=1e-4)


@named("name", ["bloom", "mpt"])
@named("where", ["left", "middle"])
def test_a_mask_may_leave_out_the_first_tokens_or_some_of_the_middle(name: str, where: str) -> None:
    """BLOOM counts on behind a hole where it stopped in front of it, MPT does not."""
    proto, given = MODELS[name](), feeds((60, 60))
    hole = slice(0, 13) if where == "left" else slice(20, 41)
    given["attention_mask"][0, hole] = 0
    real = given["attention_mask"] == 1
    got, want = logits(compilation(graph_of(proto)), given), onnxruntime_run(proto, given)["logits"]
    np.testing.assert_allclose(got[real], want[real], atol=1e-4, rtol=1e-4)
    if where == "middle":
        given["attention_mask"][0] = 1
        whole = onnxruntime_run(proto, given)["logits"]
        assert np.abs(whole[0, 41:] - want[0, 41:]).max() > 1e-2, "the hole changes something"


@named("name", ["bloom", "mpt, six heads"])
def test_slopes_go_on_beyond_the_longest_trial(name: str) -> None:
    proto, given = MODELS[name](), feeds((LONG + 100,))
    found = compilation(graph_of(proto))
    want = onnxruntime_run(proto, given)["logits"]
    np.testing.assert_allclose(logits(found, given), want, atol=1e-4, rtol=1e-4)
    assert found.program is not None and found.program.max_tokens == POSITIONS


def test_heads_of_one_product_are_read_where_they_lie() -> None:
    found = compilation(graph_of(models.bloom()))
    attentions = [n for n in found.graph.nodes if n.label == "colonnade.Attention"]
    assert [n.attributes["apart"] for n in attentions] == [3 * models.SIZE.head] * 2
    assert labels(found).count("colonnade.Counted") == 1  # for all layers


ODD = {
    "backwards": partial(models.bloom, models.SIX, odd="backwards"),
    "squares of counts": partial(models.bloom, models.SIX, odd="squares"),
    "squares of places": partial(models.mpt, models.SIX, odd="squares"),
}


@named("name", ODD)
def test_what_is_no_slope_is_left_to_the_reference(name: str) -> None:
    proto, given = ODD[name](), feeds((20, 7))
    found = compilation(graph_of(proto))
    assert "Softmax" in fallbacks(found)
    assert "adds something to its scores that is not known" in refusals(found, "attention")
    real = given["attention_mask"] == 1
    want = onnxruntime_run(proto, given)["logits"]
    np.testing.assert_allclose(logits(found, given)[real], want[real], atol=1e-4, rtol=1e-4)


@named(
    ("nodes", "reason"),
    [
        (["Relu r z"], "(Relu) stands between heads put into the rows and taken out"),
        (["Add r c z"], "reads c: float32[1, 3] beside heads in the rows"),
        (["Transpose r t", "Transpose t z"], "(Transpose) reads t: float32[3, 2*N] beside heads"),
    ],
)
def test_heads_stay_in_the_rows_where_more_is_done_to_them(nodes: list[str], reason: str) -> None:
    made = [node("Reshape", "x apart", "h"), node("Reshape", "h rows", "r")]
    for op, *reads, written in (n.split() for n in nodes):
        made.append(node(op, " ".join(reads), written))
    made.append(node("Reshape", "z apart", "y"))
    constants = {"apart": np.array([-1, 2, 3]), "rows": np.array([-1, 3]), "c": floats(1, 3)}
    proto = small(made, {"x": ["batch", 6]}, "y", constants)
    _, log = rewrite(graph_of(proto))
    assert reason in reasons(log, "head_rows")
