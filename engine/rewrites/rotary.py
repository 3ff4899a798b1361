"""Rotary positions become `colonnade.Rotary`, with angles looked up by a token's place.

    y = x * cos + turned(x) * sin      x [N, heads, S, d], or [N, S, heads * d]

where `turned` moves and negates features: by Slice, Neg and Concat, by Split, by Reshape to pairs;
for all features of a head or for the first only, as one operator RotaryEmbedding. All of it is run,
on a head whose features show what becomes of each pair, and compared with the two formulas that
there are (engine/kernels/rotary.py). Cosines and sines come from the trial, too, for every place
from 0 on: by how far a token stands, or by ids of positions that are fed. A layer's queries and
keys, and all layers, share one lookup.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import EngineError
from engine.graph import NATIVE, ROWS, TOKENS, Node, Value
from engine.rewrites.heads import Heads, heads_of
from engine.rewrites.near_rules import LEAST, POSITIONS
from engine.rewrites.rewrite import Array, Edit, Rewrite, View
from engine.rewrites.trial import MAX_NODES, OF_PLACES, is_read, nothing, sources, tried

_TURNS = OF_PLACES | {"RotaryEmbedding"}
PROBE = 61
"""Tokens of the trial that compares."""


@dataclass(frozen=True, slots=True)
class _Turned:
    """A value y that a part of the graph makes of x and places."""

    x: str
    y: str
    part: Sequence[Node]
    ids: str
    """Ids of positions, int [N, S]; empty where places are counted."""
    heads: int
    depth: int
    source: Heads | None
    """Where x comes from; None where it is a value of tokens itself."""

    @property
    def flat(self) -> bool:
        """Whether x is [N, S, heads * d]."""
        return self.source is None


def _at(node: Node, view: View) -> Edit | str | None:
    y = view.value(node.outputs[0])
    if y is None or y.shape is None or y.dtype != np.float32 or node.domain:
        return None
    found = _found(node, y, view)
    if found is None or isinstance(found, str):
        return found
    try:
        short = _Trial(found, view, found.heads, PROBE)
        shape = short.shape()
        if shape is None:
            return f"{y.name} is not {found.x} with pairs of features turned"
        pairs, interleaved = shape
        return _edit(node, found, short.turns(pairs, interleaved), interleaved, view)
    except EngineError as error:
        return f"it could not be tried: {error}"


# ---- the part of the graph ----------------------------------------------------------------------


def _found(node: Node, y: Value, view: View) -> _Turned | str | None:
    """What the node's result is made of, if it looks like a rotation at all."""
    assert y.shape is not None
    if node.op == "RotaryEmbedding" and len(y.shape) == 3:
        heads, features = int(node.attributes.get("num_heads", 0)), y.features or 0
        if not heads or features % heads:
            return f"{heads} heads do not divide {features} features"
        start: tuple[str, Heads | None] | None = (node.inputs[0], None)
        depth = features // heads
    elif len(y.shape) == 4 and (y.shape[0], y.shape[2]) == (ROWS, TOKENS):
        start = _start(node, y, view)
        heads, depth = y.shape[1], y.shape[3]  # type: ignore[assignment]
    else:
        return None
    if start is None:
        return None
    part = _between(start[0], y.name, view)
    if part is None or not any(n.op in ("Cos", "Sin", "RotaryEmbedding", "Gather") for n in part):
        return None
    ids = [n for n in sources(part, view) if is_read(n, part) and n != start[0]]
    if len(ids) > 1 or any(not _counts(n, view) for n in ids):
        return f"its angles depend on {sorted(ids)}, not on places alone"
    return _Turned(start[0], y.name, part, ids[0] if ids else "", heads, depth, start[1])


def _counts(name: str, view: View) -> bool:
    """Whether the value is fed ids of tokens: only those are looked up."""
    value = view.value(name)
    whole = value is not None and value.shape == (ROWS, TOKENS) and value.dtype.name in _IDS
    return whole and view.is_input(name)


_IDS = ("int32", "int64")


def _start(node: Node, y: Value, view: View) -> tuple[str, Heads] | None:
    """The one value of the same shape above the node that is tokens split into heads."""
    found: dict[str, Heads] = {}
    waiting, seen = list(node.reads), set[str]()
    while waiting and len(seen) < MAX_NODES:
        name = waiting.pop()
        value, producer = view.value(name), view.producer(name)
        if name in seen or value is None or producer is None:
            continue
        seen.add(name)
        heads = heads_of(name, view) if value.shape == y.shape else None
        if heads is not None and _is_plain(heads):
            found[name] = heads
        elif producer.op in _TURNS and producer.op != "Shape" and not producer.domain:
            waiting += producer.reads
    return next(iter(found.items())) if len(found) == 1 else None


