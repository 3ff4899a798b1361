from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scorer_jobs import K, SmallModel, ended, score, write_rows

from pipeline import failpoints, scoring
from pipeline.dataset import Dataset
from pipeline.events import Event, PartWritten, RowsScored, ScorerDied, ScorerReady, ShardFailed
from pipeline.price import IN_HAND
from pipeline.reader import ShardReader
from pipeline.scorer import QUEUED, Scorer, ScorerSpec
from pipeline.shards import Lease, plan_shards

ROWS = 700
FIXED = pa.list_(pa.float32(), K)
LOOSE = pa.list_(pa.float32())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return SmallModel(tmp_path_factory.mktemp("model"))


def values(rows: int = ROWS) -> Any:
    return np.random.default_rng(1).normal(size=(rows, K)).astype(np.float32)


def parts(events: list[Event]) -> list[PartWritten]:
    written = ended(events)
    assert all(isinstance(e, PartWritten) for e in written), written
    return [e for e in written if isinstance(e, PartWritten)]


def read(output: Path, events: list[Event]) -> pa.Table:
    tables = [pq.read_table(output / e.part.temp, partitioning=None) for e in parts(events)]
    return pa.concat_tables(tables)


def temps(output: Path) -> list[Path]:
    return list((output / "_colonnade/tmp").iterdir())


@pytest.mark.parametrize("batch_rows", [1, 64, 5000])
def test_shards_become_parts(model: SmallModel, tmp_path: Path, batch_rows: int) -> None:
    x = values(200 if batch_rows == 1 else ROWS)
    dataset = write_rows(tmp_path / "a.parquet", list(x), FIXED)
    shards = plan_shards(dataset)
    events = score(model.spec(dataset, tmp_path / "out", batch_rows=batch_rows), shards)
    ready = events[0]
    assert isinstance(ready, ScorerReady)
    assert (ready.scorer, ready.report["pid"]) == (3, os.getpid())
    assert [e.part.shard for e in parts(events)] == [s.index for s in shards], "in their order"
    table = read(tmp_path / "out", events)
    assert table["id"].to_pylist() == list(range(len(x)))
    y = np.array(table["y"].to_pylist(), np.float32)
    np.testing.assert_allclose(y, model(x), rtol=1e-4, atol=1e-5)
    for event in parts(events):
        assert event.part.rows_in == event.part.rows_out == shards[event.part.shard].rows


def test_shards_share_the_memory_that_they_are_read_into(model: SmallModel, tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "a.parquet", list(values()), FIXED)
    shards = plan_shards(dataset)
    with mock.patch("pipeline.scorer.ShardReader", wraps=ShardReader) as opened:
        parts(score(model.spec(dataset, tmp_path / "out"), shards))
    given = [call.args[4] for call in opened.call_args_list]
    assert len(given) == len(shards) > 1
    assert given[0] is not None and all(blocks is given[0] for blocks in given)


def test_bytes_do_not_depend_on_threads(model: SmallModel, tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "a.parquet", list(values()), FIXED)
    shards = plan_shards(dataset)
    cpus = sorted(os.sched_getaffinity(0))
    sums = []
    for n in (1, 2):
        spec = model.spec(dataset, tmp_path / f"out{n}", cpus=tuple((cpus * n)[:n]))
        sums.append([e.part.checksum for e in parts(score(spec, shards))])
    assert sums[0] == sums[1]


def test_the_arrow_format(model: SmallModel, tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "a.parquet", list(values()), FIXED, group=1000)
    spec = model.spec(dataset, tmp_path / "out", format="arrow")
    (event,) = parts(score(spec, plan_shards(dataset)))
    with pa.memory_map(str(tmp_path / "out" / event.part.temp)) as source:
        table = pa.ipc.open_file(source).read_all()
        assert table["id"].to_pylist() == list(range(ROWS))


def test_an_empty_file_becomes_an_empty_part(model: SmallModel, tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "a.parquet", [], FIXED)
    events = score(model.spec(dataset, tmp_path / "out"), plan_shards(dataset))
    table = read(tmp_path / "out", events)
    assert (table.num_rows, table.schema.names) == (0, ["id", "y"])


def spoiled() -> tuple[list[Any], dict[int, str]]:
    """Rows of which some are bad, and why. 300 to 363 are bad without exception."""
    rows: list[Any] = [list(map(float, r)) for r in values(400)]
    rows[5] = None
    rows[130] = rows[130][:3]
    rows[131][7] = None
    rows[200][0] = float("nan")
    reasons = {5: "is null", 130: "has 3 elements, expected 8", 131: "holds a null"}
    for i in range(300, 364):
        rows[i] = []
        reasons[i] = "has 0 elements, expected 8"
    return rows, reasons


