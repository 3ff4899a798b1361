"""Reports on models of sequences: explanations, profiles and made-up feeds count tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small
from token_models import interrupted

import engine
from engine.errors import UnsupportedError
from engine.graph import ROWS, TOKENS, Graph, Node, Value
from engine.profiling import Profile
from engine.ragged import Ragged
from engine.reader import graph_of
from engine.rival import disagreement, padded
from engine.samples import made_up_feeds
from engine.segments import Fallback, Sequences
from engine.work_share import TYPICAL_TOKENS, multiply_adds
from engine.working_set import working_sets
from scripts.models.bert import bert
from scripts.models.bert_weights import Size, random_weights

Golden = Callable[[str, str], None]
SIZE = Size(layers=2, hidden=32, heads=4, feed_forward=64, vocabulary=100, positions=24)
L2 = 1 << 20


@cache
def plain() -> onnx.ModelProto:
    return bert(SIZE, random_weights(SIZE, 0.5), "fused", outputs=("last_hidden_state",))


def explained(model: onnx.ModelProto) -> Any:
    found = engine.explain(graph_of(model), points=16)
    return replace(found, working_sets=working_sets(found.program, L2))


def sections(text: str, *titles: str) -> str:
    """Those of an explanation."""
    parts = text.split("\n\n")
    return "\n\n".join(part for part in parts if part.split("\n")[0] in titles)


def test_golden_explanation_of_sequences(golden: Golden) -> None:
    text = sections(str(explained(plain())), "Kernels", "Sequences", "Working set", "Fallbacks")
    # why which kernel: golden for a smaller model already
    lines = [x for x in text.split("\n") if " because " not in x and not x.startswith("    ")]
    golden("explain_tokens", "\n".join(lines))


def test_golden_explanation_of_sequences_with_a_fallback_between(golden: Golden) -> None:
    found = explained(interrupted(plain()))
    assert [type(s) for s in found.program.segments] == [Sequences, Fallback, Sequences]
    golden("explain_tokens_fallback", sections(str(found), "Sequences", "Working set", "Fallbacks"))


def test_json_tells_limits_and_what_is_known_by_length() -> None:
    found = explained(plain()).to_json()
    assert found["sequences"] == {
        "tokens": 24,
        "max_tokens": 24,
        "id_limits": {"input_ids": 100, "token_type_ids": 2},
        "known_by_length": ("attention_mask", "token_type_ids"),
    }
    (w,) = found["working_sets"]
    assert w["arena_nbytes"] == w["local_nbytes"] + w["spread_nbytes"] and w["fits"]
    table = SIZE.vocabulary * SIZE.hidden * 4
    assert 0 < w["streamed_nbytes"] <= explained(plain()).program.weights_nbytes - table
    rows = small.model([small.node("Relu", "x", "y")], {"x": ["N", 4]}, {"y": ["N", 4]})
    assert engine.explain(graph_of(rows)).to_json()["sequences"] is None


def test_attention_is_counted_by_the_square_of_the_length() -> None:
    nodes = {n.operator: n for n in explained(plain()).nodes}
    tokens, hidden = SIZE.positions, SIZE.hidden
    assert nodes["colonnade.Attention"].multiply_adds == 2 * tokens * tokens * hidden
    linear = [n for n in explained(plain()).nodes if n.operator == "colonnade.Linear"]
    assert linear[0].multiply_adds == tokens * hidden * hidden


def test_scores_that_the_reference_computes_are_counted_too() -> None:
    shapes = {"q": (ROWS, 4, TOKENS, 8), "k": (ROWS, 4, 8, TOKENS), "y": (ROWS, 4, TOKENS, TOKENS)}
    node = Node("scores", "MatMul", ("q", "k"), ("y",))
    graph = Graph(
        name="g",
        inputs=(),
        outputs=(),
        nodes=(node,),
        values={n: Value(n, np.dtype(np.float32), s) for n, s in shapes.items()},
        initializers={},
        opsets={"": 17},
    )
    assert multiply_adds(node, graph, TYPICAL_TOKENS) == 4 * 128 * 128 * 8


def profiled(feeds: Any) -> Profile:
    return engine.profile(engine.compile(graph_of(plain()), points=16), feeds)


def test_a_profile_counts_the_work_of_all_tokens() -> None:
    program = engine.compile(graph_of(plain()), points=16)
    feeds = made_up_feeds(program.inputs, 5, tokens=20, id_limits=program.id_limits)
    found = profiled(feeds)
    assert (found.rows, found.tokens) == (5, 100)
    linear = next(s for s in found.steps if s.multiply_adds)
    assert linear.multiply_adds == 20 * SIZE.hidden * SIZE.hidden > linear.nonzeros > 0
    attention = next(s for s in found.steps if s.kernel.startswith("attention"))
    assert attention.multiply_adds == attention.nonzeros == 2 * 20 * 20 * SIZE.hidden


def test_a_profile_of_lengths_that_differ_gives_their_mean() -> None:
    found = profiled({"input_ids": Ragged.of([[1] * 2, [2] * 6], np.int64)})
    assert (found.rows, found.tokens) == (2, 8)
    linear = next(s for s in found.steps if s.multiply_adds)
    attention = next(s for s in found.steps if s.kernel.startswith("attention"))
    assert linear.multiply_adds == 4 * SIZE.hidden * SIZE.hidden
    assert attention.multiply_adds == 2 * (4 + 36) // 2 * SIZE.hidden


def test_nodes_without_kernel_between_sequences_are_profiled() -> None:
    program = engine.compile(graph_of(interrupted(plain())), points=16)
    found = engine.profile(program, {"input_ids": Ragged.of([[1] * 2, [2] * 6], np.int64)})
    assert [s.kernel for s in found.of_node("odd")] == ["reference"]


@pytest.mark.parametrize("tokens", [1, 24])
def test_made_up_sequences_are_valid(tokens: int) -> None:
    program = engine.compile(graph_of(plain()))
    feeds = made_up_feeds(program.inputs, 7, tokens=tokens, id_limits=program.id_limits)
    assert {a.shape for a in feeds.values()} == {(7, tokens)}
    assert feeds["input_ids"].max() > 9 and feeds["input_ids"].max() < SIZE.vocabulary
    assert feeds["attention_mask"].all() and not feeds["token_type_ids"].any()
    with engine.Session(program) as session:
        session.run(feeds)


def ragged() -> Ragged:
    return Ragged.of([[5] * 2, [6] * 6, [7]], np.int64)


def test_padded_feeds_have_a_mask_and_nothing_behind_the_tokens() -> None:
    program = engine.compile(graph_of(plain()))
    feeds = padded({"input_ids": ragged()}, program.inputs)
    assert set(feeds) == {v.name for v in program.inputs}
    assert feeds["attention_mask"].tolist() == [[1] * 2 + [0] * 4, [1] * 6, [1] + [0] * 5]
    assert feeds["input_ids"].tolist() == [[5] * 2 + [0] * 4, [6] * 6, [7] + [0] * 5]
    assert not feeds["token_type_ids"].any()
    with engine.Session(program) as session:
        ours, wide = session.run({"input_ids": ragged()}), session.run(feeds)
    assert disagreement(ours, wide) is None
    wide["last_hidden_state"][1, 5] += 1
    assert "last_hidden_state: differs" in (disagreement(ours, wide) or "")
    wide["last_hidden_state"] = wide["last_hidden_state"][:, :5]
    assert "against" in (disagreement(ours, wide) or "")


def test_without_a_mask_only_rows_of_one_length_are_padded() -> None:
    inputs = [Value("ids", np.dtype(np.int64), (ROWS, TOKENS))]
    with pytest.raises(UnsupportedError, match="no mask"):
        padded({"ids": ragged()}, inputs)
    even = padded({"ids": Ragged.of([[1, 2], [3, 4]], np.int64)}, inputs)
    assert even["ids"].tolist() == [[1, 2], [3, 4]]
