"""BERT's styles: one set of weights means the same features however a graph was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from rewritten import STYLES_AND_MASKS
from small_models import onnxruntime_run as run

from engine import reference
from engine.reader import graph_of
from scripts.make_models import arguments, build
from scripts.models.bert import OUTPUTS, STYLES, bert
from scripts.models.bert_weights import Size, random_weights

Array = np.ndarray[Any, np.dtype[Any]]

SIZE = Size(layers=2, hidden=48, heads=4, feed_forward=96, vocabulary=100, positions=32)
WEIGHTS = random_weights(SIZE, 0.5)
LENGTHS = (11, 7, 3)
ALL = tuple(OUTPUTS)


def batch(lengths: tuple[int, ...] = LENGTHS, fill: int = 0) -> dict[str, Array]:
    """Random tokens of those lengths, padded with `fill` to the longest."""
    shape = (len(lengths), max(lengths))
    random = np.random.default_rng(0)
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    ids = random.integers(1, SIZE.vocabulary, shape)
    return {
        "input_ids": np.where(mask == 1, ids, fill),
        "attention_mask": mask,
        "token_type_ids": np.where(mask == 1, random.integers(0, 2, shape), 0),
    }


def assert_same(got: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Within 1e-4, but for what tokens of padding say, which nothing reads."""
    real = batch()["attention_mask"] == 1
    assert set(got) == set(expected)
    for name, want in expected.items():
        have = got[name][real] if want.ndim == 3 else got[name]
        np.testing.assert_allclose(have, want[real] if want.ndim == 3 else want, atol=1e-4)


@pytest.mark.parametrize("gelu", ["erf", "tanh"])
@pytest.mark.parametrize(("style", "opset", "mask"), STYLES_AND_MASKS)
def test_styles_agree(style: str, opset: int, mask: float | None, gelu: Any) -> None:
    expected = run(bert(SIZE, WEIGHTS, "torch", outputs=ALL, gelu=gelu), batch())
    model = bert(SIZE, WEIGHTS, style, outputs=ALL, opset=opset, gelu=gelu, mask_value=mask)
    assert_same(run(model, batch()), expected)


@pytest.mark.parametrize("style", STYLES)
def test_onnx_reference_agrees_with_onnxruntime(style: str) -> None:
    model = bert(SIZE, WEIGHTS, style, outputs=ALL)
    results = ReferenceEvaluator(model).run(None, batch())
    assert_same(dict(zip(ALL, results, strict=True)), run(model, batch()))


@pytest.mark.parametrize("style", STYLES)
def test_our_reader_and_reference_agree_with_onnxruntime(style: str) -> None:
    model = bert(SIZE, WEIGHTS, style, outputs=ALL)
    assert_same(reference.run(graph_of(model), batch()), run(model, batch()))


@pytest.mark.parametrize("style", STYLES)
def test_padding_says_nothing(style: str) -> None:
    model = bert(SIZE, WEIGHTS, style, outputs=ALL)
    together = run(model, batch())
    for other in (run(model, batch(fill=5)), run(model, batch((*LENGTHS[:2], LENGTHS[0])))):
        np.testing.assert_allclose(
            other["sentence_embedding"][1], together["sentence_embedding"][1], atol=1e-5
        )
    for row, length in enumerate(LENGTHS):
        one = {name: array[row : row + 1, :length] for name, array in batch().items()}
        alone = run(model, one)
        assert_same_row(alone, together, row, length)


