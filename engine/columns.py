"""Columns: which nodes run depth first together, and where a segment must end.

A layer-wise engine takes a batch through one layer, then through the next, and every activation
travels to memory and back. A column takes a few rows through all layers before the next rows
start, and its activations never leave the core's L2:

          layer-wise                          column-wise
      rows  0 .. 15 16 .. 31 32 .. 47     rows  0 .. 15 16 .. 31 32 .. 47
    Gemm    1       2        3          Gemm    1 |     5 |      9 |
    Relu    4       5        6          Relu    2 |     6 |     10 |
    Gemm    7       8        9          Gemm    3 |     7 |     11 |
    Softmax 10      11       12         Softmax 4 V     8 V     12 V

Rows are independent, so columns are: each thread takes the next one by an atomic fetch-add and no
thread ever waits for another inside a batch. Weights stream through once per column, from L3.

A segment ends where a node has no kernel. Such a node runs on the whole batch through the
reference, and the values it reads and writes lie in memory as arrays of rows. To switch as seldom
as possible, nodes are taken greedily: all native ones that are ready, then all others that are
ready, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine import arena
from engine.dispatch import structure_of
from engine.graph import Graph, Node
from engine.kernels.table import POINTS
from engine.ops.native import lower, map_unary
from engine.ops.work import Alias, Linear, Map, Refusal, Work
from engine.packing import PACKINGS, round_up
from engine.program import Border, Column, Fallback, Panel, Step

SLICE = 4
"""Outputs that a linear kernel writes at once: every panel has room for a slice beyond its end."""
_NO_CLAMP = (-np.inf, np.inf)

Chooser = Callable[[str, Linear], str]
"""Node and work -> name of the linear kernel."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A node with its work, or with the reason why it has none."""

    node: Node
    work: Work | Refusal


def lower_all(graph: Graph) -> tuple[Lowered, ...]:
    """Every node's work. What is not float32 may be imported, but not leave a segment again."""
    works = {node.name: lower(node, graph) for node in graph.nodes}
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            reason = _stranded(node, graph, works)
            if reason and not isinstance(works[node.name], Refusal):
                works[node.name] = Refusal(reason)
                changed = True
    return tuple(Lowered(node, works[node.name]) for node in graph.nodes)


def _stranded(node: Node, graph: Graph, works: Mapping[str, Work | Refusal]) -> str | None:
    """Why a native node's output could not be used: its type cannot be exported."""
    name = node.outputs[0]
    value = graph.values.get(name)
    if value is None or value.dtype == np.float32:
        return None
    outside = [n.label for n in graph.consumers(name) if isinstance(works[n.name], Refusal)]
    if outside or graph.is_output(name):
        reader = f"read by {outside[0]}" if outside else "an output"
        return f"{value} is {reader}, and only float32 leaves a segment"
    return None


def segments(graph: Graph, lowered: Sequence[Lowered], choose: Chooser) -> list[Column | Fallback]:
    """The nodes in alternating groups, each made into a segment."""
    groups = _groups(graph, lowered)
    made: list[Column | Fallback] = []
    for index, group in enumerate(groups):
        later = {n for g in groups[index + 1 :] for item in g for n in item.node.reads}
        wanted = later | {v.name for v in graph.outputs}
        if isinstance(group[0].work, Refusal):
            made.append(_fallback(graph, group, wanted))
        else:
            made.append(_ColumnBuilder(graph, wanted, choose).build(group))
    return made


def _groups(graph: Graph, lowered: Sequence[Lowered]) -> list[list[Lowered]]:
    """Runs of native and of other nodes, each as long as what it reads allows."""
    ready = {v.name for v in graph.inputs} | set(graph.initializers)
    waiting, groups, native = list(lowered), [], True
    while waiting:
        taken, left = [], []
        for item in waiting:
            same = isinstance(item.work, Refusal) != native
            if same and ready.issuperset(item.node.reads):
                taken.append(item)
                ready.update(item.node.writes)
            else:
                left.append(item)
        if taken:
            groups.append(taken)
        waiting, native = left, not native
    return groups


def _fallback(graph: Graph, group: Sequence[Lowered], wanted: set[str]) -> Fallback:
    inside = {n for item in group for n in item.node.writes}
    reads = dict.fromkeys(n for item in group for n in item.node.reads if n not in inside)
    reasons = tuple(item.work.reason for item in group if isinstance(item.work, Refusal))
    return Fallback(
        nodes=tuple(item.node for item in group),
        reasons=reasons,
        reads=tuple(n for n in reads if n not in graph.initializers),
        writes=tuple(n for n in inside if n in wanted),
    )


