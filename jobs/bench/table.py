"""The report on a terminal: who is how fast, and where the time goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from jobs.bench.folding import folded, runs, skeleton
from jobs.bench.report import OURS, Figure, Report, micros, rate
from jobs.pages.markup import visible
from numa.notation import cpulist, size

if TYPE_CHECKING:
    from engine.profiling import StepTime

BAR_WIDTH = 12
BARS_FROM = 108
"""Characters a line; narrower terminals get numbers only."""
DENSE_FROM = 96
"""The same for rates as if no weight were zero."""
FIGURE_WIDTHS = {"us/row": 9, "share": 6, "": BAR_WIDTH, "zeros": 5, "GFLOP/s": 7, "as dense": 8}
"""Of the columns with numbers, gaps not included."""
GAP = 3
"""As rich puts it; the table's edges take one together."""
LEAST_NAME = 12
MOST_KERNEL = 20
"""Where lines are short."""
PIPE_WIDTH = 120
"""Where stdout is no terminal, nothing should be cut."""
_WIDTHS = {"": BARS_FROM, "as dense": DENSE_FROM}


def print_report(report: Report, console: Console | None = None) -> None:
    """Everything, on stdout."""
    console = console or Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    steps = _steps(report, console.width)
    for part in (_head(report), _speeds(report), steps, _foot(report)):
        console.print(part)


def _head(report: Report) -> Group:
    m = report.machine
    lines = [
        Text(visible(report.model), style="bold", overflow="fold"),
        Text(
            f"{visible(m.processor)}, cores {cpulist(m.cpus)} of node {m.numa_node}, "
            f"L2 {size(m.l2_nbytes)}; batches of {report.batch}, {visible(report.feeds)}",
            style="dim",
        ),
        Text(""),
    ]
    return Group(*lines)


def _speeds(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("contender", no_wrap=True)
    tokens = ["tokens/s"] if report.tokens else []
    for name in ("cores", "rows/s", *tokens, "lowest .. highest", "ratio", "scaling"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for f in report.figures:
        if before not in (None, f.cores):
            table.add_section()
        before = f.cores
        style = "bold" if f.contender == OURS else ""
        table.add_row(*_speed(f, tokens=bool(tokens)), style=style)
    return table


def _speed(f: Figure, *, tokens: bool) -> tuple[str, ...]:
    ratio = "" if f.contender == OURS else f"{f.ratio:.2f}x"
    scaling = "" if f.cores == 1 else f"{f.scaling:.2f}x"
    spread = f"{rate(f.lowest)} .. {rate(f.highest)}"
    rates = (rate(f.median), *([rate(f.tokens)] if tokens else []))
    return f.contender, str(f.cores), *rates, spread, ratio, scaling


def _steps(report: Report, width: int) -> Table:
    figures = [n for n in FIGURE_WIDTHS if width >= _WIDTHS.get(n, 0)]
    room = width - sum(FIGURE_WIDTHS[n] + GAP for n in figures) - GAP - 2
    widest = max((len(s.kernel) for s in report.profile.steps), default=0)
    kernel = min(widest, max(MOST_KERNEL, room - 2 * LEAST_NAME))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("node", no_wrap=True)
    table.add_column("kernel", overflow="ellipsis", no_wrap=True, max_width=kernel)
    for name in figures:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    steps = report.profile.steps
    before: tuple[int, int] | None = None
    for run in runs([(s.segment, s.kernel, s.multiply_adds, skeleton(s.node)) for s in steps]):
        for index in range(run.period):
            step = folded([steps[i] for i in run.alike(index)])
            group = (step.segment, run.first)
            if before is not None and before != group:
                table.add_section()
            if run.times > 1 and before != group:
                table.add_row(Text(f"{run.times} times, summed", style="cyan"))
            before = group
            style = "yellow" if step.kernel == "reference" else ""
            cells = _step(step, max(room - kernel, LEAST_NAME))
            table.add_row(*(cells[n] for n in ("node", "kernel", *figures)), style=style)
    return table


def _step(step: StepTime, width: int) -> dict[str, str | Text]:
    """By the names of the columns."""
    name = tail(visible(step.node or f"({step.value})"), width)
    cells: dict[str, str | Text] = {
        "node": Text(name, style="" if step.node else "dim"),
        "kernel": step.kernel,
        "us/row": micros(step.seconds),
        "share": f"{step.share:.1%}",
        "": Text("━" * round(step.share * BAR_WIDTH), style="cyan"),
        **dict.fromkeys(("zeros", "GFLOP/s", "as dense"), ""),
    }
    if step.multiply_adds:
        cells["GFLOP/s"] = f"{step.useful_gflops:,.1f}"
        cells["as dense"] = f"{step.dense_gflops:,.1f}"
    if step.has_weights:
        cells["zeros"] = f"{1 - step.nonzeros / step.multiply_adds:.1%}"
    return cells


def tail(text: str, width: int) -> str:
    """The end of a name, whose beginning many have in common."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def _foot(report: Report) -> Group:
    profile = report.profile
    lines = [
        Text("ratio: how many times as fast colonnade is; scaling: over one core", style="dim"),
        Text(
            f"steps on one core, {micros(profile.seconds)} us a row in all; "
            f"a whole batch takes {micros(profile.whole_seconds)}",
            style="dim",
        ),
    ]
    lines += [Text(str(s)) for s in report.segments]
    for found in report.explanation.working_sets:
        lines += [Text(visible(line)) for line in str(found).split("\n")]
    share = sum(s.share for s in profile.steps if s.kernel == "reference")
    if share:
        lines.append(
            Text(f"{share:.1%} of the time is spent in nodes without a kernel", style="yellow")
        )
    lines += [Text(f"note: {visible(note)}", style="yellow") for note in report.notes]
    return Group(*lines)
