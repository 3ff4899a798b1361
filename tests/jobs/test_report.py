"""The page beside the manifest: what it keeps is bounded, and its figures are the job's."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import small_job
from here import driven, here
from hypothesis import given
from hypothesis import strategies as st
from scripted_executor import shard
from small_job import ROWS, SHARDS, Source, words

from jobs.report import history
from jobs.report.history import BINS, SLOWEST, TROUBLES, Bins, History
from pipeline.events import PartCommitted, PartDiscarded, RowsScored, ScorerDied, ShardFailed
from pipeline.parts import Seconds
from pipeline.shards import Lease


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1e7), st.integers(0, 1 << 40)), max_size=40)
)
def test_bins_lose_no_row_and_stay_few(work: list[tuple[int, float, int]]) -> None:
    """Against a list of everything: each bin holds what fell into its time."""
    bins = Bins()
    for scorer, at, rows in work:
        bins.add(scorer, at, rows)
    for scorer in {s for s, _, _ in work}:
        expected = [0] * BINS
        for other, at, rows in work:
            if other == scorer:
                expected[int(at / bins.seconds)] += rows
        assert bins.rows[scorer] == expected


def committed(scorer: int, index: int, spent: float) -> PartCommitted:
    return PartCommitted(scorer, index, 100, 100, 0, 10, Seconds(run=spent / 2, wait=spent / 2))


def test_history_keeps_the_slowest_and_the_first_troubles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(history, "monotonic", lambda: now[0])
    kept = History()
    for index in range(1000):
        now[0] += 0.5
        kept.add(committed(index % 2, index, spent=float((index * 37) % 1000)))
        kept.add(ScorerDied(0, f"reason {index}"))
    assert [slow.seconds for slow in kept.slowest] == [999.0 - i for i in range(SLOWEST)]
    assert all(slow.shard * 37 % 1000 == slow.seconds for slow in kept.slowest)
    assert len(kept.troubles) == TROUBLES and kept.troubles_in_all == 1000
    assert kept.troubles[3].at == 2.0 and kept.troubles[3].text.endswith("reason 3")
    assert {scorer: sum(rows) for scorer, rows in kept.bins.rows.items()} == {0: 50_000, 1: 50_000}


def test_rows_are_counted_once_a_lease() -> None:
    kept = History()
    for rows in (40, 90):
        kept.add(RowsScored(0, 7, 0, rows))
    kept.add(committed(0, 7, 1.0))
    assert sum(kept.bins.rows[0]) == 100
    kept.add(RowsScored(0, 8, 0, 60))
    kept.add(ShardFailed(0, Lease(shard(8), 0), "engine", "x"))
    kept.add(RowsScored(0, 8, 1, 30))
    assert sum(kept.bins.rows[0]) == 190, "work of a lost lease was work, too"
    kept.add(RowsScored(1, 8, 2, 50))
    kept.add(PartDiscarded(1, 8, 2))
    kept.add(RowsScored(1, 8, 3, 20))
    assert sum(kept.bins.rows[1]) == 70, "and that of a twin that came second"


class Cells(HTMLParser):
    """Text of every tile and every cell of a table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tiles: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "div" and ("class", "tile") in attrs:
            self.tiles.append("")
        if tag in ("td", "th", "b", "span"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open:
            return
        if self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        elif self.tiles:
            self.tiles[-1] += f"{data} "


def browsed(page: Path, folder: Path) -> str:
    """The page as a browser has it once it is drawn."""
    browser = next(
        (
            path
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (path := shutil.which(name))
        ),
        None,
    )
    if browser is None:
        pytest.skip("no Chromium here: the page was read, and not opened in a browser")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={folder}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


def test_figures_of_the_page_are_those_of_the_job(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    killed = tmp_path / "killed"
    run = driven(
        *words(source, output),
        env={"COLONNADE_FAILPOINT": "before_run:3", "COLONNADE_FAILPOINT_ONCE": str(killed)},
    )
    assert run.code == 0, run.stderr
    small_job.check_exactly_once(source, output)
    page = output / "_report.html"
    text = page.read_text()
    assert not re.search(r"https?://|<script|url\(|@import", text), "it needs nothing else"
    check_figures(Cells(text), len(run.lent) - SHARDS)
    assert "scorer 0 died: process" in text and "killed by SIGKILL" in text
    check_figures(Cells(browsed(page, tmp_path / "browser")), len(run.lent) - SHARDS)


def check_figures(cells: Cells, again: int) -> None:
    assert again >= 1
    assert f"{ROWS} rows scored by this run " in cells.tiles
    assert f"{again} shards lent again " in cells.tiles
    scorer = next(row for row in cells.rows if row and row[0].strip() == "0")
    assert scorer[3] == f"{ROWS}" and scorer[5] == f"{SHARDS}" and scorer[-1] == "1"
    slowest = [row for row in cells.rows if row and row[0].startswith("shard ")]
    assert len(slowest) == SLOWEST and {row[3] for row in slowest} == {"0"}
    spent = [float(row[1]) for row in slowest]
    assert spent == sorted(spent, reverse=True)


def test_a_run_that_does_nothing_leaves_the_page(source: Source, tmp_path: Path) -> None:
    """And --report none writes none; a page is no part of the dataset."""
    output = tmp_path / "out"
    first = here(*words(source, output, "--report", "none"))
    assert first.code == 0 and not (output / "_report.html").exists()
    again = here(*words(source, output, "--restart"))
    page = (output / "_report.html").read_bytes()
    assert again.code == 0 and here(*words(source, output)).code == 0
    assert (output / "_report.html").read_bytes() == page
    small_job.check_exactly_once(source, output)
