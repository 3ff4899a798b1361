"""BERT encoders as ONNX graphs, in the styles that exporters and people have written them.

| style   | opset | as                                                                            |
|---------|-------|-------------------------------------------------------------------------------|
| `torch` | 14    | torch.onnx wrote HuggingFace's eager BERT: all shapes by arithmetic, LayerNorm |
|         |       | and GELU written out, scores / sqrt d + (1 - mask) * -10000                    |
| `sdpa`  | 17    | torch.onnx writes scaled_dot_product_attention: scale on queries and keys, the |
|         |       | mask expanded and filled, LayerNormalization (and Gelu with `opset=20`)        |
| `fused` | 23    | today's operators: Attention with a boolean mask, LayerNormalization, Gelu     |
| `old`   | 11    | by hand: a joint MatMul and Split, Reshapes with 0, axes as attributes, tanh   |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from scripts.models import bert_attention as attention
from scripts.models.bert_net import Net
from scripts.models.bert_pooling import decomposed_sentence, fused_sentence, pooler
from scripts.models.bert_weights import Size, Weights
from scripts.models.writer import Writer

Gelu = Literal["erf", "tanh"]
FLOAT_MIN = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class Style:
    opset: int
    """The one it is written in unless told otherwise, and the oldest that it can be."""
    positions: Callable[[Net, str], str]
    """Embeddings of positions, from the token ids."""
    mask: Callable[[Writer, str, float], str]
    attention: Callable[[Net, str, str], str]
    sentence: Callable[[Net, str, str, str], str]
    mask_value: float = -10000.0
    gelu: Gelu = "erf"


STYLES = {
    "torch": Style(
        14,
        attention.sliced_ids,
        attention.additive_mask,
        attention.eager,
        decomposed_sentence,
    ),
    "sdpa": Style(
        17,
        attention.sliced_ids,
        attention.expanded_mask,
        attention.scaled_dot_product,
        decomposed_sentence,
        mask_value=FLOAT_MIN,
    ),
    "fused": Style(
        23,
        attention.ranged,
        attention.boolean_mask,
        attention.one_operator,
        fused_sentence,
    ),
    "old": Style(
        11,
        attention.sliced_table,
        attention.cast_first_mask,
        attention.split_projection,
        fused_sentence,
        gelu="tanh",
    ),
}

OUTPUTS = {
    "last_hidden_state": ("batch_size", "sequence_length", "hidden"),
    "pooler_output": ("batch_size", "hidden"),
    "sentence_embedding": ("batch_size", "hidden"),
}
"""What a graph may give: every token's features, tanh of the first token's through the pooler,
the mean over a sentence's tokens scaled to length 1."""


def bert(
    size: Size,
    weights: Weights,
    style: str = "torch",
    *,
    outputs: Sequence[str] = ("last_hidden_state",),
    opset: int | None = None,
    gelu: Gelu | None = None,
    mask_value: float | None = None,
) -> onnx.ModelProto:
    """input_ids, attention_mask, token_type_ids int64[batch_size, sequence_length] -> `outputs`.

    `gelu`, `mask_value` and a newer `opset` replace those of the style.
    """
    written = STYLES[style]
    opset = written.opset if opset is None else opset
    if opset < written.opset:
        raise ValueError(f"opset: expected {written.opset} or newer for {style}, got {opset}")
    net = Net(Writer(opset), size, weights, gelu or written.gelu)
    value = written.mask_value if mask_value is None else mask_value
    if math.isinf(value) and written.mask is not attention.expanded_mask:
        # 0 * -inf is NaN
        raise ValueError(f"mask_value: expected a finite one for {style}, got {value}")
    hidden = encoder(net, written, value)
    if "pooler_output" in outputs:
        pooler(net, hidden, "pooler_output")
    if "sentence_embedding" in outputs:
        written.sentence(net, hidden, "attention_mask", "sentence_embedding")
    return finish(net, f"bert_{style}", outputs)


def encoder(net: Net, style: Style, mask_value: float) -> str:
    """Embeddings and layers, to last_hidden_state."""
    mask = style.mask(net.write, "attention_mask", mask_value)
    x, last = embeddings(net.within("embeddings"), style), net.size.layers - 1
    for number in range(net.size.layers):
        layer = net.within(f"encoder.layer.{number}")
        context = style.attention(layer.within("attention.self"), x, mask)
        x = residual(layer.within("attention.output"), context, x)
        wide = layer.within("intermediate")
        inner = wide.activation(wide.linear(x, "dense"))
        x = residual(
            layer.within("output"), inner, x, "last_hidden_state" if number == last else ""
        )
    return x


def embeddings(net: Net, style: Style) -> str:
    """Words, token types and positions added up, then LayerNorm."""
    words = net.write.op("Gather", net.parameter("word_embeddings.weight"), "input_ids")
    types = net.write.op("Gather", net.parameter("token_type_embeddings.weight"), "token_type_ids")
    both = net.write.op("Add", words, types)
    return net.norm(net.write.op("Add", both, style.positions(net, "input_ids")))


def residual(net: Net, x: str, skipped: str, output: str = "") -> str:
    """LayerNorm(linear(x) + skipped)"""
    return net.norm(net.write.op("Add", net.linear(x, "dense"), skipped), output=output)


def finish(net: Net, name: str, outputs: Sequence[str]) -> onnx.ModelProto:
    """The model, checked, with free batch and sequence."""
    info = helper.make_tensor_value_info
    tokens = ["batch_size", "sequence_length"]
    names = ("input_ids", "attention_mask", "token_type_ids")
    sized = {"hidden": net.size.hidden}
    graph = helper.make_graph(
        net.write.nodes,
        name,
        [info(n, TensorProto.INT64, tokens) for n in names],
        [info(o, TensorProto.FLOAT, [sized.get(d, d) for d in OUTPUTS[o]]) for o in outputs],
        list(net.write.initializers.values()),
    )
    opsets = [helper.make_opsetid("", net.write.opset)]
    ir_version = max(6, helper.find_min_ir_version_for(opsets))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    onnx.checker.check_model(model, full_check=True)
    return model
