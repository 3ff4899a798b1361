"""Parts of a graph that are run on made-up inputs, to find out what they mean.

Exporters write masks, angles and distances in as many spellings as there are exporters. They are
not matched: the part of the graph that computes one is cut out and tried.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from engine.errors import EngineError
from engine.graph import ROWS, TOKENS, Graph, Node
from engine.reference import run
from engine.rewrites.rewrite import Array, View

MAX_NODES = 64

# fmt: off
OF_MASKS = frozenset({
    "Add", "And", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather",
    "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mul", "Not",
    "Or", "Range", "Reshape", "Shape", "Slice", "Squeeze", "Sub", "Tile", "Transpose", "Trilu",
    "Unsqueeze", "Where",
})
"""What masks are computed by."""
OF_PLACES = OF_MASKS | {
    "Abs", "Ceil", "Cos", "Einsum", "Exp", "Floor", "Log", "MatMul", "Mod", "Neg", "Pow",
    "Reciprocal", "Sign", "Sin", "Split", "Sqrt",
}
"""What angles, and numbers for distances, are computed by besides."""
# fmt: on


def behind(name: str, view: View, known: Collection[str]) -> list[Node] | str:
    """The nodes that compute the value from graph inputs and constants, in order; or the reason
    why they are not all `known` operators."""
    found: dict[str, Node] = {}
    waiting = [name]
    while waiting:
        node = view.producer(waiting.pop())
        if node is None or node.name in found:
            continue
        if node.domain or node.op not in known or len(found) > MAX_NODES:
            return f"{node.name} ({node.label}) is not known from masks"
        found[node.name] = node
        if node.op != "Shape":  # a shape is known, whoever computes the value
            waiting += node.reads
    return [n for n in view.graph.nodes if n.name in found]


def sources(part: Sequence[Node], view: View) -> list[str]:
    """Values that the part reads and does not compute."""
    inside = {o for n in part for o in n.writes}
    reads = dict.fromkeys(r for n in part for r in n.reads)
    return [n for n in reads if n not in inside and n not in view.graph.initializers]


def is_read(name: str, part: Sequence[Node]) -> bool:
    """Whether more than its shape is used."""
    return any(name in n.reads and n.op != "Shape" for n in part)


def sized(name: str, view: View, rows: int, tokens: int) -> tuple[int, ...] | None:
    """The shape of a value for a batch of that size."""
    value = view.value(name)
    sizes = {ROWS: rows, TOKENS: tokens}
    dims = None if value is None else value.shape
    if dims is None or not all(isinstance(d, int) or d in sizes for d in dims):
        return None
    return tuple(d if isinstance(d, int) else sizes[d] for d in dims)


def nothing(name: str, view: View, rows: int, tokens: int) -> Array | None:
    """Zeros for a value of which only the shape is read: they take no memory."""
    shape, value = sized(name, view, rows, tokens), view.value(name)
    if shape is None or value is None:
        return None
    return np.broadcast_to(np.zeros((), value.dtype), shape)


def tried_on_mask(
    part: Sequence[Node], wanted: str, mask_name: str, mask: Array, view: View
) -> Array:
    """What the part computes of a mask[N, S], of which it may read the shape alone, as of all else.
    Raises EngineError where it cannot run."""
    feeds = {}
    for source in sources(part, view):
        fed = nothing(source, view, *mask.shape)
        if source == mask_name:
            fed = mask.astype(view.graph.values[source].dtype)
        if fed is None:
            raise EngineError(f"{source}: its shape is not known")
        feeds[source] = fed
    return tried(part, feeds, [wanted], view)[wanted]


def tried(
    part: Sequence[Node], feeds: Mapping[str, Array], wanted: Sequence[str], view: View
) -> dict[str, Array]:
    """What the part computes. Raises EngineError where it cannot run."""
    graph = Graph(
        name="trial",
        inputs=tuple(view.graph.values[n] for n in feeds),
        outputs=tuple(view.graph.values[n] for n in wanted),
        nodes=tuple(part),
        values=view.graph.values,
        initializers=view.graph.initializers,
        opsets=view.graph.opsets,
    )
    return run(graph, feeds)
