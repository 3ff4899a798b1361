"""The network drawn as columns: shafts through all the nodes of a segment, and where they stop.

A segment with kernels is a row of shafts, one course a node (courses.py); the more time it takes,
the more colour it has. A node that runs through the reference takes the whole batch at once: a
slab, where no column can pass. Between two segments stands what ended the first, and what it costs
in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.border import Border
from engine.cutting import COLUMN_TOKENS
from engine.images.segment import Images
from engine.segments import OFFSETS, POSITIONS, Column, Fallback, Segment, Sequences
from engine.working_set import ImageSet, WorkingSet
from jobs.bench.courses import bar, courses
from jobs.bench.report import Report
from jobs.pages.markup import Markup, join, tag
from numa.notation import size


def network(report: Report) -> Markup:
    """All segments from the inputs to the outputs."""
    program = report.explanation.program
    parts = [tag("p", "in: ", ", ".join(map(str, program.inputs)), cls="flow mono")]
    before: Segment | None = None
    for index, segment in enumerate(program.segments):
        if before is not None:
            parts.append(_border(before, segment))
        parts.append(_segment(report, index, segment))
        before = segment
    parts.append(tag("p", "out: ", ", ".join(map(str, program.outputs)), cls="flow mono"))
    return tag("div", parts, cls="order")


def _segment(report: Report, index: int, segment: Segment) -> Markup:
    share = sum(s.share for s in report.profile.steps if s.segment == index)
    cap = tag(
        "div",
        tag("b", f"Segment {index}"),
        tag("span", _head(report, segment)),
        tag("span", f"{share:.1%} of the time", cls="soft"),
        cls="cap",
    )
    return join([cap, courses(report, index, segment), _foot(report, index, segment)])


def _head(report: Report, segment: Segment) -> str:
    if isinstance(segment, Fallback):
        apart = report.shortest != report.longest
        on = "row by row, as lengths differ" if apart else "on the whole batch"
        return f"{_count(len(segment.nodes), 'node')} {on}, through the reference"
    if isinstance(segment, Sequences):
        whole = sum(stretch.whole for stretch in segment.stretches)
        stretches = _count(len(segment.stretches), "stretch", "stretches")
        return (
            f"columns of whole sequences, in tiles of {segment.points} tokens; {stretches}, "
            f"{whole} of them over whole sequences"
        )
    columns = -(-report.rows // segment.points)
    if isinstance(segment, Images):
        groups = _count(columns, "group")
        return f"{groups} of {segment.lanes} images, each through all of it in one go, row by row"
    return f"{_count(columns, 'tile')} of {segment.points} rows, each through all of it in one go"


def _foot(report: Report, index: int, segment: Segment) -> Markup:
    """Of a segment with kernels: its panels against L2, and what streams through."""
    if isinstance(segment, Fallback):
        return tag("div", "arrays of rows, in memory", cls="foot soft small")
    w = next(w for w in report.explanation.working_sets if w.segment == index)
    if isinstance(w, ImageSet):
        return tag("div", tag("div", _visits(w), cls="cache"), cls="foot")
    rows = [_panels(w, segment)]
    if w.group > 1:
        rows.append(_gauge(f"of a group of {w.group} tiles", w.group_nbytes, w, "share weights"))
    if isinstance(segment, Sequences):
        what = f"of {COLUMN_TOKENS} tokens, a column"
        rows.append(_gauge(what, w.column_nbytes, w, "in all stretches"))
    once = "tile" if w.group == 1 else f"group of {w.group} tiles"
    rows.append(_gauge("weights it reads", w.streamed_nbytes, w, f"stream through once a {once}"))
    return tag("div", tag("div", rows, cls="cache"), cls="foot")


def _panels(w: WorkingSet, segment: Column | Sequences | Images) -> list[Markup]:
    word, cls = ("fit in", "fits") if w.fits else ("do not fit in", "over")
    stretches = ""
    if isinstance(segment, Sequences):
        stretches = (
            f": {size(w.local_nbytes)} within a stretch, {size(w.spread_nbytes)} between stretches"
        )
    return [
        tag("div", "activations of a tile", cls="soft"),
        _against_l2(w.arena_nbytes, w.l2_nbytes),
        tag(
            "div",
            f"{size(w.arena_nbytes)} ",
            tag("span", word, cls=cls),
            f" {size(w.l2_nbytes)} of L2, the mark{stretches}",
        ),
    ]


def _visits(w: ImageSet) -> list[list[Markup]]:
    """A gauge for the visits of each size of picture, by what the largest touches."""
    largest: dict[str, int] = {}
    for band in w.bands:
        name = f"{band.height}x{band.width}"
        largest[name] = max(band.nbytes, largest.get(name, 0))
    about = f"at most a visit; {w.fitting:.0%} of all fit in {size(w.l2_nbytes)} of L2, the mark"
    return [
        _gauge(f"{name} pixels", nbytes, w, about if i == 0 else "")
        for i, (name, nbytes) in enumerate(largest.items())
    ]


def _gauge(what: str, nbytes: int, w: WorkingSet | ImageSet, about: str) -> list[Markup]:
    return [
        tag("div", what, cls="soft"),
        _against_l2(nbytes, w.l2_nbytes),
        tag("div", f"{size(nbytes)} {about}"),
    ]


def _against_l2(nbytes: int, l2_nbytes: int) -> Markup:
    """A gauge with L2 marked; the longer of the two fills it nearly."""
    whole = max(nbytes, l2_nbytes) * 1.02
    return bar(nbytes / whole, "fill", height=12, mark=l2_nbytes / whole)


def _border(before: Segment, after: Segment) -> Markup:
    if isinstance(after, Fallback):
        first, reason = after.nodes[0], after.reasons[0]
        read = set(after.reads)
        borders = () if isinstance(before, Fallback) else before.exports
        others = f" and {_count(len(after.nodes) - 1, 'other')}" if after.nodes[1:] else ""
        return tag(
            "div",
            tag("b", "Cache stop. "),
            f"The columns end at {first.name} ({first.label}){others}: {reason}. ",
            tag("span", _through_memory([b for b in borders if b.value in read]), cls="soft"),
            cls="stop wrap",
        )
    borders = tuple(b for b in after.imports if b.value not in (OFFSETS, POSITIONS))
    kind = f"columns of {_KINDS[type(after)]}"
    return tag("p", f"{kind} again: {_nbytes(borders)} from memory", cls="flow wrap")


_KINDS: dict[type[Segment], str] = {Column: "rows", Sequences: "sequences", Images: "images"}


def _through_memory(borders: Sequence[Border]) -> str:
    if not borders:
        return "It reads the model's inputs."
    return f"Through memory go {_nbytes(borders)}."


def _nbytes(borders: Sequence[Border]) -> str:
    """Bytes a row and a token, with the values they are of."""
    found = []
    for tokens, unit in ((False, "row"), (True, "token")):
        here = [b for b in borders if b.tokens == tokens]
        if here:
            nbytes = sum(b.dtype.itemsize * b.features for b in here)
            found.append(f"{size(nbytes)} a {unit} ({', '.join(b.value for b in here)})")
    return " and ".join(found) or "nothing"


def _count(number: int, what: str, more: str = "") -> str:
    return f"{number:,} {what if number == 1 else more or what + 's'}"
