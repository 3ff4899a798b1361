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
thread ever waits for another inside a batch. Weights stream through once per tile of rows, from L3,
or once per group of tiles where they are many (engine/cutting.py). Where sequences are the rows, a
column is some of them, whole (engine/sequences.py).

A segment ends where a node has no kernel. Such a node runs on the whole batch through the
reference, and the values it reads and writes lie in memory as arrays of rows. To switch as seldom
as possible, nodes are taken greedily: all native ones that are ready, then all others that are
ready, and so on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from engine import arena
from engine.graph import Graph, Node
from engine.images.building import images
from engine.images.lanes import ImageGroup
from engine.images.segment import Images
from engine.ops.image_work import IMAGE_WORKS, ImageWork
from engine.ops.native import lower
from engine.ops.native_images import image_values, lower_image
from engine.ops.work import Alias, Map, Refusal, Work
from engine.segments import Column, Fallback, Segment
from engine.sequences import sequences
from engine.steps import Chooser, Frame, Lowered, StepBuilder, opening, written


def lower_all(graph: Graph) -> tuple[Lowered, ...]:
    """Every node's work: over images, or else over rows or tokens. What is not float32 may be
    imported, but not leave a segment again."""
    others = {node.name: lower(node, graph) for node in graph.nodes}
    refused = [name for name, work in others.items() if isinstance(work, Refusal)]
    planes = image_values(graph, refused)
    works = {
        node.name: _either(lower_image(node, graph, planes), others[node.name])
        for node in graph.nodes
    }
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            reason = _stranded(node, graph, works)
            if reason and not isinstance(works[node.name], Refusal):
                works[node.name] = Refusal(reason)
                changed = True
    return tuple(Lowered(node, works[node.name]) for node in graph.nodes)


def _either(image: ImageWork | Refusal | None, other: Work | Refusal) -> Work | ImageWork | Refusal:
    if image is None or (isinstance(image, Refusal) and not isinstance(other, Refusal)):
        return other
    return image


def _stranded(
    node: Node, graph: Graph, works: Mapping[str, Work | ImageWork | Refusal]
) -> str | None:
    """Why a native node's output could not be used: its type cannot be exported."""
    found = (_not_exported(name, graph, works) for name in node.writes)
    return next((reason for reason in found if reason), None)


def _not_exported(
    name: str, graph: Graph, works: Mapping[str, Work | ImageWork | Refusal]
) -> str | None:
    value = graph.values.get(name)
    if value is None or value.dtype == np.float32 or _is_places(name, graph, works):
        return None
    outside = [n.label for n in graph.consumers(name) if isinstance(works[n.name], Refusal)]
    if outside or graph.is_output(name):
        reader = f"read by {outside[0]}" if outside else "an output"
        return f"{value} is {reader}, and only float32 leaves a segment"
    return None


def _is_places(name: str, graph: Graph, works: Mapping[str, Work | ImageWork | Refusal]) -> bool:
    """Whether the value is places of extremes, perhaps in another shape: those are exported."""
    maker = graph.producer(name)
    work = works[maker.name] if maker is not None else None
    if isinstance(work, Alias) and graph.values[name].dtype == np.int64:
        return _is_places(work.x, graph, works)
    return isinstance(work, Map) and work.places == name


def segments(
    graph: Graph,
    lowered: Sequence[Lowered],
    choose: Chooser,
    points: int,
    lanes: int,
    depth_first: bool = True,
    hollow: bool = False,
    epilogues: bool = True,
) -> list[Segment]:
    """The nodes in groups of one kind, each made into a segment.

    Images are ordered here, `depth_first` or layer by layer; of other columns the session does it.
    Without `epilogues` linear kernels have nothing but bounds.
    """
    made: list[Segment] = []
    for kind, group, wanted in _framed(graph, lowered):
        frame = Frame(graph, wanted, choose, points, lanes, depth_first, hollow, epilogues)
        made.append(_SEGMENTS[kind](group, frame))
    return made


