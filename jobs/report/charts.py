"""The curves and bars of the page, as SVG that scales with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from jobs.pages.markup import Markup, tag

WIDTH, HEIGHT = 1000, 220
LEFT, BOTTOM = 64, 22
"""Room for the axes' figures, in units of the drawing."""

COLOURS = 6
"""Classes c0 .. c5 of the style; scorers share them in turn."""


def stacked(curves: Mapping[int, Sequence[float]], seconds: float) -> Markup:
    """Areas on top of each other, a curve a scorer, over `seconds` from left to right.

    Each curve holds as many values as the others, the last at the right edge.
    """
    points = max(len(curve) for curve in curves.values())
    most = max((sum(column) for column in zip(*curves.values(), strict=True)), default=0.0) or 1.0
    x = [LEFT + (WIDTH - LEFT) * i / max(points - 1, 1) for i in range(points)]
    below = [0.0] * points
    areas = []
    for scorer, curve in sorted(curves.items()):
        above = [a + b for a, b in zip(below, curve, strict=True)]
        outline = _outline(x, above, most) + _outline(x, below, most)[::-1]
        said = tag("title", f"scorer {scorer}")
        areas.append(tag("path", said, d=f"M{'L'.join(outline)}Z", cls=colour(scorer)))
        below = above
    return tag(
        "svg",
        _grid(most),
        areas,
        _times(seconds),
        viewBox=f"0 0 {WIDTH} {HEIGHT + BOTTOM}",
        role="img",
        aria_label=f"rows a second over {seconds:.1f} seconds, at most {most:,.0f}",
    )


def split(parts: Sequence[tuple[str, float]]) -> Markup:
    """One bar cut in shares of 1: class and share of each piece, from left to right."""
    starts = [0.0, *accumulate(share for _, share in parts)]
    return tag(
        "svg",
        tag("rect", x=0, y=0, width="100%", height=14, cls="track"),
        [
            tag("rect", x=f"{start:.2%}", y=0, width=f"{share:.2%}", height=14, cls=name)
            for start, (name, share) in zip(starts, parts, strict=False)
            if share > 0
        ],
        height=14,
    )


def colour(scorer: int) -> str:
    """The class that gives a scorer its colour."""
    return f"c{scorer % COLOURS}"


def _outline(x: Sequence[float], values: Sequence[float], most: float) -> list[str]:
    top = HEIGHT * 0.94
    return [f"{a:.1f},{HEIGHT - top * v / most:.1f}" for a, v in zip(x, values, strict=True)]


def _grid(most: float) -> list[Markup]:
    """Lines and figures at nothing, half and the most."""
    drawn = []
    for share in (0.0, 0.5, 1.0):
        y = HEIGHT - HEIGHT * 0.94 * share
        drawn.append(tag("line", x1=LEFT, x2=WIDTH, y1=y, y2=y, cls="axis"))
        figure = f"{most * share:,.0f}"
        drawn.append(tag("text", figure, x=LEFT - 6, y=y + 4, text_anchor="end"))
    return drawn


def _times(seconds: float) -> list[Markup]:
    """Figures below the curves: the start, the middle and the end."""
    drawn = []
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = LEFT + (WIDTH - LEFT) * share
        text = f"{seconds * share:,.1f} s"
        drawn.append(tag("text", text, x=x, y=HEIGHT + 16, text_anchor=anchor))
    return drawn
