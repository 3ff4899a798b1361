"""The courses of a segment: a row of the drawing for each node, and for what comes in and goes out.

A course over tiles is drawn as shafts. One that needs whole sequences, as attention does, is a beam
that lies across them, cut where one sequence ends and the next begins. A node that runs through the
reference is a slab. Layers that are alike are one block, with the sums of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from engine.explanation import NodeReport
from engine.images.segment import Images
from engine.profiling import StepTime
from engine.segments import Column, Fallback, Segment, Sequences
from jobs.bench.folding import folded, pattern, runs, skeleton
from jobs.bench.report import Report, micros
from jobs.pages.markup import Markup, join, tag

SHAFTS = 6
"""Drawn in a segment, however many columns or tiles the batch has."""
BEAMS = (5, 3, 4)
"""Relative lengths of the sequences that a beam is cut into."""
LEAST_HEAT, MOST_HEAT = 6, 88
"""Percent of colour, for no time and for all of it."""


@dataclass(frozen=True, slots=True)
class Course:
    """A row of the drawing."""

    node: NodeReport | None
    """None where rows become panels or panels rows."""
    steps: tuple[StepTime, ...]
    what: str
    """`shafts`, `beam` or `slab`: how it takes the batch."""
    label: str = ""
    """Of a course without a node."""

    @property
    def share(self) -> float:
        return sum(s.share for s in self.steps)

    @property
    def kind(self) -> Hashable:
        """Equal for courses of layers that are alike."""
        if self.node is None:
            return self.label
        dims = None if (s := self.node.sparsity) is None else (s.outputs, s.inputs)
        return self.node.operator, self.node.kernel, dims, skeleton(self.node.node)


def courses(report: Report, index: int, segment: Segment) -> Markup:
    """All of a segment, layers that are alike once."""
    found = _courses(report, index, segment)
    parts: list[Markup] = []
    for run in runs([course.kind for course in found]):
        if run.times == 1:
            parts += [_drawn(c) for c in found[run.first : run.end]]
            continue
        alike = [[found[i] for i in run.alike(k)] for k in range(run.period)]
        every = [_drawn(c) for c in found[run.first : run.end]]
        parts += [
            tag("div", tag("b", f"{run.times} layers alike"), ": each time is the sum", cls="fold"),
            *(_drawn(_folded(group)) for group in alike),
            tag(
                "details",
                tag("summary", f"each of the {run.times} by itself"),
                tag("div", every, cls="every"),
                cls="each",
            ),
        ]
    return join(parts)


def _courses(report: Report, index: int, segment: Segment) -> list[Course]:
    steps = [s for s in report.profile.steps if s.segment == index]
    if isinstance(segment, Fallback):
        names = {n.name for n in segment.nodes}
        return [
            Course(n, tuple(s for s in steps if s.node == n.node), "slab")
            for n in report.explanation.nodes
            if n.node in names
        ]
    whole = _whole(segment)
    first = [s for s in steps if not s.node and s.kernel.startswith("import")]
    last = [s for s in steps if not s.node and s not in first]
    point = _POINTS[type(segment)]
    inside = set(segment.nodes)
    return [
        *(Course(None, (s,), "shafts", f"{point} in: {s.value}") for s in first),
        *(
            Course(
                n,
                tuple(s for s in steps if s.node == n.node),
                "beam" if n.node in whole else "shafts",
            )
            for n in report.explanation.nodes
            if n.node in inside
        ),
        *(Course(None, (s,), "shafts", f"{point} out: {s.value}") for s in last),
    ]


_POINTS: dict[type[Segment], str] = {Column: "rows", Sequences: "tokens", Images: "images"}


def _whole(segment: Column | Sequences | Images) -> set[str]:
    """Nodes that need whole sequences."""
    if not isinstance(segment, Sequences):
        return set()
    return {step.node for stretch in segment.stretches if stretch.whole for step in stretch.steps}


def _folded(alike: Sequence[Course]) -> Course:
    """One course for all of them."""
    first = alike[0]
    steps = tuple(folded(same) for same in zip(*(c.steps for c in alike), strict=True))
    nodes = [c.node for c in alike if c.node is not None]
    if not nodes:
        return replace(first, steps=steps)
    sparsity = nodes[0].sparsity
    counts = [n.sparsity.nonzeros for n in nodes if n.sparsity is not None]
    if sparsity is not None:
        sparsity = replace(sparsity, nonzeros=round(sum(counts) / len(counts)))
    node = replace(nodes[0], node=pattern([n.node for n in nodes]), sparsity=sparsity)
    return replace(first, node=node, steps=steps)


def _drawn(course: Course) -> Markup:
    drawing = _DRAWINGS[course.what](f"--heat: {_heat(course.share)}%")
    fallback = course.what == "slab"
    node = course.node
    if node is None:
        about = tag("div", _cut(course.label, "soft"), cls="about")
        zeros = tag("div", cls="zeros")
        return tag("div", drawing, about, zeros, *_time(course), cls="step")
    operator = node.operator.removeprefix("colonnade.")
    about = tag(
        "div",
        tag("div", tag("b", tag("bdi", node.node)), cls="cut name", title=node.node),
        _cut(f"{operator} · {_kernel(node)}", "soft small"),
        cls="about",
    )
    reason = [tag("div", node.reason, cls="reason")] if node.reason else []
    return tag("div", drawing, about, _zeros(node), *_time(course, fallback), reason, cls="step")


def _shafts(style: str) -> Markup:
    return tag("div", [tag("i") for _ in range(SHAFTS)], cls="shafts", style=style)


def _beam(style: str) -> Markup:
    cuts = [tag("i", style=f"flex: {part}") for part in BEAMS]
    return tag("div", cuts, cls="beam", style=style, title="whole sequences")


def _slab(style: str) -> Markup:
    return tag("div", cls="slab", style=style)


_DRAWINGS = {"shafts": _shafts, "beam": _beam, "slab": _slab}


def _heat(share: float) -> int:
    """By the square root: a tenth of the time should be seen."""
    return round(LEAST_HEAT + (MOST_HEAT - LEAST_HEAT) * math.sqrt(share))


def _kernel(node: NodeReport) -> str:
    shown = {"view": "view, nothing to do", "reference": "ONNX's reference"}
    return shown.get(node.kernel, node.kernel)


def _cut(text: str, cls: str) -> Markup:
    return tag("div", text, cls=f"cut {cls}", title=text)


def _zeros(node: NodeReport) -> Markup:
    if node.sparsity is None:
        return tag("div", cls="zeros")
    s = node.sparsity
    return tag(
        "div",
        bar(s.density, "fill", height=7),
        tag("div", f"{1 - s.density:.1%} zero", cls="small"),
        tag("div", f"{s.outputs} x {s.inputs}", cls="soft small"),
        cls="zeros",
        title="filled: the weights that are left",
    )


def _time(course: Course, fallback: bool = False) -> Iterator[Markup]:
    """The bar of the share, and the figures."""
    if not course.steps:
        yield tag("div", cls="gauge")
        yield tag("div", "-", cls="num soft")
        return
    seconds = sum(s.seconds for s in course.steps)
    colour = "stop-fill" if fallback else "fill"
    yield tag("div", bar(course.share, colour, height=12), cls="gauge")
    yield tag(
        "div",
        tag("div", f"{course.share:.1%}"),
        tag("div", f"{micros(seconds)} µs", cls="soft small"),
        cls="num time",
    )


def bar(share: float, cls: str, *, height: int, mark: float | None = None) -> Markup:
    """A gauge over 0..1, with a mark at a place of it; never too short to be seen."""
    width = f"{max(0.0, min(1.0, share)) * 100:.2f}%"
    parts = [
        tag("rect", x=0, y=0, width="100%", height=height, rx=2, cls="track"),
        tag("rect", x=0, y=0, width=width, height=height, rx=2, cls=cls),
    ]
    if mark is not None:
        at = f"{mark * 100:.2f}%"
        parts.append(tag("line", x1=at, x2=at, y1=0, y2=height, cls="mark"))
    return tag("svg", parts, height=height, role="img", aria_label=f"{share:.1%}")
