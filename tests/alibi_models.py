"""BLOOM and MPT as torch.onnx writes them: ALiBi by the key's place alone.

BLOOM counts the tokens of its mask, splits queries, keys and values head by head, and puts heads
into the rows for its products; MPT counts places back from the last one. Both give logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from exporter_masks import END, causal, causal_float
from onnx import TensorProto, helper

from scripts.models import bert_attention as ways
from scripts.models.bert import FLOAT_MIN
from scripts.models.bert_net import Net, gelu_erf
from scripts.models.bert_weights import Size
from scripts.models.writer import Writer

INPUTS = ("input_ids", "attention_mask")
SIZE = Size(layers=2, hidden=48, heads=4, feed_forward=96, vocabulary=100, positions=80)

SIX = Size(layers=1, hidden=48, heads=6, feed_forward=96, vocabulary=100, positions=80)
"""Heads that are no power of two, and so have slopes of two kinds."""


def _weight(net: Net, name: str, *shape: int) -> str:
    full = f"{net.prefix}{name}"
    seed = np.frombuffer(full.encode(), np.uint8).sum()
    scale = 1 if len(shape) == 1 else math.sqrt(shape[0])
    values = np.random.default_rng(seed).standard_normal(shape) / scale
    return net.write.weight(full, values.astype(np.float32))


def _linear(net: Net, x: str, name: str, inputs: int, outputs: int, bias: bool) -> str:
    y = net.write.op("MatMul", x, _weight(net, f"{name}.weight", inputs, outputs))
    return net.write.op("Add", _weight(net, f"{name}.bias", outputs), y) if bias else y


def _norm(net: Net, x: str, name: str, bias: bool) -> str:
    parts = ("weight", "bias") if bias else ("weight",)
    more = [_weight(net, f"{name}.{part}", net.size.hidden) for part in parts]
    return net.write.op("LayerNormalization", x, *more, axis=-1, epsilon=1e-5)


def _decoder(net: Net, bias: bool, mixed: Callable[[Net, str], str], feed: str) -> onnx.ModelProto:
    """input_ids, attention_mask int64[batch, sequence] -> logits, by the embeddings turned."""
    write, size = net.write, net.size
    words = _weight(net, "embeddings.weight", size.vocabulary, size.hidden)
    x = write.op("Gather", words, "input_ids")
    x = _norm(net, x, "embeddings_norm", bias) if bias else x
    for number in range(size.layers):
        layer = net.within(f"h.{number}")
        context = mixed(layer, _norm(layer, x, "norm_1", bias))
        y = _linear(layer, context, "dense", size.hidden, size.hidden, bias)
        x = write.op("Add", x, y)
        wide = _norm(layer, x, "norm_2", bias)
        wide = _linear(layer, wide, "up", size.hidden, size.feed_forward, bias)
        inner = bloom_gelu(write, wide) if feed == "bloom" else gelu_erf(write, wide)
        x = write.op("Add", _linear(layer, inner, "down", size.feed_forward, size.hidden, bias), x)
    x = _norm(net, x, "norm", bias)
    write.op("MatMul", x, write.op("Transpose", words, perm=[1, 0]), output="logits")
    return _model(net, feed)


def _model(net: Net, name: str) -> onnx.ModelProto:
    info, tokens, nodes = helper.make_tensor_value_info, ["batch", "sequence"], net.write.nodes
    graph = helper.make_graph(
        nodes,
        name,
        [info(n, TensorProto.INT64, tokens) for n in INPUTS if any(n in m.input for m in nodes)],
        [info("logits", TensorProto.FLOAT, [*tokens, net.size.vocabulary])],
        list(net.write.initializers.values()),
    )
    opsets = [helper.make_opsetid("", net.write.opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def bloom_gelu(write: Writer, x: str) -> str:
    """x * 0.5 * (1 + tanh(0.79788456 x (1 + 0.044715 x x)))"""
    half = write.op("Mul", x, write.floats(0.5))
    outer = write.op("Mul", x, write.floats(0.79788456))
    square = write.op("Mul", write.op("Mul", x, write.floats(0.044715)), x)
    inner = write.op("Mul", outer, write.op("Add", square, write.floats(1)))
    return write.op("Mul", half, write.op("Add", write.op("Tanh", inner), write.floats(1)))


# ---- BLOOM ------------------------------------------------------------------------------------


def bloom(
    size: Size = SIZE, older: bool = False, odd: str = "", fed: bool = True
) -> onnx.ModelProto:
    """`older` fills the scores where a mask says so, and splits heads by Split. An `odd` one counts
    backwards, or takes squares, which no model does; or it is `fed` no mask and counts all."""
    net = Net(Writer(17), size, {}, "tanh")
    slopes = _powers(net, 8 / 2 ** math.floor(math.log2(size.heads)))
    counted = "attention_mask" if fed else _ones(net.write)
    alibi = bloom_alibi(net, slopes, counted, odd)
    mask = hidden(net.write) if older else causal_float(net.write, counted, FLOAT_MIN)

    def mixed(layer: Net, x: str) -> str:
        return _bloom_attention(layer, x, alibi, mask, older)

    return _decoder(net, True, mixed, "bloom")


def _powers(net: Net, exponent: float) -> str:
    """Slopes [heads]: 2 ** -exponent and its powers, then every other one of the next halves."""
    whole = 2 ** math.floor(math.log2(net.size.heads))
    parts = [net.write.op("Pow", net.write.floats(2**-exponent), _counted_up(net, whole, 1))]
    if net.size.heads > whole:
        more = net.write.floats(2 ** (-exponent / 2))
        parts.append(net.write.op("Pow", more, _counted_up(net, net.size.heads - whole, 2)))
    return net.write.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


def _counted_up(net: Net, count: int, step: int) -> str:
    bounds = (1, 1 + step * count, step)
    return net.write.op("Range", *(net.write.int_scalar(n) for n in bounds))


def _ones(write: Writer) -> str:
    """int64[batch, sequence] as torch.ones makes it."""
    rows, tokens = (write.dimension("input_ids", axis) for axis in (0, 1))
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    return write.op("ConstantOfShape", write.shape(rows, tokens), value=one)


def bloom_alibi(net: Net, slopes: str, mask: str, odd: str) -> str:
    """[batch * heads, 1, sequence]: slopes * ((cumsum(mask) - 1) * mask)"""
    write = net.write
    sums = write.op("CumSum", mask, write.int_scalar(-1), reverse=int(odd == "backwards"))
    places = write.op("Mul", write.op("Sub", sums, write.int_scalar(1)), mask)
    places = write.op("Mul", places, places) if odd == "squares" else places
    places = write.cast(write.unsqueeze(places, 1), TensorProto.FLOAT)
    alibi = write.op("Mul", write.unsqueeze(slopes, 1), places)
    rows = write.op("Mul", write.dimension(mask, 0), write.int_scalar(net.size.heads))
    return write.op("Reshape", alibi, write.shape(rows, 1, write.dimension(mask, 1)))


def hidden(write: Writer) -> str:
    """bool[batch, 1, sequence, sequence], true where a query does not see a key."""
    mask = "attention_mask"
    batch, length = (write.dimension(mask, axis) for axis in (0, 1))
    places = write.op("Range", write.int_scalar(0), length, write.int_scalar(1))
    later = write.op("Less", write.unsqueeze(places, 1), write.unsqueeze(places, 0))
    sizes = write.shape(batch, 1, length, length)
    later = write.op("Expand", write.unsqueeze(later, 0, 1), sizes)
    real = write.cast(write.unsqueeze(mask, 1, 2), TensorProto.BOOL)
    return write.op("Or", write.op("Not", write.op("Expand", real, sizes)), later)


def _bloom_attention(net: Net, x: str, alibi: str, mask: str, older: bool) -> str:
    write, size = net.write, net.size
    batch, length = write.dimension(x, 0), write.dimension(x, 1)
    joint = _linear(net, x, "query_key_value", size.hidden, 3 * size.hidden, bias=True)
    rows = write.op("Mul", batch, write.int_scalar(size.heads))

    def folded(part: str, perm: list[int], *last: str | int) -> str:
        return write.op("Reshape", write.op("Transpose", part, perm=perm), write.shape(rows, *last))

    if older:
        split = write.op("Reshape", joint, write.shape(batch, length, size.heads, 3 * size.head))
        q, k, v = write.split(split, 3, [size.head] * 3)
        k = folded(k, [0, 2, 3, 1], size.head, length)
    else:
        split = write.op("Reshape", joint, write.shape(batch, length, size.heads, 3, size.head))
        q, k, v = (write.op("Gather", split, write.int_scalar(i), axis=3) for i in range(3))
        k = write.op("Transpose", folded(k, [0, 2, 1, 3], -1, size.head), perm=[0, 2, 1])
    q, v = (folded(part, [0, 2, 1, 3], length, size.head) for part in (q, v))
    product = write.op("Mul", write.op("MatMul", q, k), write.floats(1 / math.sqrt(size.head)))
    scores = write.op("Add", product, write.op("Mul", alibi, write.floats(1)))
    scores = write.op("Reshape", scores, write.shape(batch, size.heads, length, -1))
    if older:
        scores = write.op("Mul", scores, write.floats(1))
        scores = write.op("Where", mask, write.floats(FLOAT_MIN), scores)
    else:
        scores = write.op("Add", scores, mask)
    shares = write.op("Softmax", scores, axis=-1)
    context = write.op("MatMul", write.op("Reshape", shares, write.shape(rows, length, -1)), v)
    whole = write.op("Div", write.dimension(context, 0), write.int_scalar(size.heads))
    unfolded = write.shape(whole, size.heads, write.dimension(context, 1), size.head)
    return ways.join_heads(net, write.op("Reshape", context, unfolded))


# ---- MPT --------------------------------------------------------------------------------------


def mpt(size: Size = SIZE, odd: str = "") -> onnx.ModelProto:
    """An `odd` one takes squares."""
    net = Net(Writer(17), size, {}, "erf")
    write, mask = net.write, "attention_mask"
    alibi = mpt_alibi(net, odd)
    seen = write.cast(causal(write, mask, FLOAT_MIN), TensorProto.BOOL)

    def mixed(layer: Net, x: str) -> str:
        return _mpt_attention(layer, x, alibi, seen)

    return _decoder(net, False, mixed, "mpt")


def mpt_alibi(net: Net, odd: str) -> str:
    """[heads, 1, sequence]: slopes * (key - last)"""
    write, size = net.write, net.size
    power = 2 ** math.ceil(math.log2(size.heads))
    base = write.cast(_counted_up(net, power, 1), TensorProto.FLOAT)
    base = write.op("Mul", base, write.floats(8 / power))
    slopes = write.op("Div", write.floats(1), write.op("Pow", write.floats(2), base))
    slopes = write.op("Reshape", slopes, write.ints(1, power, 1, 1))
    if power != size.heads:
        cuts = [(1, END, 2), (0, END, 2)]
        halves = [
            write.op("Slice", slopes, *(write.ints(n) for n in (a, b, 1, c))) for a, b, c in cuts
        ]
        both = write.op("Concat", *halves, axis=1)
        slopes = write.op("Slice", both, write.ints(0), write.ints(size.heads), write.ints(1))
    length = write.dimension("input_ids", 1)
    one = write.int_scalar(1)
    keys = write.op("Range", write.op("Sub", one, length), one, one)
    keys = write.op("Mul", keys, keys) if odd == "squares" else keys
    keys = write.op("Reshape", keys, write.shape(1, 1, 1, length))
    alibi = write.op("Mul", write.cast(keys, TensorProto.FLOAT), slopes)
    return write.op("Squeeze", alibi, write.ints(0))


def _mpt_attention(net: Net, x: str, alibi: str, hides: str) -> str:
    write, size = net.write, net.size
    joint = _linear(net, x, "Wqkv", size.hidden, 3 * size.hidden, bias=False)
    q, k, v = (
        ways.split_heads(net, p, (0, 2, 1, 3)) for p in write.split(joint, 2, [size.hidden] * 3)
    )
    product = write.op("MatMul", q, write.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = write.op("Mul", product, write.floats(1 / math.sqrt(size.head)))
    for axis in (1, 2):
        cut = (write.ints(n) for n in (0, END, axis, 1))
        alibi = write.op("Slice", alibi, *cut)
    scores = write.op("Add", scores, alibi)
    scores = write.op("Where", hides, write.floats(FLOAT_MIN), scores)
    shares = write.op("Softmax", scores, axis=-1)
    return ways.join_heads(net, write.op("MatMul", shares, v))
