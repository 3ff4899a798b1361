"""Bad input end to end: the message names the culprit, the exit code is right, nothing is left."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_job
from click.testing import CliRunner
from here import here
from onnx import TensorProto
from small_job import ROWS, Source, words
from watched import Watched

from jobs.cli import main

Spoil = Callable[[Source, Path], Source]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return small_job.write(tmp_path_factory.mktemp("source"))


def with_model(source: Source, folder: Path, content: bytes | None) -> Source:
    model = folder / "bad.onnx"
    if content is not None:
        model.write_bytes(content)
    return Source(model, source.data, source.expected)


def with_data(source: Source, folder: Path, **tables: pa.Table) -> Source:
    data = folder / "data"
    data.mkdir()
    for name, table in tables.items():
        pq.write_table(table, data / f"{name}.parquet")
    return Source(source.model, data, source.expected)


def table(rows: int = 6, width: int = 8, kind: pa.DataType | None = None) -> pa.Table:
    flat = pa.array(np.ones(rows * width), type=kind or pa.float32())
    return pa.table({"id": np.arange(rows), "x": pa.FixedSizeListArray.from_arrays(flat, width)})


def outside(source: Source, folder: Path) -> Source:
    """External data that lies above the model's folder."""
    (folder / "weights.bin").write_bytes(b"\0" * 512)
    model = onnx.load(source.model)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../weights.bin"), ("offset", "0"), ("length", "512")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (folder / "inner").mkdir()
    return with_model(source, folder / "inner", model.SerializeToString())


def unknown_operator(source: Source, folder: Path) -> Source:
    model = onnx.load(source.model)
    model.graph.node[1].op_type = "Quux"
    return with_model(source, folder, model.SerializeToString())


def truncated_parquet(source: Source, folder: Path) -> Source:
    spoiled = with_data(source, folder, a=table())
    path = spoiled.data / "a.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    return spoiled


def empty_file(source: Source, folder: Path) -> Source:
    spoiled = with_data(source, folder, a=table())
    (spoiled.data / "b.parquet").touch()
    return spoiled