def image_groups(graph: Graph, lowered: Sequence[Lowered]) -> list[ImageGroup]:
    """What becomes segments over images, before it is known how many go side by side."""
    return [
        ImageGroup(tuple(_image_works(group)), frozenset(wanted))
        for kind, group, wanted in _framed(graph, lowered)
        if kind == "images"
    ]


def _framed(
    graph: Graph, lowered: Sequence[Lowered]
) -> Iterator[tuple[str, list[Lowered], set[str]]]:
    """Each group with its kind and the values that are read behind it."""
    groups = _groups(graph, lowered)
    for index, group in enumerate(groups):
        later = {n for g in groups[index + 1 :] for item in g for n in item.node.reads}
        yield _kind(group[0], graph), group, later | {v.name for v in graph.outputs}


def _kind(item: Lowered, graph: Graph) -> str:
    """What its points are: rows of the batch, tokens, images, or nothing that kernels know."""
    if isinstance(item.work, Refusal):
        return "fallback"
    if isinstance(item.work, IMAGE_WORKS):
        return "images"
    values = (graph.values.get(n) for n in (*item.node.reads, *item.node.writes))
    return "tokens" if any(v is not None and v.has_tokens for v in values) else "rows"


def _groups(graph: Graph, lowered: Sequence[Lowered]) -> list[list[Lowered]]:
    """Runs of nodes of one kind, each as long as what it reads allows."""
    ready = {v.name for v in graph.inputs} | set(graph.initializers)
    waiting, groups = list(lowered), list[list[Lowered]]()
    for kind in itertools.cycle(_SEGMENTS):
        if not waiting:
            return groups
        taken, left = [], []
        for item in waiting:
            if _kind(item, graph) == kind and ready.issuperset(item.node.reads):
                taken.append(item)
                ready.update(item.node.writes)
            else:
                left.append(item)
        if taken:
            groups.append(taken)
        waiting = left
    raise AssertionError("cycle never ends")


def _column(group: Sequence[Lowered], frame: Frame) -> Column:
    graph, points = frame.graph, frame.points
    builder = StepBuilder(frame)
    steps = opening(builder, group)
    for item in group:
        assert isinstance(item.work, Work)
        steps += builder.steps(item.node.name, item.work)
    imports = tuple(builder.borders.values())
    exports = [builder.border(graph.values[n]) for n in written(group) if n in frame.wanted]
    steps += [builder.export_step(b) for b in exports]
    return Column(
        nodes=tuple(item.node.name for item in group),
        steps=tuple(steps),
        imports=imports,
        exports=tuple(exports),
        arena=arena.plan(builder.lifetimes(steps)),
        points=points,
    )


def _images(group: Sequence[Lowered], frame: Frame) -> Images:
    works, lanes = _image_works(group), frame.lanes
    return images(frame.graph, works, frame.wanted, frame.choose, lanes, frame.depth_first)


def _image_works(group: Sequence[Lowered]) -> list[tuple[str, ImageWork]]:
    return [(item.node.name, item.work) for item in group if isinstance(item.work, IMAGE_WORKS)]


def _fallback(group: Sequence[Lowered], frame: Frame) -> Fallback:
    inside = dict.fromkeys(n for item in group for n in item.node.writes)
    reads = dict.fromkeys(n for item in group for n in item.node.reads if n not in inside)
    reasons = tuple(item.work.reason for item in group if isinstance(item.work, Refusal))
    return Fallback(
        nodes=tuple(item.node for item in group),
        reasons=reasons,
        reads=tuple(n for n in reads if n not in frame.graph.initializers),
        writes=tuple(n for n in inside if n in frame.wanted),
    )


_SEGMENTS: dict[str, Callable[[Sequence[Lowered], Frame], Segment]] = {
    "rows": _column,
    "tokens": sequences,
    "images": _images,
    "fallback": _fallback,
}
"""By what a node's points are, in the order in which groups are tried."""
