"""A decoder as torch.onnx writes Llama and its kin, used as an encoder: RMSNorm, rotary positions,
heads that share keys, a causal mask, a gated feed-forward."""

from __future__ import annotations

import numpy as np
import onnx
from exporter_masks import causal
from exporter_rotary import both, half
from onnx import TensorProto, helper

from scripts.models import bert_attention as ways
from scripts.models.bert import FLOAT_MIN
from scripts.models.bert_net import Net
from scripts.models.bert_weights import Size
from scripts.models.writer import Writer

SIZE = Size(layers=2, hidden=48, heads=4, feed_forward=96, vocabulary=100, positions=80)
KV_HEADS = 2


def decoder(
    kv_heads: int = KV_HEADS, operators: bool = False, head_norms: bool = False
) -> onnx.ModelProto:
    """input_ids, attention_mask int64[batch, sequence] -> last_hidden_state. With `operators`, in
    those of opset 23: RMSNormalization and Attention; with `head_norms`, as Qwen3 has them."""
    net = Net(Writer(23 if operators else 17), SIZE, {}, "erf")
    mask = causal(net.write, "attention_mask", FLOAT_MIN)
    x = net.write.op("Gather", _weight(net, "embed", SIZE.vocabulary, SIZE.hidden), "input_ids")
    for number in range(SIZE.layers):
        layer = net.within(f"layers.{number}")
        mixed = _attention(layer, layer_norm(layer, x, "in"), mask, kv_heads, head_norms)
        x = net.write.op("Add", x, mixed)
        x = net.write.op("Add", x, _feed_forward(layer, layer_norm(layer, x, "post")))
    net.write.op("Identity", layer_norm(net, x, "norm"), output="last_hidden_state")
    return _model(net)


def _weight(net: Net, name: str, rows: int, columns: int) -> str:
    full = f"{net.prefix}{name}"
    seed = np.frombuffer(full.encode(), np.uint8).sum()
    values = np.random.default_rng(seed).standard_normal((rows, columns)) / np.sqrt(rows)
    return net.write.weight(full, values.astype(np.float32))


def _linear(net: Net, x: str, name: str, inputs: int, outputs: int) -> str:
    return net.write.op("MatMul", x, _weight(net, name, inputs, outputs))


def layer_norm(net: Net, x: str, name: str, width: int = SIZE.hidden) -> str:
    """weight * (x * rsqrt(mean(x ** 2) + epsilon))"""
    write, scale = net.write, np.linspace(0.5, 1.5, width, dtype=np.float32)
    weight = write.weight(f"{net.prefix}{name}.weight", scale)
    if write.opset >= 23:
        return write.op("RMSNormalization", x, weight, epsilon=1e-6)
    square = write.op("Pow", x, write.floats(2))
    mean = write.reduce("ReduceMean", square, -1)
    root = write.op("Sqrt", write.op("Add", mean, write.floats(1e-6)))
    return write.op("Mul", weight, write.op("Mul", x, write.op("Div", write.floats(1), root)))


def _heads(net: Net, x: str, name: str, heads: int, norm: bool = False) -> str:
    write, each = net.write, SIZE.head
    part = _linear(net, x, name, SIZE.hidden, heads * each)
    shape = write.shape(write.dimension(part, 0), write.dimension(part, 1), heads, each)
    split = write.op("Reshape", part, shape)
    if norm:
        split = layer_norm(net, split, f"{name}_norm", each)
    return write.op("Transpose", split, perm=[0, 2, 1, 3])


def _repeated(net: Net, x: str, heads: int) -> str:
    """[N, kv heads, S, d] -> [N, heads, S, d]: Unsqueeze, Expand, Reshape."""
    write, each = net.write, SIZE.head
    rows, tokens = write.dimension(x, 0), write.dimension(x, 2)
    wide = write.shape(rows, heads, SIZE.heads // heads, tokens, each)
    spread = write.op("Expand", write.unsqueeze(x, 2), wide)
    return write.op("Reshape", spread, write.shape(rows, SIZE.heads, tokens, each))


def _attention(net: Net, x: str, mask: str, kv_heads: int, norms: bool) -> str:
    write = net.write
    q, k = (
        _heads(net, x, name, heads, norms)
        for name, heads in (("q_proj", SIZE.heads), ("k_proj", kv_heads))
    )
    v = _heads(net, x, "v_proj", kv_heads)
    cosine, sine = both(net, x, SIZE.head)
    q, k = half(net, q, cosine, sine), half(net, k, cosine, sine)
    if write.opset >= 23:
        mixed = write.op("Attention", q, k, v, mask)
        return _linear(net, ways.join_heads(net, mixed), "o_proj", SIZE.hidden, SIZE.hidden)
    if kv_heads != SIZE.heads:
        k, v = _repeated(net, k, kv_heads), _repeated(net, v, kv_heads)
    product = write.op("MatMul", q, write.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = write.op("Mul", product, write.floats(SIZE.head**-0.5))
    shares = write.op("Softmax", write.op("Add", scores, mask), axis=-1)
    mixed = ways.join_heads(net, write.op("MatMul", shares, v))
    return _linear(net, mixed, "o_proj", SIZE.hidden, SIZE.hidden)


def _feed_forward(net: Net, x: str) -> str:
    write, wide = net.write, SIZE.feed_forward
    gate, up = (_linear(net, x, name, SIZE.hidden, wide) for name in ("gate_proj", "up_proj"))
    inner = write.op("Mul", write.op("Mul", gate, write.op("Sigmoid", gate)), up)
    return _linear(net, inner, "down_proj", wide, SIZE.hidden)


def _model(net: Net) -> onnx.ModelProto:
    info, tokens = helper.make_tensor_value_info, ["batch", "sequence"]
    graph = helper.make_graph(
        net.write.nodes,
        "decoder",
        [info(n, TensorProto.INT64, tokens) for n in ("input_ids", "attention_mask")],
        [info("last_hidden_state", TensorProto.FLOAT, [*tokens, SIZE.hidden])],
        list(net.write.initializers.values()),
    )
    opsets = [helper.make_opsetid("", net.write.opset)]
    version = max(8, helper.find_min_ir_version_for(opsets))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=version)
    onnx.checker.check_model(model, full_check=True)
    return model