CASES: dict[str, tuple[Spoil, list[str]]] = {
    "model missing": (lambda s, f: with_model(s, f, None), ["bad.onnx"]),
    "model empty": (lambda s, f: with_model(s, f, b""), ["bad.onnx"]),
    "model truncated": (
        lambda s, f: with_model(s, f, s.model.read_bytes()[:-99]), ["bad.onnx"]
    ),
    "model is text": (lambda s, f: with_model(s, f, b"hello, world\n" * 9), ["bad.onnx"]),
    "external data outside": (outside, ["weights.bin"]),
    "unknown operator": (unknown_operator, ["relu", "Quux"]),
    "field missing": (
        lambda s, f: with_data(s, f, a=table().rename_columns(["id", "pixels"])),
        ["'x'", "--bind x=pixels"],
    ),
    "field of another shape": (lambda s, f: with_data(s, f, a=table(width=9)), ["x", "8", "9"]),
    "field of another type": (
        lambda s, f: with_data(s, f, a=table(kind=pa.float64())), ["x", "float32", "float64"]
    ),
    "field of text": (
        lambda s, f: with_data(s, f, a=pa.table({"x": ["a", "b"]})), ["x", "string"]
    ),
    "empty dataset": (lambda s, f: with_data(s, f), ["data"]),
    "empty file": (empty_file, ["b.parquet", "; copy or write it again, or leave it out"]),
    "truncated Parquet": (truncated_parquet, ["a.parquet", "; copy or write it again"]),
    "field twice": (
        lambda s, f: with_data(s, f, a=table().rename_columns(["x", "x"])),
        ["a.parquet", "; write it again with a name for each"],
    ),
    "one file of another type": (
        lambda s, f: with_data(s, f, a=table(), b=table(kind=pa.float64())),
        ["input 'x'", "expected float32, got float64", "do --bind x=x:cast to round; files differ",
         "[8] in 1 file (", "a.parquet) and fixed_size_list<element: double>[8] in 1 file ("],
    ),
    "one file of another size": (
        lambda s, f: with_data(s, f, a=table(), b=table(width=9)),
        ["input 'x'", "b.parquet): lists of different sizes; write it again with one type"],
    ),
    "one file without a field": (
        lambda s, f: with_data(s, f, a=table(), b=table().select(["id"])),
        ["input 'x'", "got 1 file (", "b.parquet) without it; leave those files out of --input"],
    ),
    "one file of another kept type": (
        lambda s, f: with_data(s, f, a=table(), b=table().set_column(0, "id", pa.array(["a"] * 6))),
        ["field 'id'", "int64 in 1 file (", "string in 1 file (", "leave it out with --keep, or "],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused_before_the_start(source: Source, tmp_path: Path, name: str) -> None:
    spoil, named = CASES[name]
    output = tmp_path / "out"
    result = CliRunner().invoke(main, words(spoil(source, tmp_path), output))
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("colonnade: "), result.stderr
    for text in named:
        assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not output.exists(), "nothing was begun"


def test_foreign_output_folder_is_left_alone(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "part-000000.parquet").write_text("somebody else's")
    result = CliRunner().invoke(main, words(source, output))
    assert result.exit_code == 1 and "part-000000.parquet" in result.stderr
    assert [p.name for p in output.iterdir()] == ["part-000000.parquet"]


def test_output_inside_the_input_is_refused(source: Source) -> None:
    result = CliRunner().invoke(main, words(source, source.data / "out"))
    assert result.exit_code == 1 and "out" in result.stderr
    assert not (source.data / "out").exists()


def with_bad_row(folder: Path) -> tuple[Source, Path]:
    """A small job of which row 137 of the second file has no x."""
    source = small_job.write(folder)
    path = source.data / "in-1.parquet"
    good = pq.read_table(path)
    values = good["x"].to_pylist()
    values[137] = None
    bad = pa.array(values, type=good["x"].type)
    groups = good.set_column(1, "x", bad)
    pq.write_table(groups, path, row_group_size=50)
    return source, path


def test_null_stops_the_job_naming_file_row_and_field(tmp_path: Path) -> None:
    source, path = with_bad_row(tmp_path)
    output = tmp_path / "out"
    run = here(*words(source, output))
    assert run.code == 1, run.stderr
    for text in (str(path), "137", "'x'", "null"):
        assert text in run.stderr, run.stderr
    assert not (output / "_SUCCESS").exists()


def test_null_is_skipped_within_the_budget(tmp_path: Path) -> None:
    source, path = with_bad_row(tmp_path)
    output = tmp_path / "out"
    run = here(*words(source, output, "--on-error", "skip", "--max-errors", "0"))
    assert run.code == 3 and "over --max-errors 0" in run.stderr, run.stderr
    assert not (output / "_SUCCESS").exists()
    run = here(*words(source, output, "--on-error", "skip", "--max-errors", "1"))
    assert run.code == 0, run.stderr
    ended = run.events("JobEnded")[0]
    assert (ended["rows_in"], ended["rows_out"], ended["rejects"]) == (ROWS, ROWS - 1, 1)
    ids = set(small_job.read_parts(output)["id"].to_pylist())
    assert set(range(ROWS)) - ids == {sum(small_job.GROUPS) + 137}
    reject = pa.concat_tables(
        pq.read_table(p) for p in (output / "_colonnade" / "rejects").glob("*.parquet")
    ).to_pylist()
    assert len(reject) == 1 and str(path) in json.dumps(reject) and "137" in json.dumps(reject)

    for marker in ("_SUCCESS", ""):  # a job that is done, then one that lacks only its end
        again = here(*words(source, output, "--on-error", "skip", "--max-errors", "0"))
        assert again.code == 3 and not again.lent, "a rerun does not widen the budget"
        assert f"1 row rejected, over --max-errors 0; they are listed in {output}" in again.stderr
        advice = again.stderr.splitlines()[-1]
        assert "--on-error skip" in advice and "--max-errors" not in advice
        (output / (marker or "_SUCCESS")).unlink(missing_ok=True)
    assert here(*shlex.split(advice)[1:]).code == 0
    assert (output / "_SUCCESS").exists()


def test_nan_passes_through(tmp_path: Path) -> None:
    source = small_job.write(tmp_path)
    path = source.data / "in-0.parquet"
    whole = pq.read_table(path)
    x = whole["x"].combine_chunks().flatten().to_numpy().copy()
    x[3 * 8] = np.nan
    values = pa.FixedSizeListArray.from_arrays(pa.array(x), 8)
    pq.write_table(whole.set_column(1, "x", values), path)
    output = tmp_path / "out"
    run = here(*words(source, output))
    assert run.code == 0, run.stderr
    y = small_job.read_parts(output)["y"].combine_chunks().flatten().to_numpy().reshape(ROWS, 4)
    assert np.isnan(y[3]).any() and not np.isnan(np.delete(y, 3, axis=0)).any()


def test_input_changed_during_the_run(tmp_path: Path) -> None:
    """The scorer freezes after the first shard, the files change, the scorer is replaced."""
    source = small_job.write(tmp_path)
    output = tmp_path / "out"
    environment = {
        "COLONNADE_FAILPOINT": "before_run:2=stop",
        "COLONNADE_FAILPOINT_ONCE": str(tmp_path / "once"),
    }
    with Watched(tmp_path, *words(source, output), env=environment) as job:
        job.wait_at_gate(0)
        for path in source.data.glob("*.parquet"):
            path.write_bytes(path.read_bytes())
        os.kill(job.pid(0), signal.SIGKILL)
        run = job.finish()
    assert run.code == 1 and "changed" in run.stderr, (run.code, run.stderr)
    assert ".parquet" in run.stderr and not (output / "_SUCCESS").exists()
