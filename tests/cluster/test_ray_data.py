"""The engine in a Ray Data pipeline: the job's values, on places that are claimed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import small_job
from here import here
from small_job import ROWS, Source, words

from engine.errors import EngineError
from jobs.errors import SpecError
from jobs.ray_data import Predictor, _cpus_asked, predict
from numa.claims import FOLDER
from numa.errors import NumaError
from pipeline.errors import BindingError, RowError

ray = pytest.importorskip("ray")
pytest.importorskip("pandas", reason="Ray Data needs pandas (extra ray-data)")
pytestmark = [
    pytest.mark.cluster,
    # Ray Data and what it imports warn of their own futures, here and in its threads.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Ray Data on a cluster of this machine, whose actors see the locks of this test alone."""
    import ray.data

    environment = {
        FOLDER: str(tmp_path_factory.mktemp("locks")),
        "PYTHONPATH": os.pathsep.join([str(small_job.ROOT), str(small_job.ROOT / "tests")]),
    }
    ray.init(
        "local",
        num_cpus=max(2, os.cpu_count() or 1), include_dashboard=False, log_to_driver=False,
        object_store_memory=80 << 20, logging_level="ERROR",
        runtime_env={"env_vars": environment},
    )  # fmt: skip
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = 60  # else the first actor may do all before the second is up
    yield ray.data
    ray.shutdown()


def where(table: pa.Table) -> pa.Table:
    """Each row with the process and the CPUs that it was scored by."""
    rows = len(table)
    table = table.append_column("pid", pa.array([os.getpid()] * rows))
    return table.append_column("cpus", pa.array([str(sorted(os.sched_getaffinity(0)))] * rows))


class Placed(Predictor):
    def __call__(self, table: Any) -> Any:
        time.sleep(0.1)  # leaves some of the blocks to the other
        return where(super().__call__(table))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two actors need two processors")
def test_two_actors_on_two_claimed_places_give_the_jobs_values(
    source: Source, tmp_path: Path, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    run = here(*words(source, output))
    assert run.code == 0, run.stderr
    expected = small_job.read_parts(output)
    monkeypatch.setattr("jobs.ray_data.Predictor", Placed)
    dataset = data.read_parquet(str(source.data), override_num_blocks=1).repartition(12)
    table = pa.concat_tables(
        ray.get(predict(dataset, source.model, engines=2, threads=1).to_arrow_refs())
    ).sort_by("id")
    assert len(table) == ROWS
    for name in ("id", "label", "y"):
        assert table[name].combine_chunks().equals(expected[name].combine_chunks()), name
    used = {
        (pid, cpus)
        for pid, cpus in zip(*(table[n].to_pylist() for n in ("pid", "cpus")), strict=True)
    }
    assert len(used) == len({cpus for _, cpus in used}) == 2, "each on CPUs of its own"


def test_readers_example_runs_on_a_machine_of_one_node(source: Source, data: Any) -> None:
    """An engine on every core that Ray knows leaves a CPU to Ray Data's readers. And a pipeline
    that follows another at once gets the place that the other's actor still holds."""
    scored = predict(data.read_parquet(str(source.data)), source.model, keep=["id"])
    assert scored.schema().names == ["id", "y"]
    assert sorted(row["id"] for row in scored.take_all()) == list(range(ROWS))


def test_blocks_of_pandas(source: Source, data: Any) -> None:
    frame = pytest.importorskip("pandas").DataFrame(
        {"id": [7, 8], "note": ["a", None], "x": [np.zeros(8, np.float32)] * 2}
    )
    rows = predict(data.from_pandas([frame]), source.model).take_all()
    assert sorted(row["id"] for row in rows) == [7, 8] and rows[0].keys() == {"id", "note", "y"}
    np.testing.assert_array_equal([row["y"] for row in rows], np.zeros((2, 4), np.float32))
    with pytest.raises(SpecError, match="got one of no rows and no Arrow schema; give it one"):
        predict(data.from_pandas([frame[:0]]), source.model)


def test_cpus_are_left_for_rays_own_tasks() -> None:
    def home(raylet: str, offered: int, cpus: int) -> Any:
        place = SimpleNamespace(cpus=tuple(range(cpus)))
        return SimpleNamespace(machine=SimpleNamespace(raylet=raylet, cpus=offered), place=place)

    assert _cpus_asked([home("a", 2, 2)]) == 1
    assert _cpus_asked([home("a", 4, 2), home("a", 4, 2)]) == 1.5
    assert _cpus_asked([home("a", 8, 4)]) == 4, "there is room enough without"
    assert _cpus_asked([home("a", 4, 4), home("b", 8, 4)]) == 3, "all actors ask for the same"
    assert _cpus_asked([home("a", 1, 1)]) == 0


def test_options_and_tensors_of_ray(source: Source, data: Any) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(64, 8)).astype(np.float32)
    dataset = data.from_numpy(x)
    scored = predict(dataset, source.model, bind=["x=data"], keep=[], engines=1, threads=1)
    table = pa.concat_tables(ray.get(scored.to_arrow_refs()))
    assert table.schema.names == ["y"]
    y = table["y"].combine_chunks().flatten().to_numpy().reshape(64, 4)
    found = np.sort(y.sum(1))
    w1, w2 = weights(source)
    np.testing.assert_allclose(found, np.sort((np.maximum(x @ w1, 0) @ w2).sum(1)), atol=1e-4)


