"""--off: what it turns off, that results stay, and that another run's folder is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_job
from here import here
from small_job import Source, words

import engine
from engine.errors import EngineError
from engine.settings import Settings, from_switches, switches_of
from pipeline import splicing
from pipeline.manifest import read_run
from pipeline.verify import verify


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


def test_names_become_switches() -> None:
    assert switches_of([]) == {}
    assert from_switches(switches_of(["columns", "fold"])) == Settings(
        columns=False, rewrites_off=("fold",)
    )
    with pytest.raises(EngineError, match="did you mean columns"):
        from_switches({"colums": False})


def test_layer_wise_job_gives_the_same_outputs(source: Source, tmp_path: Path) -> None:
    outputs = []
    for name, off in (("on", ()), ("off", ("--off", "columns"))):
        run = here(*words(source, tmp_path / name, *off))
        assert run.code == 0, run.stderr
        small_job.check_exactly_once(source, tmp_path / name)
        table = pq.read_table(tmp_path / name).sort_by("id")
        outputs.append(np.array(table["y"].combine_chunks().flatten()))
    assert outputs[0].tobytes() == outputs[1].tobytes()


def test_timed_choices_travel_with_the_run_and_change_no_byte(
    source: Source, tmp_path: Path
) -> None:
    """A layer without zeros is in doubt: the driver times it, its scorers do as they are told."""
    rng = np.random.default_rng(0)
    wide = replace(source, model=tmp_path / "wide.onnx")
    w1, w2 = (rng.standard_normal(s).astype(np.float32) for s in ((8, 12_000), (12_000, 4)))
    small_job.write_model(wide.model, w1, w2)
    parts = []
    for name, off in (("on", ()), ("off", ("--off", "confirm"))):
        run = here(*words(wide, tmp_path / name, *off))
        assert run.code == 0, run.stderr
        parts.append(
            np.array(small_job.read_parts(tmp_path / name)["y"].combine_chunks().flatten())
        )
    assert parts[0].tobytes() == parts[1].tobytes()
    watch = engine.Stopwatch()
    assert any("points, 12000x8, " in kind for kind in json.loads(watch.path.read_text()))
    asked = engine.compile(wide.model, timer=watch).choices
    assert read_run(tmp_path / "on").choices == asked


def test_a_resume_with_other_switches_is_refused(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert here(*words(source, output, "--off", "sparse")).code == 0
    other = here(*words(source, output))
    assert other.code == 1
    assert "program" in other.stderr, "the difference is named"
    assert here(*words(source, output, "--off", "sparse")).code == 0


def test_an_unknown_name_is_refused_before_anything_is_written(
    source: Source, tmp_path: Path
) -> None:
    run = here(*words(source, tmp_path / "out", "--off", "spare"))
    assert run.code == 1
    assert "'spare'" in run.stderr and "sparse" in run.stderr
    assert not (tmp_path / "out").exists()


def test_pages_may_be_pyarrows(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run, as its parts have other bytes, but the same rows."""
    monkeypatch.setattr(splicing, "LEAST_SIZE", 4)
    opened = Mock(wraps=splicing.SplicedWriter)
    monkeypatch.setattr("pipeline.encoding.SplicedWriter", opened)
    tables = []
    for name, off in (("on", ()), ("off", ("--off", "splice"))):
        opened.reset_mock()
        run = here(*words(source, tmp_path / name, *off, "--compression", "none"))
        assert run.code == 0, run.stderr
        assert opened.called is not bool(off)
        small_job.check_exactly_once(source, tmp_path / name)
        assert verify(tmp_path / name).ok
        tables.append(small_job.read_parts(tmp_path / name))
    assert tables[0].equals(tables[1])
    other = here(*words(source, tmp_path / "off", "--compression", "none"))
    assert other.code == 1
    assert "compression: the folder has none without splice, this run has none" in other.stderr
