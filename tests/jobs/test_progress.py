"""Tally and displays: what people and machines are told."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console
from scripted_executor import shard

from jobs import bar, progress, tally
from jobs.bar import Bar
from jobs.progress import JsonLines, Log, Silent
from jobs.tally import Summary, Tally, clock
from jobs.troubles import Troubles
from pipeline.events import (
    Event,
    JobStarted,
    PartCommitted,
    RowsScored,
    ScorerDied,
    ScorerReady,
    ShardFailed,
    ShardSetAside,
)
from pipeline.parts import Seconds
from pipeline.shards import Lease

STARTED = JobStarted(
    "/out", shards=10, rows=1000, engines=2, committed_shards=2, committed_rows=200
)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of tally and progress; a test moves it by hand."""
    time = [100.0]
    for module in (tally, progress, bar):
        monkeypatch.setattr(module, "monotonic", lambda: time[0])
    return time


def committed(index: int, rejects: int = 0) -> PartCommitted:
    return PartCommitted(0, index, 100, 100 - rejects, rejects, 4096, Seconds())


def test_rows_in_flight_count_until_they_are_committed_or_lost(now: list[float]) -> None:
    counts = Tally()
    counts.add(STARTED)
    assert (counts.rows_done, counts.share, counts.seconds_left) == (200, 0.2, None)
    counts.add(RowsScored(0, 2, 0, 60))
    counts.add(RowsScored(0, 2, 0, 90))
    counts.add(RowsScored(1, 3, 0, 50))
    assert counts.rows_done == 340
    counts.add(ScorerDied(1, "gone"))
    assert counts.rows_done == 290
    counts.add(committed(2, rejects=3))
    assert (counts.rows_done, counts.rejects, counts.committed_shards) == (300, 3, 3)
    counts.add(RowsScored(0, 4, 0, 70))
    counts.add(ShardFailed(0, Lease(shard(4), 0), "engine", "x"))
    assert counts.rows_done == 300
    now[0] += 4
    assert counts.rate == pytest.approx(25), "rows of earlier runs do not count as speed"
    assert counts.seconds_left == pytest.approx(28)
    assert str(counts) == (
        " 30%  300 of 1,000 rows, 3 of 10 shards, 25 rows/s, 0:28 left, 3 rejected"
    )


def test_job_without_rows_goes_by_shards() -> None:
    counts = Tally()
    counts.add(JobStarted("/out", 4, 0, 1, 1, 0))
    assert counts.share == 0.25
    assert Tally().share == 1.0


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 247, 3847)] == ["0:00", "1:00", "4:07", "1:04:07"]


def test_log_speaks_every_tenth_and_every_ten_seconds(now: list[float]) -> None:
    stream = io.StringIO()
    counts, log = Tally(), Log(stream)

    def show(event: Event, later: float = 0.1) -> None:
        now[0] += later
        counts.add(event)
        log.show(event, counts)

    show(STARTED)
    show(ScorerReady(0, "", {}))
    show(RowsScored(0, 2, 0, 99))
    assert stream.getvalue() == ""
    show(committed(2))
    assert stream.getvalue().count("\n") == 1, "30 % were reached"
    show(RowsScored(0, 3, 0, 40))
    show(RowsScored(0, 3, 0, 50))
    assert stream.getvalue().count("\n") == 1
    show(RowsScored(0, 3, 0, 60), later=10)
    assert stream.getvalue().count("\n") == 2, "ten seconds went by"
    show(ShardSetAside(5, "poison"))
    assert stream.getvalue().endswith("shard 5 set aside: poison\n"), "troubles are told at once"
    for index in range(3, 9):
        show(committed(index))
    show(RowsScored(0, 9, 0, 100))
    assert not stream.getvalue().splitlines()[-1].startswith("100%"), "not all is committed"
    show(committed(9))
    assert stream.getvalue().splitlines()[-1].startswith("100%")
    assert "10 of 10 shards" in stream.getvalue().splitlines()[-1]
    assert "\r" not in stream.getvalue()


def test_a_log_tells_that_kernels_are_compiled_first() -> None:
    stream = io.StringIO()
    counts, log = Tally(), Log(stream)
    for event in (replace(STARTED, uncompiled=14), STARTED):
        counts.add(event)
        log.show(event, counts)
    assert stream.getvalue() == "starting 2 scorers, compiling 14 kernels (once on a machine)\n"


