"""The network drawn as columns: shafts through all the nodes of a segment, and where they stop.

A segment with kernels is a row of shafts, one course a node; the more time it takes, the more
colour it has. A node that runs through the reference takes the whole batch at once: a slab, where
no column can pass. Between two segments stands what ended the first, and what it costs in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from engine.explanation import NodeReport
from engine.kernels.table import POINTS
from engine.profiling import StepTime
from engine.program import Column, Fallback
from jobs.bench.markup import Markup, join, tag
from jobs.bench.report import Report
from numa.notation import size

SHAFTS = 6
"""Drawn in a segment, however many columns the batch has."""
LEAST_HEAT, MOST_HEAT = 6, 88
"""Percent of colour, for no time and for all of it."""


def network(report: Report) -> Markup:
    """All segments from the inputs to the outputs."""
    program = report.explanation.program
    parts = [tag("p", "in: ", ", ".join(map(str, program.inputs)), cls="flow mono")]
    before: Column | Fallback | None = None
    for index, segment in enumerate(program.segments):
        if before is not None:
            parts.append(_border(before, segment))
        parts.append(_segment(report, index, segment))
        before = segment
    parts.append(tag("p", "out: ", ", ".join(map(str, program.outputs)), cls="flow mono"))
    return tag("div", parts, cls="order")


def _segment(report: Report, index: int, segment: Column | Fallback) -> Markup:
    steps = [s for s in report.profile.steps if s.segment == index]
    share = sum(s.share for s in steps)
    if isinstance(segment, Fallback):
        head = f"{_count(len(segment.nodes), 'node')} on the whole batch, through the reference"
    else:
        columns = -(-report.rows // POINTS)
        head = f"{_count(columns, 'column')} of {POINTS} rows, each through all of it in one go"
    cap = tag(
        "div",
        tag("b", f"Segment {index}"),
        tag("span", head),
        tag("span", f"{share:.1%} of the time", cls="soft"),
        cls="cap",
    )
    return join([cap, _courses(report, segment, steps), _foot(report, index, segment)])


def _courses(report: Report, segment: Column | Fallback, steps: Sequence[StepTime]) -> Markup:
    """A row for each node, and for each place where rows become panels or panels rows."""
    if isinstance(segment, Fallback):
        named = {n.name for n in segment.nodes}
        found = [n for n in report.explanation.nodes if n.node in named]
        return join(_course(n, [s for s in steps if s.node == n.node]) for n in found)
    nodes = [n for n in report.explanation.nodes if n.node in segment.nodes]
    first = [s for s in steps if not s.node and s.kernel.startswith("import")]
    last = [s for s in steps if not s.node and s not in first]
    return join(
        [
            *(_transpose(s, "rows in") for s in first),
            *(_course(n, [s for s in steps if s.node == n.node]) for n in nodes),
            *(_transpose(s, "rows out") for s in last),
        ]
    )


def _transpose(step: StepTime, what: str) -> Markup:
    about = tag("div", _cut(f"{what}: {step.value}", "soft"), cls="about")
    return tag(
        "div", _shafts(step.share), about, tag("div", cls="zeros"), *_time([step]), cls="step"
    )


def _course(node: NodeReport, steps: Sequence[StepTime]) -> Markup:
    share = sum(s.share for s in steps)
    fallback = node.kernel == "reference"
    heat = f"--heat: {_heat(share)}%"
    shaft = tag("div", cls="slab", style=heat) if fallback else _shafts(share)
    operator = node.operator.removeprefix("colonnade.")
    about = tag(
        "div",
        tag("div", tag("b", node.node), cls="cut", title=node.node),
        _cut(f"{operator} · {_kernel(node)}", "soft small"),
        cls="about",
    )
    reason = [tag("div", node.reason, cls="reason")] if node.reason else []
    return tag("div", shaft, about, _zeros(node), *_time(steps, fallback), reason, cls="step")


def _kernel(node: NodeReport) -> str:
    shown = {"view": "view, nothing to do", "reference": "ONNX's reference"}
    return shown.get(node.kernel, node.kernel)


def _cut(text: str, cls: str) -> Markup:
    return tag("div", text, cls=f"cut {cls}", title=text)


def _shafts(share: float) -> Markup:
    style = f"--heat: {_heat(share)}%"
    return tag("div", [tag("i") for _ in range(SHAFTS)], cls="shafts", style=style)


def _heat(share: float) -> int:
    """By the square root: a tenth of the time should be seen."""
    return round(LEAST_HEAT + (MOST_HEAT - LEAST_HEAT) * math.sqrt(share))


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


def _time(steps: Sequence[StepTime], fallback: bool = False) -> Iterator[Markup]:
    """The bar of the share, and the figures."""
    if not steps:
        yield tag("div", cls="gauge")
        yield tag("div", "-", cls="num soft")
        return
    share, seconds = sum(s.share for s in steps), sum(s.seconds for s in steps)
    yield tag("div", bar(share, "stop-fill" if fallback else "fill", height=12), cls="gauge")
    yield tag(
        "div",
        tag("div", f"{share:.1%}"),
        tag("div", f"{seconds * 1e6:,.3f} µs", cls="soft small"),
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


def _foot(report: Report, index: int, segment: Column | Fallback) -> Markup:
    """Of a column segment: the arena against L2, and what streams through."""
    if isinstance(segment, Fallback):
        return tag("div", "arrays of rows, in memory", cls="foot soft small")
    w = next(w for w in report.explanation.working_sets if w.segment == index)
    fits = ("fits", "fit in") if w.fits else ("over", "do not fit in")
    lines = [
        "activations of a column",
        _against_l2(w.arena_nbytes, w.l2_nbytes),
        tag(
            "div",
            f"{size(w.arena_nbytes)} ",
            tag("span", fits[1], cls=fits[0]),
            f" {size(w.l2_nbytes)} of L2, the mark",
        ),
        "weights it reads",
        _against_l2(w.streamed_nbytes, w.l2_nbytes),
        tag("div", f"{size(w.streamed_nbytes)} stream through once a column"),
    ]
    cells = [x if isinstance(x, Markup) else tag("div", x, cls="soft") for x in lines]
    return tag("div", tag("div", cells, cls="cache"), cls="foot")


def _against_l2(nbytes: int, l2_nbytes: int) -> Markup:
    """A gauge with L2 marked; the longer of the two fills it nearly."""
    whole = max(nbytes, l2_nbytes) * 1.02
    return bar(nbytes / whole, "fill", height=12, mark=l2_nbytes / whole)


def _border(before: Column | Fallback, after: Column | Fallback) -> Markup:
    if isinstance(after, Fallback):
        first, reason = after.nodes[0], after.reasons[0]
        names = before.exports if isinstance(before, Column) else ()
        nbytes = sum(4 * b.features for b in names)
        others = f" and {_count(len(after.nodes) - 1, 'other')}" if after.nodes[1:] else ""
        return tag(
            "div",
            tag("b", "Cache stop. "),
            f"The columns end at {first.name} ({first.label}){others}: {reason}. ",
            tag("span", _through_memory(nbytes, [b.value for b in names]), cls="soft"),
            cls="stop wrap",
        )
    nbytes = sum(b.dtype.itemsize * b.features for b in after.imports)
    values = ", ".join(b.value for b in after.imports)
    return tag("p", f"columns again: {size(nbytes)} a row from memory ({values})", cls="flow wrap")


def _through_memory(nbytes: int, values: Sequence[str]) -> str:
    if not values:
        return "It reads the model's inputs."
    return f"{size(nbytes)} a row goes through memory ({', '.join(values)})."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
