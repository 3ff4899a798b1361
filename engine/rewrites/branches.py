"""An If whose condition is constant: the nodes of the branch that it takes stand in its place.

Exporters write an If where a choice hangs on a dimension (a squeeze, of which they cannot tell
whether there is a 1), and most of these dimensions are fixed. A condition is looked for by the
rewrites that compute constants, on that part of the graph only which computes conditions. The
graph is then read again, since nothing behind an If had a shape: so this is done before all other
rewrites, in rounds, for Ifs that stand in branches or behind others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.conditions import depends_on
from engine.graph import Graph, Node
from engine.reader import with_branches
from engine.rewrites.fold import FOLD
from engine.rewrites.rewrite import Event, Rewrite, View, sweep
from engine.rewrites.static_shape import STATIC_SHAPE


def take_branches(graph: Graph, table: Sequence[Rewrite]) -> tuple[Graph, list[Event]]:
    """The graph without the Ifs that can be told, and what was done; `table` are the rewrites
    that are on."""
    fired: list[Event] = []
    while conditions := _conditions(graph, [r for r in table if r in (FOLD, STATIC_SHAPE)]):
        graph = with_branches(graph, conditions)
        for name, on in conditions.items():
            branch = "then" if on else "else"
            reason = f"its condition is always {on}: its {branch} branch stands in its place"
            fired.append(Event(BRANCHES.name, name, True, reason))
    return graph, fired


def _conditions(graph: Graph, folding: Sequence[Rewrite]) -> dict[str, bool]:
    """The conditions that are known, by the names of their Ifs."""
    choices = [n for n in graph.nodes if n.label == "If"]
    if not choices:
        return {}
    part = replace(graph, nodes=tuple(_leading_to(choices, graph)), outputs=())
    before = None
    while part is not before:  # a sweep in which nothing fires gives the graph it was given
        before = part
        for row in folding:
            part, _, _ = sweep(part, row)
    arrays = {n.name: part.initializers.get(n.inputs[0]) for n in choices}
    return {n: bool(a.reshape(-1)[0]) for n, a in arrays.items() if a is not None and a.size == 1}


def _leading_to(choices: Sequence[Node], graph: Graph) -> list[Node]:
    """The Ifs and what their conditions are computed by; not what only gives a shape to it."""
    wanted = {n.inputs[0] for n in choices}
    kept = []
    for node in reversed(graph.nodes):
        computes = not wanted.isdisjoint(node.writes)
        if computes or node in choices:
            kept.append(node)
        if computes and node.label not in ("If", "Shape"):
            wanted.update(node.reads)
    return kept[::-1]


def _at(node: Node, view: View) -> str:
    """Those that are left once branches are taken."""
    return depends_on(node, view.graph)


BRANCHES = Rewrite(
    "branches",
    "puts the branch that is always taken in the place of its If",
    _at,
    frozenset({"If"}),
)