def test_bad_rows_fail_their_shard_and_no_other(model: SmallModel, tmp_path: Path) -> None:
    rows, _ = spoiled()
    dataset = write_rows(tmp_path / "a.parquet", rows, LOOSE)
    events = score(model.spec(dataset, tmp_path / "out"), plan_shards(dataset))
    first, second, third, fourth = ended(events)
    assert isinstance(first, ShardFailed) and isinstance(second, ShardFailed)
    assert (first.kind, first.lease.shard.index) == ("rows", 0)
    path = tmp_path / "a.parquet"
    assert first.message == f"{path}: row 5, field 'x': is null"
    assert second.message == f"{path}: row 130, field 'x': has 3 elements, expected 8"
    assert isinstance(third, PartWritten) and isinstance(fourth, ShardFailed)
    assert len(temps(tmp_path / "out")) == 1, "the failed ones left nothing"


@pytest.mark.parametrize("on_error", ["skip", "null"])
def test_bad_rows_are_counted_exactly(model: SmallModel, tmp_path: Path, on_error: str) -> None:
    rows, reasons = spoiled()
    dataset = write_rows(tmp_path / "a.parquet", rows, LOOSE)
    output = tmp_path / "out"
    events = score(model.spec(dataset, output, on_error=on_error), plan_shards(dataset))
    table = read(output, events)
    good = [i for i in range(400) if i not in reasons]
    assert table["id"].to_pylist() == (good if on_error == "skip" else list(range(400)))
    scored = dict(zip(table["id"].to_pylist(), table["y"].to_pylist(), strict=True))
    assert [i for i, y in scored.items() if y is None] == (
        [] if on_error == "skip" else sorted(reasons)
    )
    expected = model([rows[i] for i in good])
    np.testing.assert_allclose([scored[i] for i in good], expected, rtol=1e-4, atol=1e-5)
    rejects = [
        r
        for e in parts(events)
        if e.part.rejects_temp
        for r in pq.read_table(output / e.part.rejects_temp).to_pylist()
    ]
    assert {r["row"]: r["reason"] for r in rejects} == reasons
    assert {(r["file"], r["field"]) for r in rejects} == {(str(tmp_path / "a.parquet"), "x")}
    for e in parts(events):
        out = e.part.rows_in - e.part.rejects if on_error == "skip" else e.part.rows_in
        assert e.part.rows_out == out


def test_a_changed_input_fails_the_shard(model: SmallModel, tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "a.parquet", list(values(10)), FIXED)
    shards = plan_shards(dataset)
    os.utime(tmp_path / "a.parquet", ns=(0, 0))
    (event,) = ended(score(model.spec(dataset, tmp_path / "out"), shards))
    assert isinstance(event, ShardFailed)
    assert event.kind == "input" and "input changed during the run" in event.message


def test_an_output_that_cannot_be_written_fails_the_shard(
    model: SmallModel, tmp_path: Path
) -> None:
    dataset = write_rows(tmp_path / "a.parquet", list(values(10)), FIXED)
    (tmp_path / "out").write_text("a file where the folder should be")
    (event,) = ended(score(model.spec(dataset, tmp_path / "out"), plan_shards(dataset)))
    assert isinstance(event, ShardFailed)
    assert event.kind == "output" and str(tmp_path / "out") in event.message


@pytest.mark.parametrize("point", failpoints.SCORER_NAMES)
def test_an_exception_anywhere_is_told_and_the_scorer_lives_on(
    model: SmallModel, tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_rows(tmp_path / "a.parquet", list(values(300)), FIXED)
    failpoints._reached.clear()
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}=raise")
    events = ended(score(model.spec(dataset, tmp_path / "out"), plan_shards(dataset)))
    assert [type(e) for e in events] == [ShardFailed, PartWritten, PartWritten]
    assert isinstance(events[0], ShardFailed)
    assert events[0].kind == "internal" and f"failpoint {point}" in events[0].message
    assert len(temps(tmp_path / "out")) == 2


class Panic(BaseException):
    """As extensions written in Rust raise it: no Exception."""


