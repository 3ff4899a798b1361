"""The rewrites for masks and attention: what they take, refuse, and keep for any number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from exporters import SIZE, WAYS, batch, model
from onnx import TensorProto, helper
from rewritten import checked, fallbacks, labels, refusals
from small_models import info

from engine.compiler import compilation
from engine.reader import graph_of
from engine.segments import Sequences
from scripts.models import bert_attention as ways
from scripts.models.bert import FLOAT_MIN, STYLES
from scripts.models.writer import Writer

named = pytest.mark.parametrize


# ---- masks --------------------------------------------------------------------------------------


def masked(mask: Callable[..., str], dtype: int = TensorProto.INT64, **changes: Any) -> Any:
    """A BERT with another kind of mask."""
    proto = model(replace(STYLES["torch"], mask=mask, **changes))
    for value in proto.graph.input:
        if value.name == "attention_mask":
            value.type.tensor_type.elem_type = dtype
    return proto


def plain(write: Writer, mask: str, value: float) -> str:
    """Of a float mask: there the cast is nothing."""
    wide = write.unsqueeze(write.cast(mask, TensorProto.FLOAT), 1, 2)
    return write.op("Mul", write.op("Sub", write.floats(1), wide), write.floats(value))


def ready(write: Writer, mask: str, value: float) -> str:
    """A mask that is a bias as it comes."""
    return write.unsqueeze(write.cast(mask, TensorProto.FLOAT), 1, 2)


def equal_to_one(write: Writer, mask: str, value: float) -> str:
    one = write.op("Equal", write.unsqueeze(mask, 1, 2), write.int_scalar(1))
    return write.op("Where", one, write.floats(0), write.floats(value))


@named("numbers", [[0, 1], [0, 1, 2, 3, -1, 50]])
@named(
    ("mask", "dtype"),
    [
        (ways.additive_mask, TensorProto.INT64),
        (partial(ways.additive_mask, value=FLOAT_MIN), TensorProto.INT64),
        (ways.cast_first_mask, TensorProto.INT32),
        (ways.cast_first_mask, TensorProto.BOOL),
        (ways.cast_first_mask, TensorProto.UINT8),
        (ways.expanded_mask, TensorProto.INT64),
        (plain, TensorProto.FLOAT),
        (ready, TensorProto.FLOAT),
        (equal_to_one, TensorProto.INT64),
    ],
)
def test_masks_mean_the_same_for_any_number(mask: Any, dtype: int, numbers: list[int]) -> None:
    if isinstance(mask, partial):
        mask = partial(lambda w, m, _, value: ways.additive_mask(w, m, value), **mask.keywords)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    if kind.kind not in "if":
        numbers = [abs(n) for n in numbers]
    feeds = batch((21, 21, 21))
    feeds["attention_mask"] = np.random.default_rng(4).choice(numbers, (3, 21)).astype(kind)
    feeds["attention_mask"][:, 0] = 1
    found = checked(masked(mask, dtype), feeds, 2e-4)
    assert not fallbacks(found)
    assert labels(found).count("colonnade.Attention") == SIZE.layers


@named("way", ["ids, padding 0", "ids, padding 1", "ids, padding 50", "some ids"])
def test_masks_of_ids_know_every_id(way: str) -> None:
    feeds = batch((40, 40))
    feeds["input_ids"] = np.random.default_rng(1).choice([0, 1, 2, 5, 6, 49, 50, 51, 99], (2, 40))
    found = checked(model(WAYS[way].style), feeds, 2e-4)
    assert not fallbacks(found)


def test_layers_share_a_mask() -> None:
    found = compilation(graph_of(model(STYLES["torch"])))
    assert found.program is not None
    biases = {n.inputs[3] for n in found.graph.nodes if n.label == "colonnade.Attention"}
    (segment,) = (s for s in found.program.segments if isinstance(s, Sequences))
    assert len(biases) == 1 and labels(found).count("Unsqueeze") == 0
    assert sum(s.kernel.startswith("attention") for s in segment.steps) == SIZE.layers


def output(proto: onnx.ModelProto, name: str, shape: list[Any]) -> onnx.ModelProto:
    proto.graph.output.append(info(name, shape))
    return proto


def test_a_mask_that_is_an_output_too_stays() -> None:
    proto = model(STYLES["torch"])
    (name,) = {n.output[0] for n in proto.graph.node if n.op_type == "Mul"} & {
        n.input[1] for n in proto.graph.node if n.op_type == "Add"
    }
    feeds = batch((12, 12))
    found = checked(output(proto, name, ["b", 1, 1, "s"]), feeds, 1e-4)
    assert "colonnade.Attention" not in labels(found)


def test_attention_whose_shares_are_an_output_stays() -> None:
    proto = model(STYLES["torch"])
    first = next(n for n in proto.graph.node if n.op_type == "Softmax")
    found = checked(output(proto, first.output[0], ["b", 4, "s", "s"]), batch((12, 12)), 1e-4)
    assert labels(found).count("colonnade.Attention") == SIZE.layers - 1
    assert "or an output" in refusals(found, "attention")


@named("way", ["guarded", "guarded, least float", "guarded, causal"])
def test_a_query_that_sees_no_key_gets_what_the_guard_gives_it(way: str) -> None:
    feeds = batch((21, 21, 21))
    feeds["attention_mask"][0] = 0
    feeds["attention_mask"][1, :7] = 0
    found = checked(model(WAYS[way].style), feeds, 2e-4)
    assert not fallbacks(found)


def test_a_guard_over_a_bias_that_is_fed_stays() -> None:
    style = replace(WAYS["guarded"].style, mask=ready)
    found = compilation(graph_of(masked(ready, TensorProto.FLOAT, attention=style.attention)))
    assert "may hide keys by minus infinity" in refusals(found, "attention")
