"""The report on a terminal: who is how fast, and where the time goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from jobs.bench.markup import visible
from jobs.bench.report import OURS, Figure, Report
from numa.notation import cpulist, size

if TYPE_CHECKING:
    from engine.profiling import StepTime

BAR_WIDTH = 12
FIGURES_WIDTH = 54
"""Of the columns with numbers, gaps included."""
LEAST_NAME = 8
BARS_FROM = 96
"""Characters a line; a narrower terminal gets numbers only."""
PIPE_WIDTH = 120
"""Where stdout is no terminal, nothing should be cut."""


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
            f"L2 {size(m.l2_nbytes)}; batches of {report.rows:,} rows, {visible(report.feeds)}",
            style="dim",
        ),
        Text(""),
    ]
    return Group(*lines)


def _speeds(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("contender", no_wrap=True)
    for name in ("cores", "rows/s", "lowest .. highest", "colonnade is", "scaling"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for f in report.figures:
        if before not in (None, f.cores):
            table.add_section()
        before = f.cores
        table.add_row(*_speed(f), style="bold" if f.contender == OURS else "")
    return table


def _speed(f: Figure) -> tuple[str, ...]:
    ratio = "" if f.contender == OURS else f"{f.ratio:.2f}x"
    scaling = "" if f.cores == 1 else f"{f.scaling:.2f}x"
    spread = f"{f.lowest:,.0f} .. {f.highest:,.0f}"
    return f.contender, str(f.cores), f"{f.median:,.0f}", spread, ratio, scaling


def _steps(report: Report, width: int) -> Table:
    bars = width >= BARS_FROM
    kernel = max(len(s.kernel) for s in report.profile.steps) if report.profile.steps else 0
    left = width - kernel - FIGURES_WIDTH - (BAR_WIDTH + 2 if bars else 0)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("node", overflow="ellipsis", no_wrap=True, max_width=max(left, LEAST_NAME))
    table.add_column("kernel", no_wrap=True)
    for name in ("us/row", "share", *([""] if bars else []), "zeros", "GFLOP/s", "as dense"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    segment = 0
    for step in report.profile.steps:
        if step.segment != segment:
            table.add_section()
        segment = step.segment
        style = "yellow" if step.kernel == "reference" else ""
        table.add_row(*_step(step, bars=bars), style=style)
    return table


def _step(step: StepTime, *, bars: bool) -> tuple[str | Text, ...]:
    name = Text(visible(step.node or f"({step.value})"), style="" if step.node else "dim")
    rates: tuple[str, ...] = ("", "", "")
    if step.multiply_adds:
        zeros = 1 - step.nonzeros / step.multiply_adds
        rates = (f"{zeros:.1%}", f"{step.useful_gflops:,.1f}", f"{step.dense_gflops:,.1f}")
    bar = (Text("━" * round(step.share * BAR_WIDTH), style="cyan"),) if bars else ()
    return name, step.kernel, f"{step.seconds * 1e6:,.3f}", f"{step.share:.1%}", *bar, *rates


def _foot(report: Report) -> Group:
    profile = report.profile
    lines = [
        Text(
            f"steps on one core, {profile.seconds * 1e6:,.3f} us a row in all; "
            f"a whole batch takes {profile.whole_seconds * 1e6:,.3f}",
            style="dim",
        )
    ]
    lines += [Text(visible(str(w))) for w in report.explanation.working_sets]
    share = sum(s.share for s in profile.steps if s.kernel == "reference")
    if share:
        lines.append(
            Text(f"{share:.1%} of the time is spent in nodes without a kernel", style="yellow")
        )
    lines += [Text(f"note: {visible(note)}", style="yellow") for note in report.notes]
    return Group(*lines)
