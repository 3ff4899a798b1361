"""How attention, and what turns its queries and keys, ask for their kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.graph import Graph, Node, Value
from engine.kernels.table import WIDTHS
from engine.ops.transformer import head_places
from engine.ops.work import PER_POINT, Map, Refusal, Work, float_panel, misfit
from engine.segments import OFFSETS, Operand, Panel, Place, Stride

Array = np.ndarray[Any, Any]
FAR = 1 << 40
"""Places before or after a query that no sequence has: no bound."""


def attention(node: Node, graph: Graph) -> Work | Refusal:
    q_name, k_name, v_name, bias_name, table_name = (*node.inputs, *[""] * 5)[:5]
    values = [float_panel(graph, node, n) for n in (q_name, k_name, v_name, bias_name) if n]
    for value in values:
        if isinstance(value, Refusal):
            return value
    q, k, v, *bias = (value for value in values if isinstance(value, Value))
    heads = int(node.attributes["heads"])
    wrong = _mismatch(node, graph, (q, k, v), bias)
    if wrong:
        return wrong
    near = near_words(node, graph.initializers.get(table_name), heads)
    if isinstance(near, Refusal):
        return near
    y = node.outputs[0]
    scratch, (depth, apart) = f"{y}.scores", head_places(node.attributes, q.features or 0)
    panels: tuple[Operand, ...] = (Panel(q.name), Panel(k.name), Panel(v.name), Panel(y))
    strides = (Stride(q.name), Stride(k.name), Stride(v.name), Stride(y))
    scale = np.array([node.attributes["scale"]], np.float32)
    shared = heads // int(node.attributes.get("kv_heads", heads))
    last = (Place(OFFSETS), Panel(scratch), *_bias_words(bias, shared, apart))
    return Map(
        "attention_near_f32" if near else "attention_f32",
        (*panels, *strides, heads, depth, scale, *last, *near),
        tuple(value.name for value in (q, k, v, *bias)),
        y,
        f"{heads} heads of {depth}" + _detail(node, shared),
        scratch=((scratch, PER_POINT),),
        whole=True,
        over=q.name,
    )


def _bias_words(bias: Sequence[Value], shared: int, apart: int) -> tuple[Operand, ...]:
    """Words 14 to 18 of the kernel."""
    if not bias:
        return -1, shared, apart, 0, 0
    name, own = bias[0].name, int((bias[0].features or 1) > 1)
    return Panel(name), shared, apart, Stride(name), own


def _mismatch(
    node: Node, graph: Graph, three: Sequence[Value], bias: Sequence[Value]
) -> Refusal | None:
    """Why the values are not those of one attention: the kernel reads them unchecked."""
    q, k, v = three
    heads, features = int(node.attributes["heads"]), q.features or 0
    kv_heads = int(node.attributes.get("kv_heads", heads))
    if not all(value.has_tokens for value in (*three, *bias)):
        return Refusal("its sequences are not values of tokens")
    if kv_heads < 1 or heads % kv_heads:
        return Refusal(f"{heads} heads do not share {kv_heads}")
    depth, apart = head_places(node.attributes, features)
    theirs = depth + (kv_heads - 1) * apart
    fits = 0 < depth <= apart and all(x.features == theirs for x in (k, v))
    if not fits or any(x.features not in (1, heads) for x in bias):
        return Refusal(f"{', '.join(map(str, (*three, *bias)))} do not fit each other")
    wrong = misfit(node, graph, q, heads * depth)
    if wrong:
        return wrong
    if depth % 4:
        return Refusal(f"heads of {depth} features, not a multiple of four")
    return None


def near_words(node: Node, table: Array | None, heads: int) -> tuple[Operand, ...] | Refusal:
    """The last words of the near kernel; nothing where every query sees every key alike."""
    back, ahead = (int(node.attributes.get(name, -1)) for name in ("back", "ahead"))
    bounds = [n if n >= 0 else FAR for n in (back, ahead)]
    if table is None:
        if bounds == [FAR, FAR]:
            return ()
        return np.array([*bounds, 0, 0, 0], np.int64), 0
    if table.dtype != np.float32 or table.ndim != 2 or not table.shape[1] % 2:
        return Refusal(f"its table of distances is {table.dtype.name}{list(table.shape)}")
    if len(table) not in (1, heads):
        return Refusal(f"its table of distances is for {len(table)} heads, not for {heads}")
    slack = max(WIDTHS)
    wide = np.pad(table, ((0, 0), (slack, slack)))
    centre, each = 4 * (slack + table.shape[1] // 2), wide.strides[0] if len(table) > 1 else 0
    positions = table.shape[1] // 2 + 1
    return np.array([*bounds, centre, each, positions], np.int64), wide


def _detail(node: Node, shared: int) -> str:
    """What is not plain about it."""
    said = [f"keys shared by {shared}"] if shared > 1 else []
    back, ahead = (int(node.attributes.get(name, -1)) for name in ("back", "ahead"))
    said += [f"{back} tokens back"] if back >= 0 else []
    said += [f"{ahead} ahead"] if ahead >= 0 else []
    said += ["a number a distance"] if len(node.inputs) > 4 and node.inputs[4] else []
    return "".join(f", {words}" for words in said)


def rotary(node: Node, graph: Graph) -> Work | Refusal:
    """Features of each head turned, tile by tile."""
    x, turns = (float_panel(graph, node, n) for n in node.inputs)
    for value in (x, turns):
        if isinstance(value, Refusal):
            return value
    assert isinstance(x, Value) and isinstance(turns, Value)
    heads, width = int(node.attributes["heads"]), turns.features or 0
    wrong = misfit(node, graph, x, x.features or 0)
    if wrong:
        return wrong
    depth = (x.features or 0) // heads
    if not x.has_tokens or not turns.has_tokens or width % 2 or width > depth:
        return Refusal(f"{turns} does not turn {heads} heads of {x}")
    kernel = "rotary_interleaved_f32" if node.attributes["interleaved"] else "rotary_f32"
    panels = (Panel(x.name), Panel(turns.name), Panel(node.outputs[0]))
    return Map(
        kernel,
        (*panels, heads, depth, width // 2),
        (x.name, turns.name),
        node.outputs[0],
        f"{width} of {depth} features of {heads} heads",
    )
