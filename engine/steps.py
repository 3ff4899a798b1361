"""From work to steps: which kernel, which words, which panels, and how long each lives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.arena import Lifetime
from engine.border import Border
from engine.dispatch import structure_of
from engine.graph import Graph, Node, Value
from engine.hollow import hollow
from engine.kernels.table import EPILOGUE_NAMES, epilogue_name
from engine.mapped import release
from engine.ops.image_work import Convolution, ImageWork
from engine.ops.native import map_unary
from engine.ops.work import PER_POINT, Alias, Joined, Linear, Map, Refusal, Work
from engine.packing import PACKINGS, round_up
from engine.segments import (
    SLICE,
    Code,
    Count,
    Operand,
    Panel,
    Place,
    Step,
    Stride,
    slack_nbytes,
)

Array = np.ndarray[Any, Any]
_NO_CLAMP = (-np.inf, np.inf)
SLAB_NBYTES = 192 * 1024
"""Packed weights of a slab: they stay in L2 beside the panels of a group of tiles."""
WHOLE_NBYTES = {"dense4": 1 << 20}
WHOLE_SPARSE_NBYTES = 4 << 20
"""Packed weights up to which they are left whole. Slabs make a tile of inputs pass through L1 more
often, and spare L3: MLP of the bench, 64 rows, dense, Xeon: 22.4 -> 15.3 ms; 80 % zeros: 5.5 ->
4.7; BERT-base of 90 % zeros, whose matrices are small: 263 -> 279."""

Chooser = Callable[[str, Linear | Convolution], str]
"""Node and work -> name of the linear kernel, or the structure of a convolution's."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A node with its work, or with the reason why it has none."""

    node: Node
    work: Work | ImageWork | Refusal


@dataclass(frozen=True, slots=True)
class Frame:
    """What a group of nodes becomes a segment in."""

    graph: Graph
    wanted: set[str]
    """Values that are read behind the segment."""
    choose: Chooser
    points: int
    """T, of a tile."""
    lanes: int
    """Images of a group."""
    depth_first: bool
    """Of images; what else runs in columns leaves that to the session."""
    hollow: bool = False
    """Whether steps keep no weights."""
    epilogues: bool = True
    """Whether linear kernels do more to their sums than to keep them within bounds."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What a linear kernel does to its sums before it writes them for the last time: in this
    order."""

    rest: Panel | None = None
    """Added to them."""
    bounds: tuple[float, float] = _NO_CLAMP
    function: tuple[str, float, float] | None = None
    """A name of EPILOGUE_NAMES with its two parameters."""

    def __str__(self) -> str:
        said = [f"adds {self.rest}"] if self.rest is not None else []
        if self.bounds != _NO_CLAMP:
            said.append(f"clamp {self.bounds[0]:g}..{self.bounds[1]:g}")
        return ", ".join(said if self.function is None else [*said, self.function[0]])


