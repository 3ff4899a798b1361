"""Ways with positions, masks and attention that exporters have beside those of scripts/models, and
others that look alike and mean something else: for tests of what the engine recognises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from exporter_distances import (
    added,
    buckets,
    filled_behind,
    plus_causal,
    relative,
    scaled_after,
    slopes,
)
from exporter_masks import (
    by_range,
    causal,
    causal_float,
    every_second,
    first_keys,
    of_ids,
    positive,
    raw,
    some_ids,
    table,
    window,
)
from exporter_rotary import by_split, mirrored, neighbours, operator, partly, rotated
from onnx import TensorProto

from scripts.models import bert_attention as ways
from scripts.models.bert import FLOAT_MIN, STYLES, Style, encoder, finish
from scripts.models.bert_net import Net
from scripts.models.bert_pooling import pooler
from scripts.models.bert_weights import Size, random_weights
from scripts.models.writer import Writer

Array = np.ndarray[Any, np.dtype[Any]]

SIZE = Size(layers=2, hidden=48, heads=4, feed_forward=96, vocabulary=100, positions=80)
WEIGHTS = random_weights(SIZE, 0.5)
END = np.iinfo(np.int64).max


def model(style: Style, size: Size = SIZE, *outputs: str, weights: Any = None) -> onnx.ModelProto:
    """A BERT in this style; last_hidden_state unless told otherwise."""
    net = Net(Writer(style.opset), size, weights or WEIGHTS, style.gelu)
    hidden = encoder(net, style, style.mask_value)
    if "pooler_output" in outputs:
        pooler(net, hidden, "pooler_output")
    if "sentence_embedding" in outputs:
        style.sentence(net, hidden, "attention_mask", "sentence_embedding")
    return finish(net, "bert", outputs or ("last_hidden_state",))


def batch(lengths: Sequence[int], seed: int = 0) -> dict[str, Array]:
    """Random tokens of those lengths, padded with zeros to the longest."""
    shape, random = (len(lengths), max(lengths)), np.random.default_rng(seed)
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    return {
        "input_ids": mask * random.integers(2, SIZE.vocabulary, shape),
        "attention_mask": mask,
        "token_type_ids": mask * random.integers(0, 2, shape),
    }


# ---- attention --------------------------------------------------------------------------------

Heads = Callable[[Net, str], tuple[str, str, str]]


def separate(net: Net, x: str, key: Sequence[int] = (0, 2, 3, 1)) -> tuple[str, str, str]:
    """Three linear layers; keys transposed at once."""
    split = partial(ways.split_heads, net)
    return (
        split(net.linear(x, "query"), (0, 2, 1, 3)),
        split(net.linear(x, "key"), key),
        split(net.linear(x, "value"), (0, 2, 1, 3)),
    )


def twice_transposed(net: Net, x: str) -> tuple[str, str, str]:
    q, k, v = separate(net, x, (0, 2, 1, 3))
    return q, net.write.op("Transpose", k, perm=[0, 1, 3, 2]), v


def joint(net: Net, x: str) -> str:
    """One MatMul for queries, keys and values: [N, S, 3 * hidden]."""
    names = ("query", "key", "value")
    w = np.concatenate([net.weights[f"{net.prefix}{n}.weight"] for n in names]).T
    b = np.concatenate([net.weights[f"{net.prefix}{n}.bias"] for n in names])
    product = net.write.op("MatMul", x, net.write.weight(f"{net.prefix}qkv.weight", w))
    return net.write.op("Add", product, net.write.weight(f"{net.prefix}qkv.bias", b))


def _five(net: Net, x: str) -> str:
    """[3, N, heads, S, d], as timm has it."""
    write, size = net.write, net.size
    batch, length = write.dimension(x, 0), write.dimension(x, 1)
    shape = write.shape(batch, length, 3, size.heads, size.head)
    return write.op("Transpose", write.op("Reshape", joint(net, x), shape), perm=[2, 0, 3, 1, 4])


def _keys(net: Net, three: Sequence[str]) -> tuple[str, str, str]:
    q, k, v = three
    return q, net.write.op("Transpose", k, perm=[0, 1, 3, 2]), v


def gathered(net: Net, x: str) -> tuple[str, str, str]:
    five = _five(net, x)
    take = [net.write.op("Gather", five, net.write.int_scalar(i), axis=0) for i in range(3)]
    return _keys(net, take)


def unbound(net: Net, x: str) -> tuple[str, str, str]:
    parts = net.write.split(_five(net, x), 0, [1, 1, 1])
    axes = net.write.ints(0)
    return _keys(net, [net.write.op("Squeeze", part, axes) for part in parts])


def sliced(net: Net, x: str) -> tuple[str, str, str]:
    write, whole, size = net.write, joint(net, x), net.size
    bounds = (0, size.hidden, 2 * size.hidden, END)
    parts = [
        write.op("Slice", whole, write.ints(a), write.ints(b), write.ints(2), write.ints(1))
        for a, b in itertools.pairwise(bounds)
    ]
    split = [ways.split_heads(net, p, (0, 2, 1, 3)) for p in parts]
    return _keys(net, split)


def head_by_head(net: Net, x: str) -> tuple[str, str, str]:
    """GPT-NeoX: heads are split off first, then each into its query, key and value."""
    write, size = net.write, net.size
    rows, tokens = write.dimension(x, 0), write.dimension(x, 1)
    shape = write.shape(rows, tokens, size.heads, 3 * size.head)
    split, parts = write.op("Reshape", joint(net, x), shape), []
    for a, b in itertools.pairwise((0, size.head, 2 * size.head, END)):
        part = write.op("Slice", split, write.ints(a), write.ints(b), write.ints(3), write.ints(1))
        parts.append(write.op("Transpose", part, perm=[0, 2, 1, 3]))
    return _keys(net, parts)


Scores = Callable[[Net, str, str, str], str]
"""Queries, transposed keys and the mask give what the softmax is taken of."""


def scaled_queries(net: Net, q: str, k: str, mask: str) -> str:
    q = net.write.op("Div", q, net.write.floats(math.sqrt(net.size.head)))
    return net.write.op("Add", mask, net.write.op("MatMul", q, k))


def scaled_keys(net: Net, q: str, k: str, mask: str) -> str:
    k = net.write.op("Mul", net.write.floats(1 / math.sqrt(net.size.head)), k)
    return net.write.op("Add", net.write.op("MatMul", q, k), mask)


def scaled_behind_the_mask(net: Net, q: str, k: str, mask: str) -> str:
    total = net.write.op("Add", net.write.op("MatMul", q, k), mask)
    return net.write.op("Mul", total, net.write.floats(0.25))


def distil(net: Net, q: str, k: str, mask: str, fill: float = -math.inf) -> str:
    """DistilBERT: Where over (mask == 0) as [N, 1, 1, S], expanded to the scores."""
    write = net.write
    scores = scaled_queries_only(net, q, k)
    length = write.dimension(k, 3)
    shape = write.shape(write.dimension(mask, 0), 1, 1, length)
    padding = write.op("Reshape", write.op("Equal", mask, write.int_scalar(0)), shape)
    padding = write.op("Expand", padding, write.op("Shape", scores))
    return write.op("Where", padding, write.floats(fill), scores)


def scaled_queries_only(net: Net, q: str, k: str) -> str:
    q = net.write.op("Div", q, net.write.floats(math.sqrt(net.size.head)))
    return net.write.op("MatMul", q, k)


def kept(net: Net, q: str, k: str, mask: str, fill: float = -1e9) -> str:
    """Where(mask, scores, -1e9), with the mask as bool."""
    wide = net.write.unsqueeze(net.write.cast(mask, TensorProto.BOOL), 1, 2)
    scores = scaled_after(net, q, k, mask)
    return net.write.op("Where", wide, scores, net.write.floats(fill))


def halved(net: Net, q: str, k: str, mask: str) -> str:
    """Scores that are rounded to float16."""
    scores = net.write.cast(added(net, q, k, mask), TensorProto.FLOAT16)
    return net.write.cast(scores, TensorProto.FLOAT)


def attention(
    net: Net, x: str, mask: str, *, heads: Heads = separate, scores: Scores = added,
    axis: int = -1, guard: float | None = None,
) -> str:  # fmt: skip
    q, k, v = heads(net, x)
    shares = net.write.op("Softmax", scores(net, q, k, mask), axis=axis)
    if guard is not None:  # PyTorch, of masks of bool
        lost = net.write.op("IsNaN", shares)
        shares = net.write.op("Where", lost, net.write.floats(guard), shares)
    return ways.join_heads(net, net.write.op("MatMul", shares, v))


def by_rows_and_heads(net: Net, x: str, mask: str) -> str:
    """BART and OPT: heads are put into the rows for products and shares."""
    write, size = net.write, net.size
    rows, tokens = write.dimension(x, 0), write.dimension(x, 1)
    both = write.op("Mul", rows, write.int_scalar(size.heads))
    q, k, v = (
        write.op("Reshape", part, write.shape(both, -1, size.head))
        for part in separate(net, x, (0, 2, 1, 3))
    )
    k = write.op("Transpose", k, perm=[0, 2, 1])
    q = write.op("Mul", q, write.floats(1 / math.sqrt(size.head)))
    whole = write.shape(rows, size.heads, tokens, tokens)
    scores = write.op("Add", write.op("Reshape", write.op("MatMul", q, k), whole), mask)
    scores = write.op("Reshape", scores, write.shape(both, tokens, tokens))
    mixed = write.op("MatMul", write.op("Softmax", scores, axis=-1), v)
    shape = write.shape(rows, size.heads, tokens, size.head)
    return ways.join_heads(net, write.op("Reshape", mixed, shape))


def tokens_first(net: Net, x: str, mask: str) -> str:
    """PyTorch's MultiheadAttention: tokens before rows, up to the layer that ends it."""
    write, size = net.write, net.size
    rows, tokens = write.dimension(x, 0), write.dimension(x, 1)
    whole = joint(net, write.op("Transpose", x, perm=[1, 0, 2]))
    whole = write.op("Reshape", whole, write.shape(tokens, rows, 3, size.hidden))
    whole = write.op("Transpose", write.unsqueeze(whole, 0), perm=[3, 1, 2, 0, 4])
    whole = write.op("Squeeze", whole, write.ints(-2))
    both = write.op("Mul", rows, write.int_scalar(size.heads))
    parts = []
    for place in range(3):
        part = write.op("Gather", whole, write.int_scalar(place), axis=0)
        part = write.op("Reshape", part, write.shape(tokens, both, size.head))
        part = write.op("Transpose", part, perm=[1, 0, 2])
        shape = write.shape(rows, size.heads, tokens, size.head)
        parts.append(write.op("Reshape", part, shape))
    q, k, v = _keys(net, parts)
    shares = write.op("Softmax", added(net, q, k, mask), axis=-1)
    mixed = write.op("Transpose", write.op("MatMul", shares, v), perm=[2, 0, 1, 3])
    flat = write.op("Reshape", mixed, write.shape(write.op("Mul", tokens, rows), size.hidden))
    weight, bias = (net.parameter(f"value.{name}") for name in ("weight", "bias"))
    flat = write.op("Gemm", flat, weight, bias, transB=1)
    done = write.op("Reshape", flat, write.shape(tokens, rows, size.hidden))
    return write.op("Transpose", done, perm=[1, 0, 2])


