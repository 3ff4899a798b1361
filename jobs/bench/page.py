"""The report as one HTML page that needs nothing else: no script, no font, no picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.profiling import StepTime
from jobs.bench.network import network
from jobs.bench.report import (
    COLUMNS_OFF,
    OURS,
    PADDED,
    RIVAL,
    SPARSE_OFF,
    Figure,
    Report,
    micros,
    rate,
)
from jobs.pages.markup import Child, Markup, tag
from jobs.pages.style import STYLE
from numa.notation import cpulist, size

BAR_HEIGHT = 18
_CLASSES = {OURS: "bar-colonnade", RIVAL: "bar-onnxruntime"}
_MEANINGS = {
    COLUMNS_OFF: "layer after layer over the whole batch",
    PADDED: "colonnade with all rows as long as the longest",
    SPARSE_OFF: "every weight multiplied, zeros as well",
}


def page(report: Report) -> str:
    """The whole page. Names in it come from the model and are escaped by markup.tag."""
    title = f"{Path(report.model).name}: colonnade bench"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    sections = (_header(report), _tiles(report), _race(report), _network(report), _steps(report))
    body = tag("body", tag("main", *sections, _footer(report)))
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en")


def _header(report: Report) -> Markup:
    m = report.machine
    where = (
        f"{m.processor}, cores {cpulist(m.cpus)} of NUMA node {m.numa_node}; "
        f"L2 {size(m.l2_nbytes)} and L3 {size(m.l3_nbytes)} a core"
    )
    how = (
        f"Batches of {report.batch} ({report.feeds}); medians of {report.rounds} rounds, "
        f"in turns of {report.seconds:g} s"
    )
    return tag(
        "header",
        tag("h1", Path(report.model).name),
        tag("p", f"{where} · {_day(report.date)}", cls="soft"),
        tag("p", how, cls="soft wrap"),
    )


def _day(date: str) -> str:
    return date[:16].replace("T", " ")


def _tiles(report: Report) -> Markup:
    tiles = []
    for count in report.core_counts:
        ours, rival = report.figure(OURS, count), report.figure(RIVAL, count)
        assert ours is not None
        what = "rows/s on one core" if count == 1 else f"rows/s on {count} cores"
        tiles.append((rate(ours.median), what))
        if report.tokens:
            tiles.append((rate(ours.tokens), what.replace("rows/s", "tokens/s")))
        if rival is not None:
            tiles.append((times(rival.ratio), f"onnxruntime, {_cores(count)}"))
        if count > 1:
            tiles.append((f"{ours.scaling:.2f}x", f"from one core to {count}"))
    tiles.append((f"{report.zeros:.1%}", "of weights are zero"))
    cards = [tag("div", tag("b", a), tag("span", b), cls="tile") for a, b in tiles]
    return tag("div", cards, cls="tiles many" if len(tiles) > 6 else "tiles")


def _cores(count: int) -> str:
    return "1 core" if count == 1 else f"{count} cores"


def times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def _race(report: Report) -> Markup:
    """Bars on one scale for all numbers of cores."""
    most = max(f.highest for f in report.figures)
    rows: list[Child] = []
    for count in report.core_counts:
        rows.append(tag("h3", _cores(count)))
        rows += [_lane(f, most) for f in report.figures if f.cores == count]
    present = {f.contender for f in report.figures}
    meanings = "; ".join(f"{n}: {text}" for n, text in _MEANINGS.items() if n in present)
    return tag(
        "section",
        tag("h2", "Rows and tokens a second" if report.tokens else "Rows a second"),
        tag("p", f"{meanings}. The thin line spans the rounds.", cls="soft small"),
        tag("div", rows, cls="race"),
        _notes(report),
    )


def _lane(f: Figure, most: float) -> tuple[Markup, ...]:
    left, right, at = (
        f"{rate / most * 100:.2f}%" for rate in (f.lowest, f.highest, f.median)
    )  # fmt: skip
    half = BAR_HEIGHT / 2
    bar = tag(
        "svg",
        tag("rect", x=0, y=0, width=at, height=BAR_HEIGHT, rx=2,
            cls=_CLASSES.get(f.contender, "bar-off")),
        tag("line", x1=left, x2=right, y1=half, y2=half, cls="spread"),
        height=BAR_HEIGHT,
        role="img",
        aria_label=f"{f.contender}, {_cores(f.cores)}: {rate(f.median)} rows a second",
    )  # fmt: skip
    ours = f.contender == OURS
    verdict = f"colonnade {times(f.ratio)} as fast"
    if ours:
        verdict = "" if f.cores == 1 else f"{f.scaling:.2f}x one core"
    return (
        tag("div", f.contender, cls="ours" if ours else None),
        bar,
        tag("div", *_rates(f), cls="num ours" if ours else "num"),
        tag("div", verdict, cls="small soft verdict"),
    )


def _rates(f: Figure) -> Iterator[Child]:
    yield rate(f.median)
    if f.tokens:
        yield tag("div", f"{rate(f.tokens)} tok/s", cls="tokens")


def _notes(report: Report) -> Child:
    if not report.notes:
        return ""
    return tag("ul", [tag("li", note, cls="small wrap") for note in report.notes])


_ROWS_GO = (
    "Rows go down. A shaft is a column of rows that one core carries through the nodes while "
    "its activations stay in L2; the more colour a course has, the more time it takes. "
    "A hatched slab is a node without a kernel."
)
_SEQUENCES_GO = (
    "Sequences go down. A shaft is a tile of their tokens that one core carries from attention to "
    "attention while its activations stay in L2; a beam across the shafts is a stretch that needs "
    "whole sequences, cut where one ends. The more colour a course has, the more time it takes. "
    "A hatched slab is a node without a kernel."
)


def _network(report: Report) -> Markup:
    text = _SEQUENCES_GO if report.tokens else _ROWS_GO
    return tag(
        "section",
        tag("h2", "The network as columns"),
        tag("p", text, cls="soft small"),
        network(report),
    )


def _steps(report: Report) -> Markup:
    p = report.profile
    text = (
        f"One core, columns one by one: {micros(p.seconds)} µs a row over all steps; the same "
        f"batch as a whole takes {micros(p.whole_seconds)} µs a row. GFLOP/s count weights that "
        "are not zero; as dense, all of them."
    )
    names = ("µs a row", "share", "multiply-adds", "not zero", "GFLOP/s", "as dense")
    head = [tag("th", "node"), tag("th", "kernel"), [tag("th", n, cls="num") for n in names]]
    body = [_step(s) for s in p.steps]
    return tag(
        "section",
        tag("h2", "Every step"),
        tag("p", text, cls="soft small"),
        tag("div", tag("table", tag("tr", head), body), cls="scroll tall"),
    )


def _step(s: StepTime) -> Markup:
    name = s.node or f"({s.value})"
    figures = [micros(s.seconds), f"{s.share:.1%}"]
    if s.multiply_adds:
        figures += [f"{s.multiply_adds:,}", f"{s.nonzeros:,}"]
        figures += [f"{s.useful_gflops:,.1f}", f"{s.dense_gflops:,.1f}"]
    else:
        figures += [""] * 4
    return tag(
        "tr",
        tag("td", tag("bdi", name), cls="name cut" if s.node else "name cut soft", title=name),
        tag("td", s.kernel, cls="mono"),
        [tag("td", f, cls="num") for f in figures],
        cls="fallback" if s.kernel == "reference" else None,
    )


def _footer(report: Report) -> Markup:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return tag(
        "footer",
        tag("p", versions, cls="soft small"),
        tag("p", f"{report.model} · program {report.explanation.program.fingerprint:.12}",
            cls="soft small wrap"),
        tag("p", report.date, cls="soft small"),
    )  # fmt: skip
