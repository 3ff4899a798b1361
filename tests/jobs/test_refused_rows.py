"""Rows that the model itself cannot run on: a lookup of what is not in its table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_job
import small_models as small
from here import here
from small_job import Source, words

ROWS = 300
BAD = 217
"""Asks for place 99 of a table of 10."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("lookup")
    table = np.arange(30, dtype=np.float32).reshape(10, 3)
    nodes = [small.node("Gather", "table x", "y", name="lookup")]
    model = small.model(nodes, {"x": ["N"]}, {"y": ["N", 3]}, {"table": table})
    model.graph.input[0].CopyFrom(small.info("x", ["N"], np.int64))
    onnx.save(model, folder / "lookup.onnx")
    x = np.arange(ROWS) % 10
    x[BAD] = 99
    data = folder / "data"
    data.mkdir()
    rows = pa.table({"x": x, "id": np.arange(ROWS)})
    pq.write_table(rows, data / "a.parquet", row_group_size=100)
    return Source(folder / "lookup.onnx", data, table)


def test_fail_names_file_and_row_and_the_way_out(source: Source, tmp_path: Path) -> None:
    run = here(*words(source, tmp_path / "out"))
    assert run.code == 1, run.stderr
    assert f"{source.data / 'a.parquet'}: row {BAD}: the model cannot run on it" in run.stderr
    assert "--on-error skip or null" in run.stderr
    assert run.stderr.count("cannot run on it") == 1, "said once"
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize("on_error", ["skip", "null"])
def test_the_others_are_scored(source: Source, tmp_path: Path, on_error: str) -> None:
    output = tmp_path / "out"
    run = here(*words(source, output, "--on-error", on_error))
    assert run.code == 0, run.stderr
    table = small_job.read_parts(output)
    missing = set(range(ROWS)) - set(table["id"].to_pylist())
    assert missing == ({BAD} if on_error == "skip" else set())
    assert table["y"].null_count == (on_error == "null")
    (reject,) = pa.concat_tables(
        pq.read_table(p) for p in (output / "_colonnade" / "rejects").glob("*.parquet")
    ).to_pylist()
    assert reject["row"] == BAD