def _is_plain(heads: Heads) -> bool:
    """Whether heads stand side by side, each of them once."""
    return not heads.transposed and heads.shared == 1 and heads.apart == heads.depth


def _between(x: str, y: str, view: View) -> list[Node] | None:
    """The nodes that compute y from x and from places."""
    found: dict[str, Node] = {}
    waiting = [y]
    while waiting:
        name = waiting.pop()
        node = view.producer(name)
        if name == x or node is None or node.name in found:
            continue
        if node.domain or node.op not in _TURNS or len(found) > MAX_NODES:
            return None
        found[node.name] = node
        if node.op != "Shape":
            waiting += node.reads
    return [n for n in view.graph.nodes if n.name in found]


# ---- the trial ----------------------------------------------------------------------------------


class _Trial:
    """The part run on values x that are chosen here, for so many heads and places."""

    def __init__(self, found: _Turned, view: View, heads: int, tokens: int) -> None:
        self.found, self.view, self.heads, self.tokens = found, view, heads, tokens

    def run(self, x: Array) -> Array:
        """y[S, heads, d] of x[S, heads, d] at places 0..S - 1."""
        found = self.found
        x = np.broadcast_to(x, (self.tokens, self.heads, found.depth)).astype(np.float32)
        fed = x.reshape(1, self.tokens, -1) if found.flat else x.transpose(1, 0, 2)[None]
        feeds = {found.x: fed}
        for name in sources(found.part, self.view):
            if name == found.ids:
                places = np.arange(self.tokens)[None]
                feeds[name] = places.astype(self.view.graph.values[name].dtype)
            elif name != found.x:
                array = nothing(name, self.view, 1, self.tokens)
                if array is None:
                    raise EngineError(f"the shape of {name} is not known")
                feeds[name] = array
        y = tried(found.part, feeds, [found.y], self.view)[found.y]
        if y.shape != fed.shape:
            raise EngineError(f"{found.y} is {list(y.shape)} for {list(fed.shape)}")
        if found.flat:
            return y.reshape(self.tokens, self.heads, found.depth)
        return np.asarray(y[0].transpose(1, 0, 2))

    def turns(self, pairs: int, interleaved: bool) -> Array:
        """[S, 2 * pairs]: cosines and sines, where each pair is (1, 0)."""
        x = np.zeros(self.found.depth, np.float32)
        first, second = _pairs(pairs, interleaved)
        x[first] = 1
        y = self.run(x)[:, 0]
        return np.concatenate([y[:, first], y[:, second]], axis=1)

    def shape(self) -> tuple[int, bool] | None:
        """How many pairs are turned, and whether they are neighbours; None where y is none."""
        size = (self.tokens, self.heads, self.found.depth)
        x = np.random.default_rng(2).standard_normal(size).astype(np.float32)
        y = self.run(x)
        changed = np.flatnonzero((y != x).any(axis=(0, 1)))
        pairs = (int(changed[-1]) + 2) // 2 if len(changed) else 0
        for interleaved in (False, True) if pairs else ():
            turns = self.turns(pairs, interleaved)
            if np.allclose(_turned(x, turns, interleaved), y, rtol=1e-5, atol=1e-5):
                return pairs, interleaved
        return None


def _pairs(pairs: int, interleaved: bool) -> tuple[slice, slice]:
    """Where the first and the second of each pair stand."""
    if interleaved:
        return slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    return slice(0, pairs), slice(pairs, 2 * pairs)


def _turned(x: Array, turns: Array, interleaved: bool) -> Array:
    y, pairs = x.copy(), turns.shape[1] // 2
    first, second = _pairs(pairs, interleaved)
    cosine, sine = turns[:, None, :pairs], turns[:, None, pairs:]
    y[..., first] = x[..., first] * cosine - x[..., second] * sine
    y[..., second] = x[..., second] * cosine + x[..., first] * sine
    return y


def _whole(found: _Turned, short: Array, interleaved: bool, view: View) -> Array:
    """The table for as many places as the model's own tables have, or POSITIONS."""
    pairs = short.shape[1] // 2
    sizes = (view.graph.initializers[n].shape for node in found.part for n in node.reads
             if n in view.graph.initializers)  # fmt: skip
    lengths = {d for shape in sizes for d in shape if LEAST < d < POSITIONS} | {POSITIONS}
    for length in sorted(lengths, reverse=True):
        for heads in dict.fromkeys((1, found.heads)):
            try:
                table = _Trial(found, view, heads, length).turns(pairs, interleaved)
            except EngineError:
                continue
            if np.array_equal(table[: len(short)], short[:length]):
                return table
    raise EngineError(f"{found.y}: its angles are not known for more than {len(short)} places")