def weights(source: Source) -> tuple[np.ndarray[Any, Any], ...]:
    import onnx
    from onnx import numpy_helper

    return tuple(numpy_helper.to_array(i) for i in onnx.load(source.model).graph.initializer)


def test_what_cannot_work_is_told_before_the_start(source: Source, data: Any) -> None:
    dataset = data.read_parquet(str(source.data))
    with pytest.raises(BindingError, match="expected a field 'nix'"):
        predict(dataset, source.model, bind=["x=nix"])
    with pytest.raises(SpecError, match="unknown option 'kep'; did you mean 'keep'"):
        predict(dataset, source.model, kep=["id"])
    with pytest.raises(SpecError, match="expected one of fail, skip, null, got 'x'"):
        predict(dataset, source.model, on_error="x")
    with pytest.raises(EngineError, match="no_model"):
        predict(dataset, "no_model.onnx")


def test_a_second_predictor_here_finds_no_place(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And `on_error` means what it means in a job. In this process, whose threads are put back."""
    from numa.affinity import thread_cpus
    from numa.memory import policy

    monkeypatch.setenv(FOLDER, str(tmp_path / "locks"))
    monkeypatch.setattr("jobs.ray_data._PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("jobs.ray_data.bind", lambda node: "")  # a policy outlives the test
    before = os.sched_getaffinity(0)
    held = policy()
    predictor = Predictor(source.model, engines=1, threads=1, on_error="null")
    try:
        with pytest.raises(NumaError, match="expected a free place"):
            Predictor(source.model, engines=1, threads=1)
        x = pa.array([[float("nan")] * 8, None, [0.0] * 8], pa.list_(pa.float32()))
        scored = predictor(pa.table({"id": [1, 2, 3], "x": x}))
        assert scored["id"].to_pylist() == [1, 2, 3]
        assert scored["y"].to_pylist()[1] is None and scored["y"].to_pylist()[2] == [0.0] * 4
    finally:
        predictor.close()
        for tid in thread_cpus():
            os.sched_setaffinity(tid, before)
    assert policy() == held
    strict = Predictor(source.model, engines=1, threads=1)
    try:
        with pytest.raises(RowError, match="null"):
            strict(pa.table({"id": [2], "x": x.slice(1, 1)}))
    finally:
        strict.close()
        for tid in thread_cpus():
            os.sched_setaffinity(tid, before)
