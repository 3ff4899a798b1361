"""Decoders used as encoders, from end to end: rotary positions, RMSNorm, shared keys, causal."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import decoders
import numpy as np
import onnx
import pytest
from exporters import WAYS, batch, model
from onnx import helper
from rewritten import checked, fallbacks, labels, refusals
from small_models import onnxruntime_run

import engine
from engine.compiler import Compilation, compilation
from engine.errors import FeedError
from engine.ragged import Ragged
from engine.reader import graph_of
from engine.reference import Reference
from engine.segments import Sequences

named = pytest.mark.parametrize
LENGTHS = (31, 1, 80, 17, 16, 46)
DECODERS = [
    (4, False, False),
    (2, False, False),
    (1, False, False),
    (4, True, False),
    (2, True, False),
    (2, False, True),
    (2, True, True),
]
"""Heads of keys, whether operators of opset 23 are used, and whether heads have norms."""


@cache
def compiled(kv_heads: int, operators: bool, norms: bool = False, points: int = 16) -> Compilation:
    return compilation(graph_of(decoders.decoder(kv_heads, operators, norms)), points=points)


def feeds(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    return {n: x for n, x in batch(lengths).items() if n != "token_type_ids"}


def ragged(rows: list[int]) -> dict[str, Ragged]:
    whole = feeds()
    real = whole["attention_mask"] == 1
    return {"input_ids": Ragged.of([whole["input_ids"][r][real[r]] for r in rows])}


def hidden(found: Compilation, given: dict[str, Any], cpus: int = 1) -> Any:
    assert found.program is not None
    with engine.Session(found.program, cpus=range(cpus)) as session:
        return session.run(given)["last_hidden_state"]


@named(("kv_heads", "operators", "norms"), DECODERS)
@named("points", [16, 32])
def test_a_decoder_is_native_and_agrees(
    kv_heads: int, operators: bool, norms: bool, points: int
) -> None:
    found = compiled(kv_heads, operators, norms, points)
    assert found.program is not None
    assert [type(s) for s in found.program.segments] == [Sequences]
    given, real = feeds(), feeds()["attention_mask"] == 1
    got = hidden(found, given)[real]
    proto = decoders.decoder(kv_heads, operators, norms)
    want = onnxruntime_run(proto, given)["last_hidden_state"][real]
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)
    # what the nodes mean, before and after the rewrites
    for graph in (found.source, found.graph):
        meant = Reference(graph).run(given)["last_hidden_state"][real]
        np.testing.assert_allclose(got, meant, atol=1e-4, rtol=1e-4)


@named(("kv_heads", "operators", "norms"), [(2, False, True), (4, True, False)])
def test_ragged_is_padded_is_single(kv_heads: int, operators: bool, norms: bool) -> None:
    found, rows = compiled(kv_heads, operators, norms), list(range(len(LENGTHS)))
    together, padded = hidden(found, ragged(rows)), hidden(found, feeds())
    order = rows[::-1]
    shuffled = hidden(found, ragged(order), 2)
    for place, row in enumerate(order):
        own = together[row].tobytes()
        assert shuffled[place].tobytes() == own
        assert hidden(found, ragged([row]))[0].tobytes() == own
        np.testing.assert_allclose(padded[row, : LENGTHS[row]], together[row], atol=1e-4)


def test_one_lookup_of_angles_serves_all_layers() -> None:
    found = compiled(2, False)
    assert labels(found).count("colonnade.Positional") == 1
    assert labels(found).count("colonnade.Rotary") == 2 * decoders.SIZE.layers


def test_the_same_model_has_the_same_fingerprint() -> None:
    one, two = (compilation(graph_of(decoders.decoder()), points=16).program for _ in range(2))
    assert one is not None and two is not None and one.fingerprint == two.fingerprint


def test_golden_layer(golden: Callable[[str, str], None]) -> None:
    found = compilation(graph_of(decoders.decoder()), points=16)
    layer = [n for n in found.graph.nodes if "/layers/0/" in n.name or n.name.startswith("turns")]
    golden("decoder_layer", "\n".join(str(n) for n in layer) + "\n")


# ---- rotary in other spellings -------------------------------------------------------------------


@named("way", [way for way in WAYS if way.startswith("rotary")])
@named("rewrite", ["attention", "rotary"])
def test_spellings_mean_the_same_where_a_rewrite_is_off(way: str, rewrite: str) -> None:
    proto, given = model(WAYS[way].style), batch((40, 17))
    program = engine.compile(graph_of(proto), rewrites_off=(rewrite,))
    with engine.Session(program, cpus=[0]) as session:
        got = session.run(given)["last_hidden_state"]
    real = given["attention_mask"] == 1
    want = onnxruntime_run(proto, given)["last_hidden_state"]
    np.testing.assert_allclose(got[real], want[real], atol=1e-4)


def test_fed_places_beyond_the_table_are_refused_by_row() -> None:
    program = engine.compile(graph_of(model(WAYS["rotary, fed places"].style)))
    given = batch((5, 5))
    given["token_type_ids"][1, 3] = 1 << 15
    with (
        engine.Session(program, cpus=[0]) as session,
        pytest.raises(FeedError, match="row 1"),
    ):
        session.run(given)


def test_what_looks_like_a_rotation_stays() -> None:
    found = checked(model(WAYS["mirrored"].style), batch((40, 40)), 1e-4)
    assert "colonnade.Rotary" not in labels(found)
    assert "with pairs of features turned" in refusals(found, "rotary")


def test_heads_that_no_kernel_fits_run_through_the_reference() -> None:
    """Six features a head: causal attention is recognised, and left to numpy by reason."""
    proto = narrow()
    found = checked(proto, {"x": np.random.default_rng(0).standard_normal((2, 9, 12)).astype("f4")})
    assert fallbacks(found) == ["colonnade.Attention"]
    assert "not a multiple of four" in str(found.program)


def narrow() -> onnx.ModelProto:
    """Causal attention of two heads of six features, by the operator."""
    info = helper.make_tensor_value_info
    attributes = {"q_num_heads": 2, "kv_num_heads": 2, "is_causal": 1}
    node = helper.make_node("Attention", ["x", "x", "x"], ["y"], "a", **attributes)
    values = [[info(n, onnx.TensorProto.FLOAT, ["n", "s", 12])] for n in "xy"]
    graph = helper.make_graph([node], "narrow", *values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
