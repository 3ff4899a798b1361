"""A small job for tests of whole runs: a model, a dataset, the command, and its oracle.

Three files of four row groups make twelve shards of 40 to 60 rows. The model is an MLP of 8
inputs and 4 outputs, its oracle three lines of numpy.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
GROUPS = (40, 60, 50, 50)
"""Rows of the row groups of each file."""
FILES = 3
ROWS = FILES * sum(GROUPS)
SHARDS = FILES * len(GROUPS)
TIMEOUT = 280
"""Seconds that a run may take on a busy machine; ten when idle."""
PROMPT = 100
"""Seconds that an end may take on a busy machine: two when idle, and far from any stall limit."""


@dataclass(frozen=True)
class Source:
    """Where model and data lie, and what must come out."""

    model: Path
    data: Path
    expected: np.ndarray[Any, Any]
    """y[ROWS, 4], by id."""


def write(folder: Path) -> Source:
    rng = np.random.default_rng(5)
    w1 = rng.normal(size=(8, 16)).astype(np.float32) * (rng.random((8, 16)) < 0.3)
    w2 = rng.normal(size=(16, 4)).astype(np.float32)
    model = folder / "small.onnx"
    write_model(model, w1.astype(np.float32), w2)
    x = rng.normal(size=(ROWS, 8)).astype(np.float32)
    data = folder / "data"
    data.mkdir()
    for number in range(FILES):
        first = number * sum(GROUPS)
        write_file(data / f"in-{number}.parquet", np.arange(first, first + sum(GROUPS)), x)
    return Source(model, data, np.maximum(x @ w1, 0) @ w2)


def write_model(path: Path, w1: np.ndarray[Any, Any], w2: np.ndarray[Any, Any]) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", w1.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", w2.shape[1]])],
        [numpy_helper.from_array(w1, "w1"), numpy_helper.from_array(w2, "w2")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )


def write_file(path: Path, ids: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> None:
    values = pa.FixedSizeListArray.from_arrays(pa.array(x[ids].ravel()), 8)
    table = pa.table({"id": ids, "x": values, "label": ids % 7})
    writer = pq.ParquetWriter(path, table.schema)
    first = 0
    for rows in GROUPS:
        writer.write_table(table.slice(first, rows))
        first += rows
    writer.close()


def words(source: Source, output: Path, *more: str) -> list[str]:
    """Arguments of a run; one engine of one thread keeps a test's run short."""
    return [
        "run", "--model", str(source.model), "--input", str(source.data),
        "--output", str(output), "--engines", "1", "--threads", "1", "--progress", "json", *more,
    ]  # fmt: skip


@contextlib.contextmanager
def popen(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The command in a process that does not outlive the block, even when a test fails."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *arguments],
        cwd=ROOT, env={**os.environ, **(env or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events of that name, as --progress json printed them."""
        lines = [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]

    @property
    def lent(self) -> list[int]:
        return [event["lease"]["shard"]["index"] for event in self.events("ShardLent")]


def colonnade(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
    with popen(*arguments, env=env) as process:
        return finish(process)


def finish(process: subprocess.Popen[str]) -> Result:
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    return Result(process.returncode, stdout, stderr)


def journal(output: Path) -> list[int]:
    """Shards in the journal, in the order of their commits."""
    path = output / "_colonnade" / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    plain = [json.loads(line) for line in lines]
    return [line["shard"] for line in plain if "shard" in line]


def finals(output: Path) -> set[int]:
    """Shards whose part stands under its final name."""
    return {int(path.stem.removeprefix("part-")) for path in output.glob("part-*")}


def read_parts(output: Path) -> pa.Table:
    parts = sorted(output.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])


def check_exactly_once(source: Source, output: Path) -> None:
    """Every row once, in the input's order, with the oracle's values; all is counted and closed."""
    table = read_parts(output)
    ids = table["id"].to_numpy()
    assert Counter(ids) == Counter(range(ROWS))
    assert list(ids) == list(range(ROWS)), "parts in the order of their names are in order"
    y = table["y"].combine_chunks().flatten().to_numpy().reshape(ROWS, 4)
    np.testing.assert_allclose(y, source.expected, atol=1e-4, rtol=1e-4)
    assert (output / "_SUCCESS").exists() and (output / "_manifest.json").exists()
    assert sorted(journal(output)) == list(range(SHARDS)), "one line a shard in the journal"
    temporaries = list((output / "_colonnade" / "tmp").glob("*"))
    assert not temporaries, f"left behind: {temporaries}"
