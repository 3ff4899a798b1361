"""What a rewrite is: for one node it gives an edit, a reason to refuse, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.graph import Graph, Node, Value

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Edit:
    """A change: some nodes go, others take the place of the last of them.

    It must keep the meaning of every value that is still there afterwards. The nodes of the
    pattern whose results disappear are all in `removes`; two edits that remove the same node
    are never made in one sweep.
    """

    removes: tuple[Node, ...]
    inserts: tuple[Node, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    initializers: Mapping[str, Array] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    """Old name -> the name that takes its place, wherever a node reads or writes it."""
    reason: str = ""
    """What was done, for the log."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log: a rewrite fired at a node, or refused it."""

    rewrite: str
    node: str
    fired: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.rewrite} {'fired' if self.fired else 'refused'} {self.node}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One rewrite. `at(node, view)` gives an Edit, a reason (str) to refuse, or None: no match."""

    name: str
    does: str
    """A sentence for people."""
    at: Callable[[Node, View], Edit | str | None]
    roots: frozenset[str] | None = None
    """Labels of the nodes worth looking at; None for all."""


class View:
    """A graph with an index, made anew for every sweep."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._outputs = {v.name for v in graph.outputs}
        self._producers = {o: n for n in graph.nodes for o in n.writes}
        self._readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.reads):
                self._readers.setdefault(name, []).append(node)
        self._names = {n.name for n in graph.nodes}
        self._given: set[str] = set()

    def producer(self, name: str) -> Node | None:
        return self._producers.get(name)

    def constant(self, name: str) -> Array | None:
        return self.graph.initializers.get(name) if name else None

    def scalar(self, name: str) -> float | None:
        """The constant `name` if it holds one number."""
        array = self.constant(name)
        if array is None or array.size != 1 or array.dtype.kind not in "fiu":
            return None
        return float(array.reshape(-1)[0])

    def value(self, name: str) -> Value | None:
        return self.graph.value(name)

    def is_output(self, name: str) -> bool:
        return name in self._outputs

    def is_input(self, name: str) -> bool:
        return any(v.name == name for v in self.graph.inputs)

    def readers(self, name: str) -> list[Node]:
        return self._readers.get(name, [])

    def used(self, name: str) -> bool:
        """Whether a node reads the value, or it is a graph output."""
        return self.is_output(name) or bool(self.readers(name))

    def captured(self, name: str) -> bool:
        """Whether a subgraph reads the value by this name."""
        return any(name in n.captures for n in self.readers(name))

    def shared(self, name: str) -> str | None:
        """Why a value must outlive its one reader, or None where it need not."""
        if self.is_output(name):
            return f"{name} is a graph output"
        readers = self.readers(name)
        if len(readers) > 1:
            listed = ", ".join(n.name for n in readers[:4])
            return f"{name} is read by {len(readers)} nodes ({listed})"
        return f"{name} is read by a subgraph" if self.captured(name) else None

    def fresh(self, name: str) -> str:
        """`name`, or the next free one after it: for values and constants."""
        taken = self.graph
        known = (taken.initializers, taken.values, self._producers, self._readers, self._given)
        found = _next_free(name, *known)
        self._given.add(found)
        return found

    def fresh_node(self, name: str) -> str:
        """`name`, or the next free one after it: for nodes, which edits find by their names."""
        found = _next_free(name, self._names)
        self._names.add(found)
        return found


def _next_free(name: str, *taken: Container[str]) -> str:
    count, found = 1, name
    while any(found in names for names in taken):
        count += 1
        found = f"{name}_{count}"
    return found


def apply(graph: Graph, edits: list[Edit]) -> Graph:
    """The graph with all edits made; each stands where the last node it removes stood."""
    place = {n.name: i for i, n in enumerate(graph.nodes)}
    removed = {n.name for e in edits for n in e.removes}
    inserted: dict[int, list[Node]] = {}
    renames: dict[str, str] = {}
    for edit in edits:
        inserted.setdefault(max(place[n.name] for n in edit.removes), []).extend(edit.inserts)
        renames |= edit.renames
    nodes: list[Node] = []
    for index, node in enumerate(graph.nodes):
        if node.name not in removed:
            nodes.append(node)
        nodes += inserted.get(index, [])
    if renames:
        nodes = [_renamed(n, renames) for n in nodes]
    return graph.with_nodes(
        nodes,
        values={k: v for e in edits for k, v in e.values.items()},
        initializers={k: a for e in edits for k, a in e.initializers.items()},
    )


def _renamed(node: Node, renames: Mapping[str, str]) -> Node:
    def new(name: str) -> str:
        while name in renames:
            name = renames[name]
        return name

    inputs, outputs = tuple(map(new, node.inputs)), tuple(map(new, node.outputs))
    if (inputs, outputs) == (node.inputs, node.outputs):
        return node
    return replace(node, inputs=inputs, outputs=outputs)


def sweep(graph: Graph, row: Rewrite) -> tuple[Graph, list[Event], list[Event]]:
    """One rewrite over all nodes once; edits that would touch the same node wait for the next."""
    view = View(graph)
    edits: list[Edit] = []
    touched: set[str] = set()
    fired: list[Event] = []
    refused: list[Event] = []
    for node in graph.nodes:
        if row.roots is not None and node.label not in row.roots:
            continue
        found = row.at(node, view)
        if isinstance(found, str):
            refused.append(Event(row.name, node.name, False, found))
        elif found is not None:
            # values that are renamed count too: one name cannot become two
            touches = {n.name for n in found.removes} | {f"value {n}" for n in found.renames}
            if not touched.isdisjoint(touches):
                continue
            edits.append(found)
            touched |= touches
            fired.append(Event(row.name, node.name, True, found.reason))
    return (apply(graph, edits) if edits else graph), fired, refused