def four_dimensions(net: Net, x: str, mask: str, **attributes: Any) -> str:
    """Opset 23's Attention of [N, heads, S, d]."""
    q, k, v = separate(net, x, (0, 2, 1, 3))
    return ways.join_heads(net, net.write.op("Attention", q, k, v, mask, **attributes))


# ---- positions --------------------------------------------------------------------------------


def counted(net: Net, ids: str, padding: int = 0, first: int = 1) -> str:
    """RoBERTa: the tokens that are no padding are counted."""
    write = net.write
    other = write.op("Not", write.op("Equal", ids, write.int_scalar(padding)))
    return _by_places(net, write.cast(other, TensorProto.INT64), first)


def counted_in_int32(net: Net, ids: str) -> str:
    """RoBERTa as transformers have it: int32, with a past of no tokens."""
    write = net.write
    real = write.cast(
        write.op("Not", write.op("Equal", ids, write.int_scalar(0))), TensorProto.INT32
    )
    sums = write.cast(write.op("CumSum", real, write.int_scalar(-1)), TensorProto.INT32)
    past = write.weight("past", np.array(0, np.int32))
    product = write.op("Mul", real, write.op("Add", past, sums))
    places = write.op("Add", write.int_scalar(1), write.cast(product, TensorProto.INT64))
    return write.op("Gather", net.parameter("position_embeddings.weight"), places)


