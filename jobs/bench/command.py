"""A bench from start to end: measured, printed, written."""

from __future__ import annotations

import json
import sys

from jobs.bench.measure import Say, measure
from jobs.bench.report import Report
from jobs.bench.spec import BenchSpec
from jobs.errors import DONE


def bench(spec: BenchSpec) -> int:
    """Prints the report, or its JSON; writes the page if one was asked for. The exit code."""
    report = _watched(spec)
    if spec.json:
        print(json.dumps(report.to_json()))
    else:
        from jobs.bench.table import print_report  # rich: only where it is seen

        print_report(report)
    if spec.html is not None:
        from jobs.bench.page import page

        spec.html.write_text(page(report), encoding="utf-8", errors="replace")
        if not spec.json:
            print(f"page written to {spec.html}")
    return DONE


def _watched(spec: BenchSpec) -> Report:
    """Measures; says on a terminal what is being done."""
    if not sys.stderr.isatty():
        return measure(spec, _quiet)
    from rich.console import Console

    console = Console(stderr=True)
    # Four times a second: a spinner's thread that draws more often is a contender of its own.
    with console.status("", refresh_per_second=4) as status:
        say: Say = lambda text: status.update(f"[dim]{text}[/]")  # noqa: E731
        return measure(spec, say)


def _quiet(text: str) -> None:
    pass
