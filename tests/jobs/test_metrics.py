"""Metrics: the text file as Prometheus reads it, Ray's increments, and a disk that is full."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import small_job
from here import driven, here
from prometheus_client.parser import text_string_to_metric_families
from small_job import ROWS, SHARDS, Source, words

from jobs import metrics
from jobs.metrics import METRICS, Meter, RayMetrics
from jobs.tally import Tally
from pipeline.events import JobStarted, PartCommitted
from pipeline.parts import Seconds


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


def read(path: Path) -> dict[tuple[str, ...], float]:
    """(name, scorer, stage) -> figure; labels that a family does not have are left out."""
    return {
        (s.name, *(s.labels[label] for label in ("scorer", "stage") if label in s.labels)): s.value
        for family in text_string_to_metric_families(path.read_text())
        for s in family.samples
    }


def test_the_file_holds_the_figures_of_the_job(source: Source, tmp_path: Path) -> None:
    path, output = tmp_path / "job.prom", tmp_path / "out"
    killed = tmp_path / "killed"
    run = driven(
        *words(source, output, "--metrics", str(path)),
        env={"COLONNADE_FAILPOINT": "before_run:3", "COLONNADE_FAILPOINT_ONCE": str(killed)},
    )
    assert run.code == 0, run.stderr
    found = read(path)
    assert {name for name, *_ in found} == {metric.name for metric in METRICS}
    assert found["colonnade_rows",] == found["colonnade_rows_done",] == ROWS
    assert found["colonnade_scorer_rows_total", "0"] == ROWS
    assert found["colonnade_scorer_shards_total", "0"] == found["colonnade_shards_done",] == SHARDS
    assert found["colonnade_scorer_retries_total", "0"] == len(run.lent) - SHARDS >= 1
    assert found["colonnade_scorer_deaths_total", "0"] == 1
    parts = [path.stat().st_size for path in output.glob("part-*")]
    assert found["colonnade_scorer_bytes_total", "0"] == sum(parts)
    told = run.events("PartCommitted")
    for stage in metrics.STAGES:
        expected = sum(event["seconds"][stage] for event in told)
        assert found["colonnade_scorer_seconds_total", "0", stage] == pytest.approx(expected)
        assert expected > 0
    assert not list(tmp_path.glob("job.prom?*")), "no temporary file is left"


@pytest.mark.parametrize("name", ["no/m.prom", ""])
def test_what_can_be_no_file_is_named(source: Source, tmp_path: Path, name: str) -> None:
    """In a folder that is not there; a folder itself."""
    run = here(*words(source, tmp_path / "out", "--metrics", str(tmp_path / name)))
    assert run.code == 2 and "metrics: expected a file in a folder that exists" in run.stderr
    assert not (tmp_path / "out").exists()


class Broken:
    def write(self, tally: Tally) -> None:
        raise OSError(28, "No space left on device")


class Counted:
    def __init__(self) -> None:
        self.writes = 0

    def write(self, tally: Tally) -> None:
        self.writes += 1


def test_a_sink_that_fails_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [10.0]
    monkeypatch.setattr(metrics, "monotonic", lambda: now[0])
    good = Counted()
    meter = Meter([Broken(), good])
    for _ in range(4):
        meter.show(JobStarted("/out", 1, 1, 1, 0, 0), Tally())
        now[0] += metrics.SECONDS / 2
    meter.close()
    assert good.writes == 3, "every two seconds, and at the end"
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_ray_is_told_increments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for Ray's classes add up what they are told, as its agents do."""
    util = pytest.importorskip("ray.util.metrics")
    figures: dict[tuple[Any, ...], float] = defaultdict(float)

    class Family:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description and tag_keys[0] == "output"
            self.name, self.keys = name, tag_keys

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert value > 0, "Ray refuses less"
            figures[self.name, *(tags[key] for key in self.keys)] += value

        def set(self, value: float, tags: dict[str, str]) -> None:
            figures[self.name, *(tags[key] for key in self.keys)] = value

    monkeypatch.setattr(util, "Counter", Family)
    monkeypatch.setattr(util, "Gauge", Family)
    tally, sink = Tally(), RayMetrics("/out")
    tally.add(JobStarted("/out", shards=10, rows=1000, engines=1, committed_shards=0,
                         committed_rows=0))  # fmt: skip
    for index in range(3):
        tally.add(PartCommitted(0, index, 100, 100, 0, 7, Seconds(run=0.5)))
        sink.write(tally)
        sink.write(tally)
    assert figures["colonnade_scorer_rows_total", "/out", "0"] == 300
    assert figures["colonnade_scorer_seconds_total", "/out", "0", "run"] == 1.5
    assert figures["colonnade_rows_done", "/out"] == 300