class StepBuilder:
    """Makes the steps of one segment, and knows its panels and borders."""

    def __init__(self, frame: Frame) -> None:
        self.graph = frame.graph
        self.choose = frame.choose
        self.points = frame.points
        self.epilogues = frame.epilogues
        self._hollow = frame.hollow
        self._wanted = frame.wanted
        self.root: dict[str, Panel] = {}
        """Value -> where it lies: a panel of that name, or a part of one."""
        self.features: dict[str, int] = {}
        """Panel -> features."""
        self.borders: dict[str, Border] = {}

    # ---- borders --------------------------------------------------------------------------

    def border(self, value: Value) -> Border:
        """The border of a value, with the next free index."""
        if value.name not in self.borders:
            features = value.features or 0
            self.borders[value.name] = Border(
                value.name, len(self.borders), features, value.dtype, value.has_tokens
            )
        return self.borders[value.name]

    def import_step(self, b: Border) -> Step:
        self._own(b.value, b.features)
        operands = (Panel(b.value), b.index, b.features)
        return Step("", f"import_{b.dtype.name}_x{self.points}", operands, (), (b.value,))

    def export_step(self, b: Border) -> Step:
        panel = self.root[b.value]
        operands = (panel, b.index, b.features)
        kind = "f32" if b.dtype == np.float32 else b.dtype.name
        return Step("", f"export_{kind}_x{self.points}", operands, (panel.value,), ())

    # ---- steps ----------------------------------------------------------------------------

    def _own(self, value: str, features: int) -> None:
        self.root[value] = Panel(value)
        self.features[value] = features

    def steps(self, node: str, work: Work) -> list[Step]:
        """The steps of one node's work, in order."""
        if isinstance(work, Alias):
            self.root[work.y] = self._within(Panel(work.x, work.shift))
            return []
        if isinstance(work, Joined):
            return self._joined(node, work)
        made = self._linear(node, work) if isinstance(work, Linear) else [self._map(node, work)]
        return hollowed(made) if self._hollow else made

    def _within(self, panel: Panel) -> Panel:
        """The part of a value as a part of the panel that the value lies in."""
        root = self.root.get(panel.value)
        return panel if root is None else replace(root, shift=root.shift + panel.shift)

    def _placed(self, operand: Operand) -> Operand:
        """The word by the panel that its value lies in, not by the value."""
        if isinstance(operand, Panel):
            return self._within(operand)
        if isinstance(operand, Stride):
            return self.features[self.root[operand.value].value] * self.points * 4
        return operand

    def _map(self, node: str, work: Map) -> Step:
        for name in work.panels:
            self._write(node, work, name)
        for name, features in work.scratch:
            self._own(name, self.points if features == PER_POINT else features)
        operands = tuple(self._placed(o) for o in work.operands)
        reads = tuple(dict.fromkeys(self.root[n].value for n in work.reads))
        panels = tuple(self.root[name].value for name in work.panels)
        writes = (*panels, *(name for name, _ in work.scratch))
        kernel = f"{work.kernel}_x{self.points}"
        return Step(node, kernel, operands, reads, writes, work.detail)

    def _joined(self, node: str, work: Joined) -> list[Step]:
        """A copy for each value."""
        widths = [self.graph.values[name].features or 0 for name in work.reads]
        self._own(work.write, sum(widths))
        kernel, steps, done = f"copy_f32_x{self.points}", [], 0
        for name, width in zip(work.reads, widths, strict=True):
            x, y = self.root[name], Panel(work.write, done)
            steps.append(Step(node, kernel, (x, y, 1, width, 1), (x.value,), (work.write,)))
            done += width
        return steps

    def _write(self, node: str, work: Map, name: str) -> None:
        """A panel for the result: its own, or that of an operand which may be written over."""
        features = self.graph.values[name].features or 0
        home = self.root.get(work.over)
        alike = home is not None and self.features[home.value] == features
        if home is not None and alike and self._last_reads(node, work, home.value):
            self.root[name] = home
        else:
            self._own(name, features)

    def _last_reads(self, node: str, work: Map, panel: str) -> bool:
        """Whether the node reads the panel once, and nobody else does, but for aliases."""
        names = {name for name, place in self.root.items() if place.value == panel}
        readers = [
            x for x in self.graph.nodes if names & set(x.reads) and not names & set(x.writes)
        ]
        once = sum(name in names for name in work.reads) == 1
        return once and [x.name for x in readers] == [node] and not names & self._wanted

    def _linear(self, node: str, work: Linear) -> list[Step]:
        """A step for each slab of outputs and each repetition, then activations in place."""
        source = work.weights
        work = replace(work, weights=np.ascontiguousarray(source))
        kernel = self.choose(node, work)
        outputs, inputs = work.weights.shape
        x = self.root[work.x]
        self._own(work.y, outputs * work.repeats)
        end, after = self._ending(work)
        slabs = [_Slab(work, rows, kernel, end, self.points) for rows in _slabs(work, kernel)]
        release(source)  # they are packed now
        steps = []
        for i in range(work.repeats):
            here = Panel(x.value, x.shift + i * inputs)
            steps += [slab.step(node, here, i * outputs + slab.rows.start) for slab in slabs]
        for m in after:  # in place, while the panel is in L2
            reads = tuple(dict.fromkeys(self.root[n].value for n in m.reads))
            kernel = f"{m.kernel}_x{self.points}"
            steps.append(Step(node, kernel, m.operands, reads, (work.y,), m.detail))
        return steps

    def _ending(self, work: Linear) -> tuple[Ending, list[Map]]:
        """What the kernel does to its sums, and the passes over y that follow it."""
        features = self.features[work.y]
        rest = self.root[work.rest] if work.rest else None
        if rest is not None and not self.epilogues:
            operands = (Panel(work.y), rest, Panel(work.y), features)
            passes = [Map("add_f32", operands, (work.y, work.rest), work.y)]
            return Ending(), passes + _passes(work.activations, work.y, features)
        bounds, after = split_clamp(work.activations)
        function = None
        if self.epilogues and after and after[0][0] in EPILOGUE_NAMES:
            function = after.pop(0)
        return Ending(rest, bounds, function), _passes(after, work.y, features)

    # ---- memory ---------------------------------------------------------------------------

    def lifetimes(
        self,
        steps: Sequence[Step],
        keep: Callable[[str], bool] = lambda name: True,
        times: Sequence[int] | None = None,
    ) -> list[Lifetime]:
        """How long the panels that `keep` wants live, each with room for a slice: in steps, or in
        `times` of each step."""
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for step, time in zip(steps, times or range(len(steps)), strict=True):
            for name in (*step.reads, *step.writes):
                if keep(name):
                    first.setdefault(name, time)
                    last[name] = time
        return [
            Lifetime(
                n, self.features[n] * self.points * 4 + slack_nbytes(self.points), first[n], last[n]
            )
            for n in first
        ]

    def indexed(self, step: Step) -> Step:
        """The step with borders by index."""
        operands = (
            self.borders[o.value].index if isinstance(o, Place | Count) else o
            for o in step.operands
        )
        return replace(step, operands=tuple(operands))


