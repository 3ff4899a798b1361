"""onnxruntime's own operators: as it saves models, as its optimizer writes them, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small
from exporters import SIZE, STYLES, WAYS, WEIGHTS, batch, model
from onnx import TensorProto, helper, numpy_helper
from rewritten import checked, fallbacks, floats, labels
from small_models import Array

import engine
from engine.errors import EngineError
from engine.ragged import Ragged
from engine.reader import graph_of
from scripts.models.bert import Style

named = pytest.mark.parametrize
MICROSOFT = "com.microsoft"


def own(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    made = small.node(op, inputs, outputs, domain=MICROSOFT, **attributes)
    made.output[:] = ["" if n == "-" else n for n in made.output]
    return made


def saved(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model as onnxruntime saves it when it has optimised it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "saved.onnx")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "saved.onnx")


SAVED: Mapping[str, tuple[Style, set[str]]] = {
    "torch": (STYLES["torch"], {"FusedMatMul", "BiasGelu"}),
    "old": (STYLES["old"], {"FusedMatMul", "FastGelu"}),
    "counted": (WAYS["counted"].style, {"FusedMatMul", "BiasGelu", "SkipLayerNormalization"}),
    "tanh": (replace(STYLES["torch"], gelu="tanh"), {"FusedMatMul", "FastGelu"}),
}


@named("name", SAVED)
def test_a_model_that_onnxruntime_saved_is_native(name: str, tmp_path: Path) -> None:
    style, expected = SAVED[name]
    proto = saved(model(style), tmp_path)
    assert {n.op_type for n in proto.graph.node if n.domain == MICROSOFT} == expected
    found = checked(proto, batch((40, 40, 40)))
    assert not fallbacks(found)
    assert labels(found).count("colonnade.Attention") == SIZE.layers
    assert not {"Erf", "Tanh", "ReduceMean"} & set(labels(found))


def optimised() -> onnx.ModelProto:
    """What onnxruntime.transformers.optimizer made of `torch`, written by hand after its output."""
    constants = {n: np.array(w) for n, w in WEIGHTS.items()}
    nodes = [
        small.node("Cast", name, f"{name}_int32", to=TensorProto.INT32)
        for name in ("input_ids", "token_type_ids", "attention_mask")
    ]
    tables = " ".join(
        f"embeddings.{n}_embeddings.weight" for n in ("word", "position", "token_type")
    )
    scales = "embeddings.LayerNorm.weight embeddings.LayerNorm.bias"
    words = f"input_ids_int32 token_type_ids_int32 {tables} {scales} attention_mask_int32"
    nodes.append(own("EmbedLayerNormalization", words, "x0 mask_index", epsilon=SIZE.epsilon))
    for layer in range(SIZE.layers):
        nodes += _layer(f"encoder.layer.{layer}.", f"x{layer}", f"x{layer + 1}", constants)
    nodes[-1].output[0] = "last_hidden_state"
    tokens = ["batch_size", "sequence_length"]
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    graph = helper.make_graph(
        nodes,
        "optimised",
        [small.info(n, tokens, np.int64) for n in inputs],
        [small.info("last_hidden_state", [*tokens, SIZE.hidden])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    imports = [helper.make_opsetid("", 14), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _layer(at: str, x: str, y: str, constants: dict[str, Array]) -> list[onnx.NodeProto]:
    three = [f"{at}attention.self.{n}" for n in ("query", "key", "value")]
    constants[f"{at}qkv.w"] = np.concatenate([WEIGHTS[f"{n}.weight"].T for n in three], axis=1)
    constants[f"{at}qkv.b"] = np.concatenate([WEIGHTS[f"{n}.bias"] for n in three])
    for name in ("attention.output.dense", "intermediate.dense", "output.dense"):
        constants[f"{at}{name}.w"] = np.ascontiguousarray(WEIGHTS[f"{at}{name}.weight"].T)
    attention, inner, norm = f"{at}attention.output", f"{at}intermediate.dense", f"{at}output"

    def skip(x: str, other: str, y: str, where: str) -> onnx.NodeProto:
        scales = f"{where}.LayerNorm.weight {where}.LayerNorm.bias {where}.dense.bias"
        words = f"{x} {other} {scales}"
        return own("SkipLayerNormalization", words, y, epsilon=SIZE.epsilon)

    qkv = f"{x} {at}qkv.w {at}qkv.b mask_index"
    return [
        own("Attention", qkv, f"{at}mixed", num_heads=SIZE.heads),
        small.node("MatMul", f"{at}mixed {attention}.dense.w", f"{at}joined"),
        skip(f"{at}joined", x, f"{at}middle", attention),
        small.node("MatMul", f"{at}middle {inner}.w", f"{at}wide"),
        own("BiasGelu", f"{at}wide {inner}.bias", f"{at}act"),
        small.node("MatMul", f"{at}act {norm}.dense.w", f"{at}narrow"),
        skip(f"{at}narrow", f"{at}middle", y, norm),
    ]


def test_a_model_that_the_optimizer_made_is_native() -> None:
    found = checked(optimised(), batch((40, 40, 40)))
    assert not fallbacks(found)
    assert labels(found).count("colonnade.Attention") == SIZE.layers
    assert labels(found).count("colonnade.LayerNorm") == 1 + 2 * SIZE.layers


def test_it_masks_and_runs_rows_of_any_length_as_it_did_before() -> None:
    lengths = (33, 5, 12)
    program = engine.compile(graph_of(optimised()))
    feeds = batch(lengths)
    want = small.onnxruntime_run(model(STYLES["torch"]), feeds)["last_hidden_state"]
    ragged = {
        n: Ragged.of([a[r, :length] for r, length in enumerate(lengths)])
        for n, a in feeds.items()
        if n != "attention_mask"
    }
    with engine.Session(program, cpus=[0]) as session:
        padded = session.run(feeds)["last_hidden_state"]
        apart = session.run(ragged)["last_hidden_state"]
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(padded[row, :length], want[row, :length], atol=1e-4)
        np.testing.assert_allclose(apart[row], want[row, :length], atol=1e-4)


X, SKIP = floats(3, 7, 8), floats(3, 7, 8)
MASK = np.array([[1] * 7, [1, 1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 0, 1, 1]], np.int32)
FED = {"x": X, "skip": SKIP, "mask": MASK}
VECTORS = {"scale": floats(8), "bias": floats(8), "more": floats(8), "w": floats(8, 24)}
VECTORS |= {"qkv": floats(24), "m": floats(6, 8)}


def check(node: onnx.NodeProto, opset: int, outputs: str = "y", *, refuses: str = "") -> None:
    """One node beside onnxruntime, on values of tokens."""
    read = {n: VECTORS[n] for n in node.input if n in VECTORS}
    fed = {n: a for n, a in FED.items() if n in node.input}
    inputs = {n: ["N", "S", *a.shape[2:]] for n, a in fed.items()}
    proto = small.model([node], inputs, outputs, read, opset, com_microsoft=1)
    for info in proto.graph.input:
        if info.name == "mask":
            info.type.tensor_type.elem_type = TensorProto.INT32
    if refuses:
        with pytest.raises(EngineError, match=refuses):
            engine.compile(graph_of(proto))
    else:
        assert not fallbacks(checked(proto, fed))


ONE_BY_ONE: dict[str, tuple[onnx.NodeProto, str]] = {
    "skip": (own("SkipLayerNormalization", "x skip scale bias", "y"), "y"),
    "skip, no bias": (own("SkipLayerNormalization", "x skip scale", "y"), "y"),
    "skip, all": (own("SkipLayerNormalization", "x skip scale bias more", "y - - s"), "y s"),
    "skip, sum": (own("SkipLayerNormalization", "x skip scale - more", "y - - s"), "s y"),
    "rms": (own("SkipSimplifiedLayerNormalization", "x skip scale", "y", epsilon=1e-6), "y"),
    "rms, sum": (
        own("SkipSimplifiedLayerNormalization", "x skip scale more", "y - - s", epsilon=1e-6),
        "y s",
    ),
    "simplified": (small.node("SimplifiedLayerNormalization", "x scale", "y", epsilon=1e-6), "y"),
    "norm": (small.node("LayerNormalization", "x scale bias", "y", axis=-1), "y"),
    "gelu": (own("Gelu", "x", "y"), "y"),
    "bias gelu": (own("BiasGelu", "x bias", "y"), "y"),
    "fast gelu": (own("FastGelu", "x", "y"), "y"),
    "fast gelu, bias": (own("FastGelu", "x bias", "y"), "y"),
    "quick gelu": (own("QuickGelu", "x", "y"), "y"),
    "quick gelu, silu": (own("QuickGelu", "x", "y", alpha=1.0), "y"),
    "matmul": (own("FusedMatMul", "x w", "y", alpha=0.5), "y"),
    "matmul, turned": (own("FusedMatMul", "x m", "y", transB=1), "y"),
    "attention": (own("Attention", "x w qkv", "y", num_heads=2), "y"),
    "attention, causal": (
        own("Attention", "x w qkv", "y", num_heads=2, unidirectional=1),
        "y",
    ),
    "attention, scaled": (own("Attention", "x w qkv", "y", num_heads=2, scale=0.1), "y"),
    "attention, masked": (
        own("Attention", "x w qkv mask", "y", num_heads=2, mask_filter_value=-20000.0),
        "y",
    ),
    "heads, masked": (own("MultiHeadAttention", "x skip x qkv mask", "y", num_heads=2), "y"),
    "heads": (own("MultiHeadAttention", "x skip x qkv", "y", num_heads=2), "y"),
    "heads, scaled": (own("MultiHeadAttention", "x x skip qkv", "y", num_heads=2, scale=0.1), "y"),
    "attention, widths": (
        own("Attention", "x w qkv", "y", num_heads=2, qkv_hidden_sizes=[8, 8, 8]),
        "y",
    ),
}


@named("opset", [11, 14, 20])
@named("case", ONE_BY_ONE)
def test_each_operator_means_what_onnxruntime_says(case: str, opset: int) -> None:
    node, outputs = ONE_BY_ONE[case]
    check(node, opset, outputs)


REFUSED: dict[str, tuple[onnx.NodeProto, str]] = {
    "deviations": (own("SkipLayerNormalization", "x skip scale bias", "y - d"), "y d"),
    "a past": (own("Attention", "x w qkv - past", "y present", num_heads=2), "y present"),
    "rotary": (own("Attention", "x w qkv", "y", num_heads=2, do_rotary=1), "y"),
    "batches": (own("FusedMatMul", "x w", "y", transBatchA=1), "y"),
    "heads in words": (own("Attention", "x w qkv", "y", num_heads="two"), "y"),
    "widths": (own("Attention", "x w qkv", "y", num_heads=2, qkv_hidden_sizes=[8]), "y"),
    "heads of a width that nobody tells": (
        own("MultiHeadAttention", "x x x", "y", num_heads=2),
        "y",
    ),
    "no heads": (own("Attention", "x w qkv", "y"), "y"),
    "too few inputs": (own("Attention", "x", "y", num_heads=2), "y"),
    "unknown": (own("GroupQueryAttention", "x w qkv", "y", num_heads=2), "y"),
}


@named("case", REFUSED)
def test_what_is_used_in_another_way_is_refused_by_its_name(case: str) -> None:
    node, outputs = REFUSED[case]
    check(node, 17, outputs, refuses=f"com.microsoft.{node.op_type}")