def test_json_lines_are_events(now: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    counts = Tally()
    for event in (STARTED, committed(3)):
        counts.add(event)
    now[0] += 4
    JsonLines().show(committed(3), counts)
    plain = json.loads(capsys.readouterr().out)
    assert plain["event"] == "PartCommitted" and plain["shard"] == 3
    assert plain["progress"] == {
        "rows_done": 300, "rows": 1000, "share": 0.3, "rows_per_second": 25.0, "seconds_left": 28.0
    }  # fmt: skip
    JsonLines().show(ScorerDied(0, "gone"), counts)
    assert "progress" not in json.loads(capsys.readouterr().out)
    Silent().show(committed(3), Tally())
    assert capsys.readouterr() == ("", "")


def test_bar_draws_rows_shards_and_troubles() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    counts, bar = Tally(), Bar(console)
    ready = ScorerReady(0, "", {})
    events: list[Event] = [STARTED, ready, ScorerDied(1, "killed by SIGSEGV"), committed(2)]
    for event in [*events, *(committed(index) for index in range(3, 10))]:
        counts.add(event)
        bar.show(event, counts)
    bar.close()
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "scorer 1 died: killed by SIGSEGV" in drawn
    assert "starting 2 scorers, 200/1,000 rows" in drawn
    assert "1,000/1,000 rows" in drawn and "10/10 shards" in drawn
    assert "100%" in drawn


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_bar_stays_on_its_line_and_counts_what_was_set_aside(width: int) -> None:
    """With room for the `^C` that a terminal echoes behind it."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    counts, bar = Tally(), Bar(console)
    aside = ShardSetAside(9, "poison")
    for event in [STARTED, ScorerReady(0, "", {}), aside, *(committed(i) for i in range(2, 9))]:
        counts.add(event)
        bar.show(event, counts)
    bar._drawn = 0.0
    bar.show(committed(1), counts)
    bar.close()
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    lines = [line for line in re.split(r"[\r\n]", written) if "%" in line]
    assert lines and max(map(len, lines)) <= width - 3, lines
    assert width < 40 or "1 set aside" in lines[-1]
    assert width < 60 or "9/10 shards" in lines[-1]


def test_auto_is_a_log_where_stderr_is_no_terminal() -> None:
    assert isinstance(progress.make("auto"), Log)


def test_trouble_names_file_and_rows_and_says_why_once() -> None:
    line = Troubles().line
    lease = Lease(shard(4), 0)
    failed = ShardFailed(1, lease, "engine", "shard 4: /in/4 rows 0:10: NaN")
    assert line(failed) == "shard 4: /in/4 rows 0:10 failed on scorer 1: NaN"
    assert line(failed) == "shard 4: /in/4 rows 0:10 failed on scorer 1, as before"
    assert line(ShardSetAside(4, failed.message)) == "shard 4 set aside"
    assert line(ScorerDied(0, "killed")) == "scorer 0 died: killed"
    assert line(ShardSetAside(5, "killed")) == "shard 5 set aside"
    assert line(ShardFailed(1, lease, "input", "/in/4: truncated")) == ""
    assert line(ShardSetAside(4, "/in/4: truncated")) == "shard 4 set aside: /in/4: truncated"
    assert line(ShardFailed(1, lease, "rows", "row 3")) == "", "the job ends with these words"
    assert line(committed(1)) == ""


def test_summary_prints_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(
        exit_code=3, message="", output="/out", rows_in=1000, rows_out=997, rejects=3, parts=10,
        over_budget=True, seconds=2.0, rows_per_second=500.0, nbytes=4096,
        scorers={0: "1,000 rows; in place"},
    )  # fmt: skip
    progress.print_summary(summary)
    assert capsys.readouterr().out.splitlines() == [
        "rows      1,000 in, 997 out, 3 rejected",
        "parts     10, 4 KiB written by this run",
        "time      2.0 s, 500 rows/s in all",
        "output    /out",
        "scorer 0  1,000 rows; in place",
    ]
    assert summary.to_json()["rejects"] == 3


def test_an_event_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads print, too: Ray's, about actors that died."""
    written: list[str] = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", written.append)
    monkeypatch.setattr("sys.stdout", stream)
    JsonLines().show(committed(3), Tally())
    assert len(written) == 1 and written[0].endswith("}\n")
