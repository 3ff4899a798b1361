"""A whole job, from the start of the process to _SUCCESS, against what one would write instead.

`python -m scripts.bench_job [--ray-data]` makes a dataset of 100,000 rows x 1,024 float32 (zstd
Parquet, 8 files, 5 row groups each) and the MLP of scripts/make_models.py, once; then it runs
`colonnade run`, a plain pyarrow + onnxruntime loop and, if asked, Ray Data, in turn, several
times, and prints medians. The first round also checks that all of them computed the same.
Peak memory is the sum of the resident sizes of the processes, sampled four times a second;
pages that processes share are counted in each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from scripts.models.mlp import SIZES, mlp

ROOT = Path(__file__).resolve().parent.parent
FILES, GROUPS = 8, 5
TOLERANCE = 1e-3
"""Of the largest output: how far two programs' float32 sums may lie apart."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One contender: medians over the rounds."""

    name: str
    seconds: float
    rows_a_second: float
    peak_mb: float
    """Megabytes (10^6 bytes), the largest over the rounds."""
    all_seconds: tuple[float, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument(
        "--ray-data", action="store_true", help="run Ray Data, too (needs the extra `bench`)"
    )
    parser.add_argument("--folder", type=Path, help="for data and outputs (default: temporary)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.gettempdir()) / "colonnade-bench"
    data = dataset(folder / f"rows-{args.rows}", args.rows)
    model = folder / f"mlp-{args.sparsity}.onnx"
    onnx.save(mlp(SIZES, args.sparsity), model)
    warm(data)

    names = ["colonnade", "plain", *(["ray-data"] if args.ray_data else [])]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[int]] = {name: [] for name in names}
    for number in range(args.repeats):
        for name in names:
            output = folder / "out" / name
            shutil.rmtree(output, ignore_errors=True)
            taken, peak = run(command(name, model, data, output, args.engines))
            seconds[name].append(taken)
            peaks[name].append(peak)
            say(f"round {number + 1}, {name}: {taken:.1f} s, {args.rows / taken:,.0f} rows/s")
        if number == 0:
            check_agreement([folder / "out" / name for name in names], args.rows)
    shutil.rmtree(folder / "out")
    report([summary(n, args.rows, seconds[n], peaks[n]) for n in names], as_json=args.json)


def dataset(folder: Path, rows: int, compression: str = "zstd") -> Path:
    """Parquet files of id int64 and x fixed_size_list<float>[1024], made if not there."""
    if (folder / "_made").exists():
        return folder
    say(f"making {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    bounds = np.linspace(0, rows, FILES + 1).astype(int)
    for number in range(FILES):
        ids = np.arange(bounds[number], bounds[number + 1])
        values = random.standard_normal((len(ids), SIZES[0]), np.float32)
        x = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), SIZES[0])
        pq.write_table(
            pa.table({"id": ids, "x": x}),
            folder / f"rows-{number}.parquet",
            row_group_size=max(1, -(-len(ids) // GROUPS)),
            compression=compression,
            use_dictionary=False,
        )
    (folder / "_made").touch()
    return folder


def warm(folder: Path) -> None:
    """Into the page cache, so that the first contender does not pay the disk for all."""
    for path in folder.glob("*.parquet"):
        path.read_bytes()


def command(name: str, model: Path, data: Path, output: Path, engines: int) -> list[str]:
    if name == "colonnade":
        start = [sys.executable, "-c", "from jobs.cli import main; main()", "run"]
        start += ["--model", str(model), "--input", str(data), "--output", str(output)]
        return [*start, "--executor", "local", "--engines", str(engines), "--progress", "none"]
    start = [sys.executable, "-m", "scripts.rivals", name, str(model), str(data), str(output)]
    return [*start, "--engines", str(engines)]


def run(words: list[str]) -> tuple[float, int]:
    """Seconds from start to exit, and the peak of resident bytes over the process tree."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log)
        peak = 0
        while True:
            peak = max(peak, resident(process.pid))
            try:
                code = process.wait(0.25)
            except subprocess.TimeoutExpired:
                continue
            break
        taken = time.perf_counter() - start
        if code:
            log.seek(0)
            tail = log.read().decode(errors="replace")[-4000:]
            raise SystemExit(f"{' '.join(words)}: exit code {code}\n{tail}")
    return taken, peak


def resident(pid: int) -> int:
    """Bytes that a process and those below it hold in memory now."""
    total = 0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def check_agreement(outputs: list[Path], rows: int) -> None:
    """Every contender wrote every id once, with the first one's values."""
    first: np.ndarray[Any, Any] | None = None
    for output in outputs:
        table = ds.dataset(output, format="parquet").to_table(["id", "y"]).sort_by("id")
        if not np.array_equal(table["id"].to_numpy(), np.arange(rows)):
            raise SystemExit(f"{output}: expected {rows:,} ids once each, got {len(table):,} rows")
        y = table["y"].combine_chunks().flatten().to_numpy().reshape(rows, -1)
        first = y if first is None else first
        gap = float(np.abs(y - first).max() / np.abs(first).max())
        if not gap <= TOLERANCE:
            raise SystemExit(f"{output}: differs by {gap:.2g} of the largest from {outputs[0]}")


def summary(name: str, rows: int, seconds: list[float], peaks: list[int]) -> Figure:
    middle = statistics.median(seconds)
    return Figure(name, middle, rows / middle, max(peaks) / 1e6, tuple(seconds))


def report(figures: list[Figure], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(f) for f in figures], indent=2))
        return
    ours = figures[0]
    print(f"{'':10} {'seconds':>8} {'rows/s':>9} {'peak MB':>8}  {ours.name}'s speed over it")
    for f in figures:
        ratio = f.seconds / ours.seconds
        print(
            f"{f.name:10} {f.seconds:8.1f} {f.rows_a_second:9,.0f} {f.peak_mb:8,.0f}  {ratio:.2f}"
        )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
