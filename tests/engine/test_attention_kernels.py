"""Kernels of attention and rotary positions, against numpy: lengths, tails, NaN, neighbours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import aligned, call, offsets_of, panel, tiled, untiled

from engine.graph import NATIVE, Node
from engine.kernels.row import Kernel
from engine.kernels.table import WIDTHS, kernels_of
from engine.ops.native_attention import near_words
from engine.ops.plain import PLAIN
from engine.ops.transformer import attention, rotary
from engine.ops.work import Refusal

Array = np.ndarray[Any, Any]
named = pytest.mark.parametrize


def ids(kernel: Kernel) -> str:
    return kernel.name


@dataclass(frozen=True)
class Near:
    """What the near kernel is told beside the plain one."""

    back: int = -1
    ahead: int = -1
    shared: int = 1
    table: Array | None = None
    """[heads or 1, 2 P - 1] by query - key."""
    between: int = 0
    """Features of something else behind each head of queries, keys and values."""

    def node(self, heads: int, depth: int) -> Node:
        attributes = {"heads": heads, "kv_heads": heads // self.shared, "scale": depth**-0.5}
        attributes |= {"back": self.back, "ahead": self.ahead}
        attributes |= {"apart": depth + self.between} if self.between else {}
        inputs = ("q", "k", "v", "", "" if self.table is None else "table")
        return Node("a", "Attention", inputs, ("y",), NATIVE, attributes)

    def spread(self, x: Array, depth: int) -> Array:
        """x[tokens, heads * depth] with NaN between the heads."""
        heads = x.reshape(len(x), -1, depth)
        wide = np.pad(heads, ((0, 0), (0, 0), (0, self.between)), constant_values=np.nan)
        return wide.reshape(len(x), -1)[:, : wide[0].size - self.between]


PLAIN_ONE = Near()


def attend(
    q: Array,
    k: Array,
    v: Array,
    lengths: list[int],
    heads: int,
    bias: Array | None,
    points: int = 16,
    row: int = 0,
    near: Near = PLAIN_ONE,
) -> Array:
    """The kernel on sequences row.. of a batch, with the words that the operator asks for."""
    tokens, features = q.shape
    tiles = -(-tokens // points)
    depth = features // heads
    panels = [tiled(near.spread(x, depth), points) for x in (q, k, v)]
    y, scores = aligned((tiles * features + 3, points)), aligned((tiles * points + 3, points))
    strides = [near.spread(x, depth).shape[1] * points * 4 for x in (q, k, v)]
    strides.append(features * points * 4)
    scale = np.array([depth**-0.5], np.float32)
    biases: Array | int = -1 if bias is None else tiled(bias.reshape(tokens, -1), points)
    before = offsets_of([5] * row + lengths)
    more = near_words(near.node(heads, depth), near.table, heads)
    assert not isinstance(more, Refusal)
    each = 1 if bias is None else bias.size // len(bias)
    places = (near.shared, depth + near.between, 4 * points * each, int(each > 1))
    words = (*panels, y, *strides, heads, depth, scale, 0, scores, biases, *places, *more)
    name = f"attention_near_f32_x{points}" if more else f"attention_f32_x{points}"
    call(name, words, live=len(lengths), row=row, borders=[before])
    return untiled(y, tokens, features)


def attention_twin(
    q: Array,
    k: Array,
    v: Array,
    lengths: list[int],
    heads: int,
    bias: Array | None,
    near: Near = PLAIN_ONE,
) -> Array:
    """Sequence by sequence, head by head, query by query, in float64."""
    y, first = np.zeros(q.shape), 0
    depth = q.shape[1] // heads
    for length, head in itertools.product(lengths, range(heads)):
        own = slice(first, first + length)
        part, theirs = (slice(h * depth, (h + 1) * depth) for h in (head, head // near.shared))
        scores = q[own, part].astype(np.float64) @ k[own, theirs].T * depth**-0.5
        if bias is not None:
            scores = scores + (bias[own] if bias.ndim == 1 else bias[own, head])
        seen = np.ones((length, length), bool)
        for query, key in np.ndindex(length, length):
            distance = query - key
            if near.table is not None:
                middle = near.table.shape[1] // 2
                scores[query, key] += near.table[head % len(near.table), middle + distance]
            if 0 <= near.back < distance or 0 <= near.ahead < -distance:
                scores[query, key], seen[query, key] = -np.inf, False
        with np.errstate(invalid="ignore"):
            e = np.exp(scores - scores.max(axis=1, keepdims=True))
            e = e / e.sum(axis=1, keepdims=True)
        values = v[own, theirs]
        for query in range(length):  # what is not seen counts for nothing, not even a NaN
            some = seen[query]
            y[first + query, part] = e[query, some] @ values[some]
        first += length if head == heads - 1 else 0
    return y


@st.composite
def attentions(draw: st.DrawFn) -> tuple[Any, ...]:
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    heads, depth = draw(st.sampled_from([(1, 4), (2, 8), (3, 32)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (sum(lengths), heads * depth)
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    each = draw(st.sampled_from([(), (heads,)]))
    bias = rng.choice([0.0, -10000.0, -np.inf], (sum(lengths), *each), p=[0.8, 0.1, 0.1])
    bias[offsets_of(lengths)[:-1]] = 0  # a key that counts in every sequence
    return q, k, v, lengths, heads, draw(st.sampled_from([None, bias.astype(np.float32)]))


@named("points", WIDTHS)
@settings(max_examples=60, deadline=None)
@given(problem=attentions(), row=st.integers(0, 2))
def test_attention_is_its_formula(points: int, problem: Any, row: int) -> None:
    q, k, v, lengths, heads, bias = problem
    got = attend(q, k, v, lengths, heads, bias, points, row)
    np.testing.assert_allclose(
        got, attention_twin(q, k, v, lengths, heads, bias), rtol=1e-4, atol=2e-6
    )


@named("points", WIDTHS)
@settings(max_examples=40, deadline=None)
@given(problem=attentions())
def test_a_sequence_has_the_same_bytes_among_any_neighbours(points: int, problem: Any) -> None:
    q, k, v, lengths, heads, bias = problem
    whole = attend(q, k, v, lengths, heads, bias, points)
    for first, last in zip(offsets_of(lengths), offsets_of(lengths)[1:], strict=False):
        own = slice(first, last)
        own_bias = None if bias is None else bias[own]
        alone = attend(q[own], k[own], v[own], [int(last - first)], heads, own_bias, points)
        assert alone.tobytes() == whole[own].tobytes()


@named("place", ["q", "k", "v"])
def test_attention_keeps_nan_within_its_sequence(place: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal((30, 8)).astype(np.float32) for n in "qkv"}
    arrays[place][12, 3] = np.nan
    got = attend(*arrays.values(), [10, 9, 11], 2, None)
    expected = attention_twin(*arrays.values(), [10, 9, 11], 2, None)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    assert np.isnan(got).any() and not np.isnan(got[:10]).any() and not np.isnan(got[19:]).any()


def test_a_sequence_of_masked_keys_alone_is_nan_as_in_onnx() -> None:
    x = np.ones((3, 4), np.float32)
    got = attend(x, x, x, [2, 1], 1, np.array([-np.inf, -np.inf, 0], np.float32))
    assert np.isnan(got[:2]).all() and (got[2] == 1).all()


@st.composite
def near_ones(draw: st.DrawFn) -> tuple[Any, ...]:
    q, k, v, lengths, heads, bias = draw(attentions())
    if bias is not None:  # a window may hold such keys alone: near -10000 float32 counts in 1/1024
        bias = np.where(bias == -10000, np.float32(-120), bias)
    shared = draw(st.sampled_from([1, heads]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    table = rng.standard_normal((draw(st.sampled_from([1, heads])), 2 * 40 - 1))
    bound = st.sampled_from([-1, 0, 1, 3, 15, 16, 17, 40])
    tables = st.sampled_from([None, table.astype(np.float32)])
    between = draw(st.sampled_from([0, 0, 8]))
    near = Near(draw(bound), draw(bound), shared, draw(tables), between)
    few = k.shape[1] // shared
    return q, k[:, :few].copy(), v[:, :few].copy(), lengths, heads, bias, near


@named("points", WIDTHS)
@settings(max_examples=60, deadline=None)
@given(problem=near_ones(), row=st.integers(0, 2))
def test_near_attention_is_its_formula(points: int, problem: Any, row: int) -> None:
    *arrays, lengths, heads, bias, near = problem
    got = attend(*arrays, lengths, heads, bias, points, row, near)
    want = attention_twin(*arrays, lengths, heads, bias, near)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=4e-5)
    # and the meaning that the reference runs, sequence by sequence
    depth = arrays[0].shape[1] // heads
    node, spread = near.node(heads, depth), [near.spread(x, depth) for x in arrays]
    for own in itertools.starmap(slice, itertools.pairwise(offsets_of(lengths))):
        own_bias = None if bias is None else bias[own][None]
        with np.errstate(invalid="ignore"):
            meant = attention(node, *(x[own][None] for x in spread), own_bias, near.table)
        np.testing.assert_allclose(meant[0], want[own], rtol=1e-4, atol=4e-5)


@named("points", WIDTHS)
@settings(max_examples=60, deadline=None)
@given(problem=near_ones(), spoilt=st.booleans())
def test_near_attention_gives_the_same_bytes_among_any_neighbours(
    points: int, problem: Any, spoilt: bool
) -> None:
    q, k, v, lengths, heads, bias, near = problem
    v[len(v) // 2, 0] = np.nan if spoilt else 0
    whole = attend(q, k, v, lengths, heads, bias, points, 0, near)
    for own in itertools.starmap(slice, itertools.pairwise(offsets_of(lengths))):
        own_bias, length = None if bias is None else bias[own], own.stop - own.start
        alone = attend(q[own], k[own], v[own], [length], heads, own_bias, points, 0, near)
        assert alone.tobytes() == whole[own].tobytes()


@named("points", WIDTHS)
def test_a_bound_that_no_sequence_reaches_changes_no_byte(points: int) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((50, 8)).astype(np.float32) for _ in range(3))
    plain = attend(q, k, v, [20, 30], 2, None, points)
    near = attend(q, k, v, [20, 30], 2, None, points, near=Near(back=29, ahead=30))
    assert near.tobytes() == plain.tobytes()


@named("points", WIDTHS)
def test_a_nan_without_a_share_reaches_whoever_sees_it(points: int) -> None:
    """As in onnxruntime 0 times NaN is NaN, in whatever lane of a tile the query stands."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((3 * points, 8)).astype(np.float32) for _ in range(3))
    for key in range(points, 2 * points):
        bias, spoilt = np.zeros(len(q), np.float32), v.copy()
        bias[key], spoilt[key] = -10000, np.nan
        near = Near(back=5, ahead=3)
        got = attend(q, k, spoilt, [len(q)], 2, bias, points, near=near)
        np.testing.assert_array_equal(
            np.flatnonzero(np.isnan(got).all(axis=1)), np.arange(key - 3, key + 6)
        )
        assert np.isnan(got).sum() == 9 * got.shape[1]