def counted_by_mask(net: Net, ids: str) -> str:
    """OPT: the mask is counted, and two rows of the table stand before the first place."""
    del ids
    return _by_places(net, "attention_mask", 2 - 1)


def counted_backwards(net: Net, ids: str) -> str:
    """What no known model does, and no kernel either: from the last token on."""
    del ids
    return _by_places(net, "attention_mask", 1, reverse=1)


def _by_places(net: Net, real: str, first: int, **attributes: Any) -> str:
    write = net.write
    sums = write.op("CumSum", real, write.int_scalar(1), **attributes)
    places = write.op("Add", write.op("Mul", sums, real), write.int_scalar(first))
    return write.op("Gather", net.parameter("position_embeddings.weight"), places)


# ---- all of them ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    style: Style
    refusal: str = ""
    """Why the attention is not recognised; empty where it is."""


_BASE = STYLES["torch"]


def way(refusal: str = "", **changes: Any) -> Way:
    return Way(replace(_BASE, **changes), refusal)


def scored(scores: Scores, refusal: str = "", **more: Any) -> Way:
    fields = {name: more.pop(name) for name in ("heads", "axis", "guard") if name in more}
    return way(refusal, attention=partial(attention, scores=scores, **fields), **more)


_OWN = "not known to be a mask of keys"
WAYS: Mapping[str, Way] = {
    "two steps": scored(added, heads=twice_transposed),
    "gathered": scored(added, heads=gathered),
    "unbound": scored(added, heads=unbound),
    "sliced": scored(added, heads=sliced),
    "head by head": scored(added, heads=head_by_head),
    "by rows and heads": way(attention=by_rows_and_heads),
    "tokens first": way(attention=tokens_first),
    "scale on q": scored(scaled_queries),
    "scale on k": scored(scaled_keys),
    "scale behind the mask": scored(scaled_behind_the_mask, "its mask is scaled, too"),
    "distil": scored(distil, mask=raw),
    "distil, least float": scored(partial(distil, fill=FLOAT_MIN), mask=raw),
    "kept": scored(kept, mask=raw),
    "kept, little": scored(partial(kept, fill=-20.0), "Where) stands between", mask=raw),
    "guarded": scored(added, guard=0.0, mask=positive, mask_value=-math.inf),
    "guarded, least float": scored(added, guard=0.0, mask=positive, mask_value=FLOAT_MIN),
    "guarded, causal": scored(added, guard=0.0, mask=causal, mask_value=-math.inf),
    "guarded, no mask": scored(lambda net, q, k, mask: net.write.op("MatMul", q, k), guard=0.0),
    "guarded, to one": scored(added, "is read by 2 nodes", guard=1.0, mask=positive),
    "float16": scored(halved, "Cast) stands between"),
    "relative": scored(relative),
    "queries' shares": scored(added, "over axis 2, not over the keys", axis=2),
    "ids, padding 0": way(mask=of_ids),
    "ids, padding 1": way(mask=partial(of_ids, padding=1)),
    "ids, padding 50": way(mask=partial(of_ids, padding=50)),
    "some ids": way(mask=some_ids),
    "positive": way(mask=positive),
    "by range": way(mask=by_range),
    "causal": way(mask=causal, mask_value=FLOAT_MIN),
    "window of 8": way(mask=window, mask_value=FLOAT_MIN),
    "window of 64": way(mask=partial(window, width=64), mask_value=FLOAT_MIN),
    "window of 4096": way(_OWN, mask=partial(window, width=4096), mask_value=FLOAT_MIN),
    "first keys": way(_OWN, mask=first_keys),
    "causal apart": scored(plus_causal),
    "causal, least float": way(mask=causal_float),
    "filled behind": scored(filled_behind),
    "every second": way(_OWN, mask=every_second, mask_value=FLOAT_MIN),
    "buckets": scored(buckets),
    "buckets and mask": scored(partial(buckets, together=True), mask_value=FLOAT_MIN),
    "slopes": scored(slopes),
    "slopes of amounts": scored(partial(slopes, of="amount")),
    "slopes, causal": scored(partial(slopes, hidden=True)),
    "squares": scored(partial(slopes, of="square"), _OWN),
    "rotary": scored(added, heads=rotated),
    "rotary, split": scored(added, heads=partial(rotated, turn=by_split)),
    "rotary, partly": scored(added, heads=partial(rotated, turn=partly)),
    "rotary, neighbours": scored(added, heads=partial(rotated, turn=neighbours)),
    "rotary, fed places": scored(added, heads=partial(rotated, ids="token_type_ids")),
    "rotary, operator": scored(added, heads=operator, opset=23),
    "rotary, neighbours, operator": scored(
        added, heads=partial(operator, interleaved=1), opset=23
    ),
    "rotary, flat operator": scored(added, heads=partial(operator, flat=True), opset=23),
    "mirrored": scored(added, "not values of tokens split", heads=partial(rotated, turn=mirrored)),
    "triangle": way(mask=table, mask_value=FLOAT_MIN),
    "counted": way(positions=counted),
    "counted, padding 1": way(positions=partial(counted, padding=1, first=3)),
    "counted, int32": way(positions=counted_in_int32),
    "counted by mask": way(positions=counted_by_mask),
    "counted backwards": way(positions=counted_backwards),
    "four dimensions": way(attention=four_dimensions, mask=ways.boolean_mask, opset=23),
    "four, causal": way(
        attention=partial(four_dimensions, is_causal=1),
        mask=ways.boolean_mask, opset=23,
    ),
}  # fmt: skip