@pytest.mark.parametrize("place", ["prepare", "score", "encode"])
def test_what_is_no_exception_is_told_too_and_leaves_no_driver_waiting(
    model: SmallModel, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panics(*_: Any) -> None:
        raise Panic("at once")

    dataset = write_rows(tmp_path / "a.parquet", list(values(300)), FIXED)
    monkeypatch.setattr(f"pipeline.scorer.{place}", panics)
    events = ended(score(model.spec(dataset, tmp_path / "out"), plan_shards(dataset)))
    assert [type(e) for e in events] == [ShardFailed] * 3
    assert isinstance(events[0], ShardFailed) and events[0].kind == "internal"
    assert "rows 0:100: Panic: at once" in events[0].message


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model_sha256": "0" * 64}, "expected the model that was planned"),
        ({"program": "0" * 32}, "another version of colonnade"),
        ({"model": "/no/such.onnx"}, "No such file"),
    ],
)
def test_a_scorer_that_cannot_start_dies_and_says_why(
    model: SmallModel, tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    dataset = write_rows(tmp_path / "a.parquet", list(values()), FIXED)
    spec = replace(model.spec(dataset, tmp_path / "out"), **changed)
    (event,) = score(spec, plan_shards(dataset))
    assert isinstance(event, ScorerDied) and event.refused
    assert reason in event.reason
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("fast", "slow"), [("prepare", "score"), ("score", "encode")])
def test_no_thread_runs_ahead_of_the_next(
    model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: str, slow: str
) -> None:
    """Between two threads are the batches that the plan prices, and no more."""
    dataset = write_rows(tmp_path / "a.parquet", list(values()), FIXED)
    quick, late, gate = getattr(scoring, fast), getattr(scoring, slow), threading.Event()
    made: list[int] = []

    def counted(*told: Any) -> Any:
        made.append(0)
        return quick(*told)

    def held(*told: Any) -> Any:
        assert gate.wait(60)
        return late(*told)

    monkeypatch.setattr(f"pipeline.scorer.{fast}", counted)
    monkeypatch.setattr(f"pipeline.scorer.{slow}", held)
    ready = threading.Event()
    scorer = Scorer(model.spec(dataset, tmp_path / "out", batch_rows=10), lambda e: ready.set())
    for shard in plan_shards(dataset):
        scorer.submit(Lease(shard, 0))
    assert ready.wait(60)
    until = time.monotonic() + 60
    while len(made) < QUEUED + IN_HAND and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(made) == QUEUED + IN_HAND
    gate.set()
    scorer.close()
    assert len(made) == ROWS // 10


def test_compression_is_the_specs(model: SmallModel, tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "a.parquet", list(values(100)), FIXED)
    spec = model.spec(dataset, tmp_path / "out", compression="lz4")
    (event,) = parts(score(spec, plan_shards(dataset)))
    group = pq.read_metadata(tmp_path / "out" / event.part.temp).row_group(0)
    assert {group.column(i).compression for i in range(2)} == {"LZ4"}


def test_abandoned_leases_leave_nothing(model: SmallModel, tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "a.parquet", list(values()), FIXED)
    ready = threading.Event()
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        ready.set()

    scorer = Scorer(model.spec(dataset, tmp_path / "out", batch_rows=1), emit)
    for shard in list(plan_shards(dataset)) * 10:
        scorer.submit(Lease(shard, 0))
    ready.wait()
    scorer.close(abandon=True)
    finished = {e.part.temp for e in events if isinstance(e, PartWritten)}
    out = tmp_path / "out"
    left = {str(t.relative_to(out)) for t in temps(out)} if out.exists() else set()
    assert left == finished
    assert len(finished) < 70


def test_a_driver_that_does_not_listen_ends_the_scorer(model: SmallModel, tmp_path: Path) -> None:
    dataset = write_rows(tmp_path / "a.parquet", list(values()), FIXED)

    def emit(event: Event) -> None:
        raise BrokenPipeError("gone")

    scorer = Scorer(model.spec(dataset, tmp_path / "out"), emit)
    for shard in plan_shards(dataset):
        scorer.submit(Lease(shard, 0))
    with pytest.raises(BrokenPipeError):
        scorer.close()


def test_progress_counts_up(
    model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.scorer.PROGRESS_SECONDS", 0.0)
    dataset = write_rows(tmp_path / "a.parquet", list(values()), FIXED, group=1000)
    events = score(model.spec(dataset, tmp_path / "out"), plan_shards(dataset))
    rows = [e.rows for e in events if isinstance(e, RowsScored)]
    assert len(rows) == 11
    assert rows == sorted(set(rows)) and rows[-1] == ROWS


def test_specs_travel_as_json(model: SmallModel, tmp_path: Path) -> None:
    dataset: Dataset = write_rows(tmp_path / "a.parquet", list(values(5)), FIXED)
    spec = model.spec(dataset, tmp_path / "out")
    assert ScorerSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_arrow_files_are_scored_too(
    model: SmallModel, tmp_path: Path, compression: str | None
) -> None:
    x = values()
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), K)
    table = pa.table({"id": np.arange(ROWS), "x": column})
    path = tmp_path / "a.arrow"
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=90)
    dataset = Dataset.discover([str(path)])
    events = score(model.spec(dataset, tmp_path / "out"), plan_shards(dataset))
    written = read(tmp_path / "out", events)
    assert written["id"].to_pylist() == list(range(ROWS))
    y = np.array(written["y"].to_pylist(), np.float32)
    np.testing.assert_allclose(y, model(x), rtol=1e-4, atol=1e-5)
