"""Stages: a graph cut into pieces for one engine each, when its weights are too many for one node.

A stage is a graph of its own, with the nodes of a stretch of the whole and the constants they
name; what later stages need of earlier values is handed on, row by row as the batch has it. Cuts
go where rewrites have been (a node that is fused must not be cut in two), where only float32 of
known size a row, or a token, crosses, and so that the heaviest stage is as light as can be: in
weights, which decide whether it fits its node, and in multiply-adds, which decide how long the
others wait for it. Rows of a table (an embedding) are read where they are needed and weigh nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from engine.compiler import NO_NODES, compile
from engine.errors import EngineError
from engine.graph import Graph, Node, Value
from engine.mapped import release
from engine.program import Program
from engine.rewrites import rewrite
from engine.settings import from_switches
from engine.work_share import TYPICAL_TOKENS, multiply_adds

Array = np.ndarray[Any, Any]

INDEXED_NBYTES = 6
"""Of a weight that is kept: a float32 and its place, which takes two bytes or four."""

_LOOKUPS = ("Gather", "colonnade.Counted", "colonnade.Positional")
"""Nodes that read some rows of their constant, and not all of it."""

CROSSING = 0.05
"""What handing on as much as the widest place does weighs, as a share of the whole: a cut moves by
a node or two for a narrower place, and not by a layer."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A piece of a model."""

    graph: Graph
    """Its inputs are what it takes of the model's inputs and of earlier stages."""
    carries: tuple[str, ...]
    """What is handed to the next stage: values that later stages or the model's outputs need;
    after the last stage the model's outputs."""

    @property
    def begin(self) -> str:
        """Name of its first node: with those of the others all that a process needs to cut the
        same stages without a look at the weights."""
        return self.graph.nodes[0].name


@dataclass(frozen=True, slots=True)
class Cuttable:
    """A graph after its rewrites, with what decides where it is cut: `cut(3)` gives stages."""

    graph: Graph
    places: tuple[int, ...]
    """Numbers of nodes in front of which it can be cut, and both ends."""
    weight_nbytes: tuple[int, ...]
    """Of each node, of weights that are not zero, roughly as packed."""
    multiply_adds: tuple[int, ...]
    """Of each node and a row, zeros not counted."""
    crossing: Mapping[int, float]
    """What crosses at each place but the ends, as a share of the most that does."""

    @property
    def most(self) -> int:
        """Stages that it can be cut into at most."""
        return len(self.places) - 1

    def cut(self, count: int) -> tuple[Stage, ...]:
        """`count` stages that together are the graph; one is the graph after its rewrites.

        Raises EngineError where the graph has too few places to cut.
        """
        if self.most < count:
            raise EngineError(
                f"{self.graph.name}: expected {count - 1} places at least to cut it into {count} "
                f"stages, got {self.most - 1}; ask for fewer stages"
            )
        loads = _shares(self.weight_nbytes), _shares(self.multiply_adds), self.crossing
        return _stages(self.graph, _lightest(self.places, count, *loads))


def cuttable(graph: Graph, **switches: Any) -> Cuttable:
    """Looks at every weight once, and at one node's at a time."""
    whole = _rewritten(graph, switches)
    places = (0, *(i for i in range(1, len(whole.nodes)) if _may_cut(whole, i)), len(whole.nodes))
    loads = [_loads(node, whole) for node in whole.nodes]
    weights, work = zip(*loads, strict=True) if loads else ((), ())
    return Cuttable(whole, places, weights, work, _crossing_shares(whole, places))


def cut(graph: Graph, count: int, **switches: Any) -> tuple[Stage, ...]:
    """`cuttable(graph).cut(count)`: the same for all who cut the same graph with the same
    switches."""
    return cuttable(graph, **switches).cut(count)


def cut_at(graph: Graph, begins: Sequence[str], **switches: Any) -> tuple[Stage, ...]:
    """Stages that begin with these nodes, as somebody else has cut the graph; weights are not
    looked at.

    Raises EngineError for nodes that are not there in this order.
    """
    whole = _rewritten(graph, switches)
    numbers = {node.name: number for number, node in enumerate(whole.nodes)}
    edges = [*(numbers.get(name, -1) for name in begins), len(whole.nodes)]
    if edges[0] or edges != sorted(set(edges)):
        raise EngineError(
            f"{graph.name}: expected stages that begin with nodes {list(begins)} in this order, "
            f"got them at {edges[:-1]}; is another version of colonnade installed here?"
        )
    return _stages(whole, edges)


def _rewritten(graph: Graph, switches: Mapping[str, Any]) -> Graph:
    return rewrite(graph, frozenset(from_switches(switches).rewrites_off))[0]


def _stages(whole: Graph, edges: Sequence[int]) -> tuple[Stage, ...]:
    return tuple(
        Stage(
            _piece(whole, first, last, number),
            tuple(_crossing(whole, last)) if last < len(whole.nodes) else _names(whole),
        )
        for number, (first, last) in enumerate(pairwise(edges))
    )