@named("points", WIDTHS)
def test_nobody_sees_what_comes_after_it(points: int) -> None:
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal((30, 8)).astype(np.float32) for n in "qkv"}
    before = attend(*arrays.values(), [30], 2, None, points, near=Near(ahead=0))
    for name in "kv":
        arrays[name][20:] = np.nan
    after = attend(*arrays.values(), [30], 2, None, points, near=Near(ahead=0))
    assert after[:20].tobytes() == before[:20].tobytes()
    assert np.isnan(after[20:]).all()


@named("kernel", kernels_of("rotary"), ids=ids)
@named(("heads", "depth", "width"), [(1, 8, 8), (3, 32, 32), (2, 12, 4), (1, 2, 2)])
def test_rotary_turns_pairs(kernel: Kernel, heads: int, depth: int, width: int) -> None:
    rng, interleaved = np.random.default_rng(depth), bool(kernel.arguments[1])
    x = rng.standard_normal((kernel.points, heads * depth)).astype(np.float32)
    angles = rng.standard_normal((kernel.points, width // 2))
    turns = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    out = panel(heads * depth, None, kernel.points)
    sources = [panel(a.shape[1], a, kernel.points) for a in (x, turns)]
    call(kernel.name, (*sources, out, heads, depth, width // 2))
    want = x.astype(np.float64).reshape(kernel.points, heads, depth)
    for point, head, pair in np.ndindex(kernel.points, heads, width // 2):
        one, two = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + width // 2)
        number = complex(want[point, head, one], want[point, head, two])
        turned = number * np.exp(1j * angles[point, pair])
        want[point, head, one], want[point, head, two] = turned.real, turned.imag
    got = out[: heads * depth].T.reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    attributes = {"heads": heads, "interleaved": int(interleaved)}
    node = Node("r", "Rotary", ("x", "t"), ("y",), NATIVE, attributes)
    meant = rotary(node, x[None], turns[None])
    np.testing.assert_allclose(meant[0].reshape(want.shape), want, rtol=1e-5, atol=1e-6)


def test_every_row_of_attention_is_tested_here() -> None:
    names = {k.name for k in kernels_of("attention")}
    kinds = ("attention_f32", "attention_near_f32")
    assert names == {f"{kind}_x{points}" for points in WIDTHS for kind in kinds}
    assert {("colonnade", "Attention"), ("colonnade", "Rotary")} <= PLAIN.keys()
