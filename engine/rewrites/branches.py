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
from engine.graph import NATIVE, Graph, Node
from engine.reader import with_branches
from engine.rewrites.fold import FOLD
from engine.rewrites.rewrite import Event, Rewrite, View, sweep
from engine.rewrites.static_shape import STATIC_SHAPE


def take_branches(graph: Graph, table: Sequence[Rewrite]) -> tuple[Graph, list[Event]]:
    """The graph without the Ifs that can be told, and what was done; `table` are the rewrites
    that are on. One with operators of our own, which cannot be read again, stays as it is."""
    folding = [r for r in table if r in (FOLD, STATIC_SHAPE)]
    fired: list[Event] = []
    if any(n.domain == NATIVE for n in graph.nodes):
        return graph, fired
    while choices := [n for n in graph.nodes if n.label == "If"]:
        told = _told(graph, choices, folding)
        if not told:
            break
        after = with_branches(graph, told)
        now = _told(after, [n for n in choices if n.name in told], folding)
        if any(now.get(name, on) != on for name, on in told.items()):
            # a shape behind an If was the file's word only, and what stands there now tells
            # another; the first is behind none of them
            told = dict([next(iter(told.items()))])
            after = with_branches(graph, told)
        graph = after
        fired += [_event(name, on) for name, on in told.items()]
    return graph, fired


def _event(node: str, on: bool) -> Event:
    branch = "then" if on else "else"
    reason = f"its condition is always {on}: its {branch} branch stands in its place"
    return Event(BRANCHES.name, node, True, reason)


def _told(graph: Graph, choices: Sequence[Node], folding: Sequence[Rewrite]) -> dict[str, bool]:
    """The conditions of these Ifs that are known, by the names of the Ifs, in running order."""
    if not choices:
        return {}
    names = tuple(n.inputs[0] for n in choices)
    part = replace(graph, nodes=tuple(_leading_to(names, graph)), outputs=())
    before = None
    while part is not before:  # a sweep in which nothing fires gives the graph it was given
        before = part
        for row in folding:
            part, _, _ = sweep(part, row)
    arrays = {n.name: part.initializers.get(n.inputs[0]) for n in choices}
    return {n: bool(a.reshape(-1)[0]) for n, a in arrays.items() if a is not None and a.size == 1}


def _leading_to(names: tuple[str, ...], graph: Graph) -> list[Node]:
    """What these values are computed by, and a node that asks for them; not what only gives a
    shape to it."""
    wanted, kept = set(names), [Node("asks", "Asks", names, (), NATIVE)]
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.writes):
            kept.append(node)
            if node.label not in ("If", "Shape"):
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