def compile_stage(
    stage: Stage, choices: Mapping[str, str] | None = None, **switches: Any
) -> Program:
    """The stage's program. `choices` and switches are those of the whole model: a node has the
    same kernel whether it is in a stage or not, so the outputs have the same bytes."""
    return compile(stage.graph, choices=_of(stage, choices), **switches)


def _of(stage: Stage, choices: Mapping[str, str] | None) -> dict[str, str]:
    """Of the whole model's choices those of the stage's nodes."""
    names = {node.name for node in stage.graph.nodes} | set(NO_NODES)
    return {name: kernel for name, kernel in (choices or {}).items() if name in names}


def _names(graph: Graph) -> tuple[str, ...]:
    return tuple(value.name for value in graph.outputs)


def _loads(node: Node, graph: Graph) -> tuple[int, int]:
    """Bytes of the weights that the node keeps, and its multiply-adds a row: those not zero."""
    names = [n for n in node.reads if n in graph.initializers]
    if node.label in _LOOKUPS:
        return 0, multiply_adds(node, graph, TYPICAL_TOKENS)
    counts = {n: _nonzeros(graph.initializers[n]) for n in dict.fromkeys(names)}
    kept = sum(INDEXED_NBYTES * counts[n] for n in names)
    dense = multiply_adds(node, graph, TYPICAL_TOKENS)
    weights = node.inputs[1] if len(node.inputs) > 1 else ""
    size = graph.initializers[weights].size if weights in counts else 0
    return kept, dense * counts[weights] // size if size else dense


def _nonzeros(array: Array) -> int:
    found = int(np.count_nonzero(array))
    release(array)
    return found


def _crossing(graph: Graph, place: int) -> list[str]:
    """Values that exist before node `place` and are needed from there on, in the order made."""
    made = [v.name for v in graph.inputs]
    made += [n for node in graph.nodes[:place] for n in node.writes]
    needed = {n for node in graph.nodes[place:] for n in node.reads} | set(_names(graph))
    return [n for n in dict.fromkeys(made) if n in needed]


def _may_cut(graph: Graph, place: int) -> bool:
    """Whether everything that would cross before node `place` can be handed on."""
    given = {v.name for v in graph.inputs}
    return all(n in given or _hands_on(graph, n) for n in _crossing(graph, place))


def _hands_on(graph: Graph, name: str) -> bool:
    value = graph.values.get(name)
    return value is not None and value.dtype == np.float32 and value.features is not None


def _shares(amounts: Sequence[int]) -> list[float]:
    """Share of the total before each place, 0 to 1."""
    total = sum(amounts) or 1
    return [0.0, *accumulate(a / total for a in amounts)]


def _crossing_shares(graph: Graph, places: Sequence[int]) -> dict[int, float]:
    """What crosses at each place but the ends, as a share of the most that does."""
    features = {
        place: sum(
            value.features or 0
            for name in _crossing(graph, place)
            if (value := graph.values[name]) not in graph.inputs
        )
        for place in places[1:-1]
    }
    most = max(1, max(features.values(), default=1))
    return {place: crossing / most for place, crossing in features.items()}


def _lightest(
    places: Sequence[int],
    count: int,
    weights: Sequence[float],
    work: Sequence[float],
    crossing: Mapping[int, float],
) -> list[int]:
    """Edges of `count` stages among the places, of which the heaviest is as light as can be."""

    def load(a: int, b: int) -> float:
        first, last = places[a], places[b]
        own = max(weights[last] - weights[first], work[last] - work[first])
        return own + CROSSING * crossing.get(last, 0.0)

    @cache
    def best(stages: int, end: int) -> tuple[float, int]:
        """The heaviest of `stages` stages up to `end`, and where the last of them begins."""
        if stages == 1:
            return load(0, end), 0
        options = range(stages - 1, end)
        return min((max(best(stages - 1, begin)[0], load(begin, end)), begin) for begin in options)

    edges, end = [len(places) - 1], len(places) - 1
    for stages in range(count, 0, -1):
        _, end = best(stages, end)
        edges.append(end)
    return [places[i] for i in reversed(edges)]


def _piece(graph: Graph, first: int, last: int, number: int) -> Graph:
    """The nodes from `first` up to `last`, as a graph."""
    nodes = graph.nodes[first:last]
    written = {n for node in nodes for n in node.writes}
    read = [n for node in nodes for n in node.reads if n not in written]
    needed = {n for node in graph.nodes[last:] for n in node.reads} | set(_names(graph))
    given = dict.fromkeys(n for n in read if n not in graph.initializers)
    named = written | set(read)
    return replace(
        graph,
        name=f"{graph.name}/{number}",
        inputs=_values(graph, given),
        outputs=_values(graph, (n for node in nodes for n in node.writes if n in needed)),
        nodes=nodes,
        values={n: v for n, v in graph.values.items() if n in named},
        initializers={n: a for n, a in graph.initializers.items() if n in named},
    )


def _values(graph: Graph, names: Iterable[str]) -> tuple[Value, ...]:
    return tuple(graph.values[n] for n in names)
