"""What a scorer holds at most, measured in a process of its own, against what the plan prices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scorer_jobs
from scorer_jobs import K, SmallModel

import engine
from pipeline.dataset import Dataset
from pipeline.plan import price

ROWS, WIDTH = 24_000, 1024


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return SmallModel(tmp_path_factory.mktemp("model"))


def floats() -> pa.Array:
    """96 MB."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(ROWS * WIDTH, np.float32)), WIDTH)


def texts() -> pa.Array:
    """480 MB, of which a dictionary holds 1 MB."""
    different = pa.array([f"{i:05d}" * 4000 for i in range(50)])
    return pa.DictionaryArray.from_arrays(np.arange(ROWS, dtype=np.int32) % 50, different)


def lists() -> pa.Array:
    """240 MB, in lists of two."""
    different = pa.array([f"{i:05d}" * 1000 for i in range(50)])
    values = pa.DictionaryArray.from_arrays(np.arange(2 * ROWS, dtype=np.int32) % 50, different)
    return pa.ListArray.from_arrays(pa.array(np.arange(ROWS + 1, dtype=np.int32) * 2), values)


def write(path: Path, blob: pa.Array) -> None:
    """Few row groups. Dictionaries are made here, but the file's type is that of their values."""
    x = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(ROWS * K, np.float32)), K)
    table = pa.table({"x": x, "blob": blob})
    if path.suffix == ".arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=ROWS // 4)
        return
    pq.write_table(table, path, row_group_size=ROWS // 2, compression="zstd", store_schema=False)


@pytest.mark.parametrize(
    ("kind", "blob", "rows"),
    [
        ("parquet", floats, 512),
        ("arrow", floats, 512),
        ("parquet", texts, 512),
        ("parquet", texts, 4096),
        ("parquet", lists, 4096),
        ("arrow", texts, 4096),
    ],
)
def test_memory_stays_under_the_price(
    model: SmallModel, tmp_path: Path, kind: str, blob: Callable[[], pa.Array], rows: int
) -> None:
    """A large kept field in few row groups: read, gathered, encoded, in a fresh process."""
    path = tmp_path / f"a.{kind}"
    write(path, blob())
    dataset = Dataset.discover([str(path)])
    spec = model.spec(dataset, tmp_path / "out", batch_rows=rows, format=kind)
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_json()))
    done = subprocess.run(
        [sys.executable, scorer_jobs.__file__, tmp_path / "spec.json", path],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ready, peak = map(int, done.stdout.split())
    program = engine.compile(str(model.path))
    bound = price(dataset, program, spec.binding, engines=1, threads=1, batch_rows=rows)
    assert ready <= bound.interpreter + bound.weights + bound.session
    assert peak <= bound.engine
    assert peak - ready <= bound.reading + bound.outputs + bound.writing
