"""The page beside the manifest: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.pages.markup import Child, Markup, tag
from jobs.pages.style import STYLE
from jobs.report.charts import colour, split, stacked
from jobs.report.history import History
from jobs.tally import Share, Summary, Tally, clock
from numa.notation import cpulist, size

if TYPE_CHECKING:
    from pipeline.plan import Plan

MOST_SCORERS = 32
"""Curves that can be told apart; above, neighbours are drawn as one."""

_OWN_STYLE = """
.c0 { fill: #2f5d8c; } .c1 { fill: #8a6d1f; } .c2 { fill: #6b4c8f; } .c3 { fill: #2b7f86; }
.c4 { fill: #9c4f6c; } .c5 { fill: #5b6675; } .axis { stroke: var(--line); }
svg text { font-size: 12px; fill: var(--soft); } .run { fill: var(--good); }
.wait { fill: var(--stop); } td svg { min-width: 140px; } .key i { display: inline-block;
  width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 14px; }
.key .run { background: var(--good); } .key .wait { background: var(--stop); }
.key .idle { background: var(--stone); border: 1px solid var(--stone-edge); }
td i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; }
td svg.dot { display: inline-block; width: 10px; min-width: 10px; }
"""


def page(history: History, tally: Tally, plan: Plan, summary: Summary) -> str:
    """The whole page. Names in it come from datasets and machines and are escaped by tag()."""
    title = f"{Path(summary.output).name}: colonnade run"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE + _OWN_STYLE)),
    )
    sections = (
        _header(history, plan, summary),
        _tiles(tally, summary),
        _throughput(history),
        _scorers(history, tally),
        _troubles(history),
        _slowest(history, plan),
    )
    body = tag("body", tag("main", *sections, _footer(plan)))
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en")


def _header(history: History, plan: Plan, summary: Summary) -> Markup:
    ending = summary.message or ("done" if summary.exit_code == 0 else "ended")
    began = f"{history.began:%Y-%m-%d %H:%M:%S} UTC"
    return tag(
        "header",
        tag("h1", summary.output),
        tag("p", f"{plan.model} · began {began}", cls="soft wrap"),
        tag("p", f"exit code {summary.exit_code}: {ending}", cls="soft wrap"),
    )


def _tiles(tally: Tally, summary: Summary) -> Markup:
    retries = sum(share.retries for share in tally.shares.values())
    new_rows = summary.rows_in - tally.earlier_rows
    tiles = [
        (f"{new_rows:,}", "rows scored by this run"),
        (f"{summary.rows_per_second:,.0f}", "rows a second, start and end included"),
        (clock(summary.seconds), "from the command's start"),
        (size(summary.nbytes), "written"),
        (f"{retries:,}", "shards lent again"),
        (f"{summary.rejects:,}", "rows rejected"),
    ]
    if tally.earlier_rows:
        tiles.insert(1, (f"{tally.earlier_rows:,}", "rows by earlier runs"))
    if tally.set_aside:
        tiles.append((f"{tally.set_aside:,}", "shards set aside"))
    return tag(
        "div",
        [tag("div", tag("b", figure), tag("span", what), cls="tile") for figure, what in tiles],
        cls="tiles",
    )


def _throughput(history: History) -> Child:
    """Rows a second of every scorer, bin by bin, up to the end."""
    bins = history.bins
    used = max(1, min(round(history.ended / bins.seconds + 0.5), len(next(iter(
        bins.rows.values()), [0]))))  # fmt: skip
    curves = _merged({n: [r / bins.seconds for r in rows[:used]] for n, rows in bins.rows.items()})
    if not curves:
        return ""
    text = (
        f"Scorers on top of each other; a point is the mean of {bins.seconds:g} s. Rows that "
        "were lost with a scorer and scored again count twice."
    )
    return tag(
        "section",
        tag("h2", "Rows a second"),
        tag("p", text, cls="soft small"),
        stacked(curves, used * bins.seconds),
    )


def _merged(curves: Mapping[int, list[float]]) -> dict[int, list[float]]:
    """At most MOST_SCORERS curves: neighbours are added up where there are more."""
    together = -(-len(curves) // MOST_SCORERS)
    merged: dict[int, list[float]] = {}
    for place, (_, curve) in enumerate(sorted(curves.items())):
        group = place // together
        known = merged.get(group, [0.0] * len(curve))
        merged[group] = [a + b for a, b in zip(known, curve, strict=True)]
    return merged


def _scorers(history: History, tally: Tally) -> Markup:
    text = (
        "A scorer's engine runs, waits (for rows to be read, or for room before the writer), or "
        "has no shard. Reading and writing go on beside it, on threads of their own."
    )
    names = ("rows", "rows/s", "shards", "run", "wait", "read", "write", "lent again", "deaths")
    head = [
        tag("th", "scorer"), tag("th", "where"), tag("th", "engine"),
        [tag("th", n, cls="num") for n in names],
    ]  # fmt: skip
    numbers = sorted({*tally.reports, *tally.shares})
    body = [_scorer(n, history, tally.shares[n], tally.reports.get(n, {})) for n in numbers]
    return tag(
        "section",
        tag("h2", "Where time went"),
        tag("p", text, _key(), cls="soft small"),
        tag("div", tag("table", tag("tr", head), body), cls="scroll tall"),
    )


def _key() -> Markup:
    names = ("run", "wait", "idle")
    return tag("span", [[tag("i", cls=name), name] for name in names], cls="key")


def _scorer(number: int, history: History, share: Share, report: Mapping[str, Any]) -> Markup:
    lifetime = max(history.ended - history.ready.get(number, 0.0), 1e-9)
    spent = share.seconds
    bar = split([("run", min(spent.run / lifetime, 1.0)), ("wait", spent.wait / lifetime)])
    figures = [
        f"{share.rows:,}", f"{share.rows / lifetime:,.0f}", f"{share.shards:,}",
        *(f"{seconds:,.2f} s" for seconds in (spent.run, spent.wait, spent.read, spent.write)),
        f"{share.retries:,}", f"{share.deaths:,}",
    ]  # fmt: skip
    dot = tag("svg", tag("rect", x=0, y=0, width=10, height=10, cls=colour(number)),
              cls="dot", height=10)  # fmt: skip
    return tag(
        "tr",
        tag("td", dot, f" {number}"),
        tag("td", where(report)),
        tag("td", bar),
        [tag("td", figure, cls="num") for figure in figures],
    )


def where(report: Mapping[str, Any]) -> str:
    """Machine, NUMA node and processors, of what a scorer said when it was ready."""
    return ", ".join(_where(report)) or "never ready"


def _where(report: Mapping[str, Any]) -> Iterator[str]:
    if "host" in report:
        yield str(report["host"])
    if "node" in report:
        yield f"NUMA node {report['node']}"
    if "cpus" in report:
        yield f"CPUs {cpulist(report['cpus'])}"


def _troubles(history: History) -> Child:
    if not history.troubles:
        return ""
    left_out = history.troubles_in_all - len(history.troubles)
    lines = [tag("li", f"{t.at:,.1f} s: {t.text}", cls="small wrap") for t in history.troubles]
    if left_out:
        lines.append(tag("li", f"and {left_out:,} more", cls="small"))
    return tag("section", tag("h2", "Troubles"), tag("ul", lines))


def _slowest(history: History, plan: Plan) -> Child:
    if not history.slowest:
        return ""
    shards = {slow.shard: plan.shards[slow.shard] for slow in history.slowest}
    head = [tag("th", "shard"), [tag("th", n, cls="num") for n in ("seconds", "rows", "scorer")]]
    body = [
        tag(
            "tr",
            tag("td", str(shards[slow.shard]), cls="wrap"),
            tag("td", f"{slow.seconds:,.2f}", cls="num"),
            tag("td", f"{slow.rows:,}", cls="num"),
            tag("td", f"{slow.scorer}", cls="num"),
        )
        for slow in history.slowest
    ]
    return tag(
        "section",
        tag("h2", "Slowest shards"),
        tag("p", "By the time on the engine's thread, waiting included.", cls="soft small"),
        tag("div", tag("table", tag("tr", head), body), cls="scroll"),
    )


def _footer(plan: Plan) -> Markup:
    said = f"{len(plan.shards):,} shards, {plan.dataset.rows:,} rows in the dataset"
    return tag("footer", tag("p", said, cls="soft small"))