class _ColumnBuilder:
    """Collects the steps of one segment, with its borders."""

    def __init__(self, graph: Graph, wanted: set[str], choose: Chooser) -> None:
        self.graph = graph
        self.wanted = wanted
        self.choose = choose
        self.root: dict[str, str] = {}  # value -> the panel it lies in
        self.features: dict[str, int] = {}  # panel -> features
        self.borders = 0

    def build(self, group: Sequence[Lowered]) -> Column:
        inside = {n for item in group for n in item.node.writes}
        outside = dict.fromkeys(
            n
            for item in group
            for n in item.node.reads
            if n not in inside and n not in self.graph.initializers
        )
        imports = [self._border(n) for n in outside]
        steps = [self._import(b) for b in imports]
        for item in group:
            assert not isinstance(item.work, Refusal)
            steps += self._steps(item.node.name, item.work)
        exports = [self._border(n) for n in dict.fromkeys(_written(group)) if n in self.wanted]
        steps += [self._export(b) for b in exports]
        return Column(
            nodes=tuple(item.node.name for item in group),
            steps=tuple(steps),
            imports=tuple(imports),
            exports=tuple(exports),
            arena=arena.plan(self._lifetimes(steps)),
        )

    # ---- borders --------------------------------------------------------------------------

    def _border(self, name: str) -> Border:
        value = self.graph.values[name]
        self.borders += 1
        return Border(name, self.borders - 1, value.features or 0, value.dtype)

    def _import(self, b: Border) -> Step:
        self._own(b.value, b.features)
        operands = (Panel(b.value), b.index, b.features)
        return Step("", f"import_{b.dtype.name}_x{POINTS}", operands, (), (b.value,))

    def _export(self, b: Border) -> Step:
        panel = self.root[b.value]
        operands = (Panel(panel), b.index, b.features)
        return Step("", f"export_f32_x{POINTS}", operands, (panel,), ())

    # ---- steps ----------------------------------------------------------------------------

    def _own(self, value: str, features: int) -> None:
        self.root[value] = value
        self.features[value] = features

    def _steps(self, node: str, work: Work) -> list[Step]:
        if isinstance(work, Alias):
            self.root[work.y] = self.root[work.x]
            return []
        if isinstance(work, Linear):
            return self._linear(node, work)
        return [self._map(node, work)]

    def _map(self, node: str, work: Map) -> Step:
        self._own(work.write, self.graph.values[work.write].features or 0)
        operands = tuple(
            Panel(self.root[o.value], o.shift) if isinstance(o, Panel) else o for o in work.operands
        )
        reads = tuple(dict.fromkeys(self.root[n] for n in work.reads))
        return Step(node, work.kernel, operands, reads, (work.write,), work.detail)

    def _linear(self, node: str, work: Linear) -> list[Step]:
        kernel = self.choose(node, work)
        outputs, inputs = work.weights.shape
        x = self.root[work.x]
        self._own(work.y, outputs * work.repeats)
        clamp, after = _clamp(work.activations)
        words = linear_words(kernel, work, clamp)
        nonzeros = int(np.count_nonzero(work.weights))
        detail = f"{nonzeros} of {outputs}x{inputs}"
        if clamp != _NO_CLAMP:
            detail += f", clamp {clamp[0]:g}..{clamp[1]:g}"
        steps = [
            Step(
                node,
                kernel,
                (Panel(x, i * inputs), Panel(work.y, i * outputs), *words),
                (x,),
                (work.y,),
                detail,
                outputs * inputs,
                nonzeros,
            )
            for i in range(work.repeats)
        ]
        for name, a, b in after:  # in place, while the panel is in L2
            m = map_unary(name, (a, b), work.y, work.y, outputs * work.repeats)
            steps.append(Step(node, m.kernel, m.operands, (work.y,), (work.y,), m.detail))
        return steps

    # ---- memory ---------------------------------------------------------------------------

    def _lifetimes(self, steps: Sequence[Step]) -> list[arena.Lifetime]:
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for index, step in enumerate(steps):
            for name in (*step.reads, *step.writes):
                first.setdefault(name, index)
                last[name] = index
        return [
            arena.Lifetime(n, (self.features[n] + SLICE - 1) * POINTS * 4, first[n], last[n])
            for n in first
        ]


def _written(group: Iterable[Lowered]) -> Iterable[str]:
    return (n for item in group for n in item.node.writes)


def _clamp(
    activations: Sequence[tuple[str, float, float]],
) -> tuple[tuple[float, float], list[tuple[str, float, float]]]:
    """Leading Relu and Clip become the bounds that linear kernels apply in registers."""
    low, high = _NO_CLAMP
    rest = list(activations)
    while rest and rest[0][0] in ("Relu", "Clip"):
        name, a, b = rest[0]
        a, b = (0.0, np.inf) if name == "Relu" else (a, b)
        if a > high or b < low or a > b:  # bounds that cross: the order of the two matters
            break
        low, high = max(low, a), min(high, b)
        rest.pop(0)
    return (low, high), rest


def linear_words(
    kernel: str, work: Linear, clamp: tuple[float, float]
) -> tuple[np.ndarray | int, ...]:
    """Packed weights, then numbers, bias and clamp: words 3 and on of a linear kernel."""
    packed = PACKINGS[structure_of(kernel)](work.weights, POINTS)
    bias = np.zeros(round_up(len(work.bias), SLICE), np.float32)
    bias[: len(work.bias)] = work.bias
    return (*packed.streams, *packed.numbers, bias, np.array(clamp, np.float32))