def written(group: Iterable[Lowered]) -> list[str]:
    """Every value that the nodes write, once."""
    return list(dict.fromkeys(n for item in group for n in item.node.writes))


def hollowed(steps: Iterable[Step]) -> list[Step]:
    """The steps without their weights; arrays that several read stay one."""
    seen: dict[int, Array] = {}

    def without(operand: Operand) -> Operand:
        if not isinstance(operand, np.ndarray):
            return operand
        return seen.setdefault(id(operand), hollow(operand))

    return [replace(step, operands=tuple(map(without, step.operands))) for step in steps]


def opening(builder: StepBuilder, group: Sequence[Lowered]) -> list[Step]:
    """Import steps for what comes from outside as panels; the rest of it gets borders alone."""
    inside = set(written(group))
    steps = []
    for item in group:
        panels = _panels(item.work)
        for name in item.node.reads:
            if name in inside or name in builder.graph.initializers or name in builder.root:
                continue
            border = builder.border(builder.graph.values[name])
            if name in panels:
                steps.append(builder.import_step(border))
    return steps


def _panels(work: Work | ImageWork | Refusal) -> tuple[str, ...]:
    """Values that the work takes as panels."""
    if isinstance(work, Map | Linear | Joined):
        return work.reads
    return (work.x,) if isinstance(work, Alias) else ()


def _passes(activations: Sequence[tuple[str, float, float]], y: str, features: int) -> list[Map]:
    """Functions over all of a panel, in place."""
    return [map_unary(name, (a, b), y, y, features) for name, a, b in activations]


class _Slab:
    """Some outputs of a Linear, packed for one step."""

    def __init__(self, work: Linear, rows: range, kernel: str, end: Ending, points: int) -> None:
        self.rows, self._kernel, self._y, self._rest = rows, kernel, work.y, end.rest
        part = slice(rows.start, rows.stop)
        weights = work.weights[part]
        self._words = linear_words(kernel, weights, work.bias[part], end, points)
        self._size, self._nonzeros = weights.size, int(np.count_nonzero(weights))
        parts = (f"{self._nonzeros} of {len(rows)}x{weights.shape[1]}", str(end))
        self._detail = ", ".join(part for part in parts if part)

    def step(self, node: str, x: Panel, first: int) -> Step:
        """Its outputs as features of y from `first` on."""
        y = Panel(self._y, first)
        rest = y
        if self._rest is not None:
            rest = replace(self._rest, shift=self._rest.shift + first)
        reads = tuple(dict.fromkeys((x.value, *([] if rest is y else [rest.value]))))
        operands, work = (x, y, *self._words, rest), (self._size, self._nonzeros)
        return Step(node, self._kernel, operands, reads, (self._y,), self._detail, *work)


def _slabs(work: Linear, kernel: str) -> list[range]:
    """The outputs, cut so that each part's weights stay in L2 while a group of tiles passes."""
    outputs, inputs = work.weights.shape
    structure = structure_of(kernel)
    each = 4 * outputs * inputs if structure == "dense4" else 6 * np.count_nonzero(work.weights)
    whole = each <= WHOLE_NBYTES.get(structure, WHOLE_SPARSE_NBYTES)
    parts = 1 if whole else -(-int(each) // SLAB_NBYTES)
    size = round_up(-(-outputs // parts), SLICE)
    return [range(first, min(first + size, outputs)) for first in range(0, outputs, size)]


def split_clamp(
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
    kernel: str, weights: Array, bias: Array, end: Ending, points: int
) -> tuple[Array | Code | int, ...]:
    """Packed weights, then numbers, bias, bounds and parameters, and the epilogue: words 3 and on
    of a linear kernel, up to the last, which is the panel that is added, or y."""
    packed = PACKINGS[structure_of(kernel)](weights, points)
    padded = np.zeros(round_up(len(bias), SLICE), np.float32)
    padded[: len(bias)] = bias
    name, a, b = end.function or ("", 0.0, 0.0)
    code = Code(epilogue_name(name, points)) if name else 0
    ends = np.array((*end.bounds, a, b), np.float32)
    return (*packed.streams, *packed.numbers, padded, ends, code)