def assert_same_row(
    alone: Mapping[str, Array], together: Mapping[str, Array], row: int, n: int
) -> None:
    hidden = "last_hidden_state"
    np.testing.assert_allclose(alone[hidden][0], together[hidden][row, :n], atol=1e-5)
    for name in ("pooler_output", "sentence_embedding"):
        np.testing.assert_allclose(alone[name][0], together[name][row], atol=1e-5)
    assert np.linalg.norm(alone["sentence_embedding"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_batch_and_sequence_are_free(style: str) -> None:
    model = bert(SIZE, WEIGHTS, style)
    for value in (*model.graph.input, *model.graph.output):
        assert [d.dim_param for d in value.type.tensor_type.shape.dim][:2] == [
            "batch_size",
            "sequence_length",
        ]
    for lengths in ((1,), (32, 2), (4, 4, 4, 4, 4)):
        got = run(model, batch(lengths))["last_hidden_state"]
        assert got.shape == (len(lengths), max(lengths), SIZE.hidden)


@pytest.mark.parametrize(
    ("style", "there", "not_there"),
    [
        ("torch", {"Erf": 2, "Pow": 5, "Softmax": 2}, {"LayerNormalization", "Gelu", "Split"}),
        ("sdpa", {"LayerNormalization": 5, "Where": 2, "Erf": 2, "Expand": 1}, {"Gelu"}),
        ("fused", {"Attention": 2, "LayerNormalization": 5, "Gelu": 2}, {"Softmax", "Reshape"}),
        ("old", {"Split": 2, "Tanh": 2, "Softmax": 2}, {"Erf", "LayerNormalization"}),
    ],
)
def test_each_style_is_written_in_its_own_operators(
    style: str, there: dict[str, int], not_there: set[str]
) -> None:
    counts = Counter(node.op_type for node in bert(SIZE, WEIGHTS, style).graph.node)
    assert {name: counts[name] for name in there} == there
    assert not not_there & set(counts)


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_zeros_are_in_the_six_matrices_of_each_layer_only(sparsity: float, blocks: bool) -> None:
    model = bert(SIZE, random_weights(SIZE, sparsity, blocks=blocks), outputs=ALL)
    read = {i for n in model.graph.node if n.op_type == "MatMul" for i in n.input}
    matrices = 0
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.name in read:
            matrices += 1
            assert abs(np.sum(array == 0) - sparsity * array.size) < (4 if blocks else 1)
            groups = (array.reshape(len(array), -1, 4) == 0).sum(2)
            assert set(np.unique(groups)) <= ({0, 4} if blocks else {0, 1, 2, 3, 4})
        elif array.dtype == np.float32:
            assert np.all(array != 0)
    assert matrices == 6 * SIZE.layers


def test_activations_keep_their_size_and_the_seed_decides_the_bytes() -> None:
    one, same, other = (bert(SIZE, random_weights(SIZE, 0.9, seed), "torch") for seed in (1, 1, 2))
    assert one.SerializeToString() == same.SerializeToString() != other.SerializeToString()
    assert 0.3 < run(one, batch())["last_hidden_state"].std() < 3


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["bert", "--sparsity", "1.5"], "sparsity: expected 0 to 1, got 1.5"),
        (["bert", "--style", "fused", "--opset", "17"], "expected 23 or newer for fused, got 17"),
        (["bert", "--mask-value=-inf"], "mask_value: expected a finite one for torch, got -inf"),
        (["bert", "--hidden", "50"], "expected a multiple of 12 heads; 50"),
        (["mlp", "--sizes", "3"], "sizes: expected two or more"),
    ],
)
def test_what_cannot_be_built_is_refused(words: list[str], why: str) -> None:
    small = ["--layers", "1", "--vocabulary", "9"] if words[0] == "bert" else []
    with pytest.raises(ValueError, match=why):
        build(arguments().parse_args([*words, *small, "-o", "x.onnx"]))


def test_the_command_line_builds_what_it_is_asked() -> None:
    asked = "bert --layers 1 --hidden 32 --heads 4 --vocabulary 50 --positions 16 --style sdpa"
    args = arguments().parse_args([*asked.split(), "--mask-value=-inf", "-o", "x.onnx"])
    model = build(args)
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    assert shapes["encoder.layer.0.intermediate.dense.weight"] == (32, 128)
    assert shapes["embeddings.word_embeddings.weight"] == (50, 32)
    feeds = batch((5, 2))
    feeds["input_ids"] %= 50
    assert np.isfinite(run(model, feeds)["last_hidden_state"]).all()