# ---- the nodes ----------------------------------------------------------------------------------


def _edit(node: Node, found: _Turned, short: Array, interleaved: bool, view: View) -> Edit | None:
    """Rotary of x as a value of tokens, behind one lookup that all share."""
    turns = f"turns.{found.ids or 'places'}.{zlib.crc32(short.tobytes()):08x}"
    nodes: list[Node] = []
    values: dict[str, Value] = {}
    constants: dict[str, Array] = {}
    if view.value(turns) is None:
        if view.fresh(turns) != turns:
            return None  # made in this very sweep; the next one finds it
        table = view.fresh(f"{turns}.table")
        constants[table] = _whole(found, short, interleaved, view)
        nodes.append(_lookup(turns, table, found, view))
        values[turns] = Value(turns, np.dtype(np.float32), (ROWS, TOKENS, short.shape[1]))
    parts = _Nodes(node, view, nodes, values, constants)
    attributes = {"heads": found.heads, "interleaved": int(interleaved)}
    if found.source is None:
        parts.nodes.append(
            Node(node.name, "Rotary", (found.x, turns), node.outputs, NATIVE, attributes)
        )
    else:
        parts.split(parts.turned(parts.tokens(found.source), turns, attributes), found)
    reason = f"{short.shape[1]} of {found.depth} features of {found.heads} heads"
    return Edit((node,), tuple(nodes), values, constants, reason=reason)


def _lookup(turns: str, table: str, found: _Turned, view: View) -> Node:
    name = view.fresh_node(turns)
    if found.ids:
        return Node(name, "Gather", (table, found.ids), (turns,), "", {"axis": 0})
    tokens = next(v.name for v in view.graph.inputs if v.has_tokens)
    return Node(name, "Positional", (tokens, table), (turns,), NATIVE)


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Writes the nodes of one edit."""

    last: Node
    view: View
    nodes: list[Node]
    values: dict[str, Value]
    constants: dict[str, Array]

    def tokens(self, heads: Heads) -> str:
        """The value [N, S, heads * d], scaled: a part of another where that has more."""
        name, value = heads.source, self.view.value(heads.source)
        if value is not None and value.features != heads.features:
            attributes = {"start": heads.start, "count": heads.features}
            name = self._add("Part", (name,), "part", heads.features, attributes, NATIVE)
        if heads.scale != 1:
            factor = self.view.fresh(f"{self.last.name}.scale")
            self.constants[factor] = np.array(heads.scale, np.float32)
            name = self._add("Mul", (name, factor), "scaled", heads.features, {}, "")
        return name

    def turned(self, x: str, turns: str, attributes: dict[str, int]) -> str:
        value = self.values.get(x) or self.view.value(x)
        features = value.features if value is not None else 0
        return self._add("Rotary", (x, turns), "turned", features or 0, attributes, NATIVE)

    def _add(
        self, op: str, inputs: tuple[str, ...], what: str, features: int,
        attributes: dict[str, int], domain: str,
    ) -> str:  # fmt: skip
        name = self.view.fresh(f"{self.last.outputs[0]}.{what}")
        node = self.view.fresh_node(f"{self.last.name}.{what}")
        self.nodes.append(Node(node, op, inputs, (name,), domain, attributes))
        self.values[name] = Value(name, np.dtype(np.float32), (ROWS, TOKENS, features))
        return name

    def split(self, x: str, found: _Turned) -> None:
        """[N, S, heads * d] -> [N, heads, S, d], as the value was."""
        shape, apart = (self.view.fresh(f"{x}.{n}") for n in ("shape", "heads"))
        self.constants[shape] = np.array([0, 0, found.heads, found.depth], np.int64)
        node = self.view.fresh_node(f"{self.last.name}.heads")
        self.nodes.append(Node(node, "Reshape", (x, shape), (apart,)))
        dims = (ROWS, TOKENS, found.heads, found.depth)
        self.values[apart] = Value(apart, np.dtype(np.float32), dims)
        perm = {"perm": [0, 2, 1, 3]}
        self.nodes.append(Node(self.last.name, "Transpose", (apart,), self.last.outputs, "", perm))


ROTARY = Rewrite(
    "rotary",
    "recognizes rotary positions, and looks their angles up by a token's place",
    _at,
    frozenset({"Add", "Concat", "Reshape", "RotaryEmbedding"}),
)
