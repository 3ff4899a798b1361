"""What a job makes of its cores, once it runs: against the engine alone, one scorer, and Ray.

`python -m scripts.bench_scaling` takes dataset and MLP of scripts/bench_job.py and runs, in turn,
the engine alone (one session on all cores, one batch again and again, nothing read or written),
`colonnade run` with one scorer of one core, with one a core, and the same through Ray. A job runs
from the time when a tenth of its rows are committed until nine tenths are: start and end are left
out, whatever they take. Prints medians and the ratios that matter. `--input` says how the dataset
is compressed (zstd, as in the other benches; `none` shows what is left without decompression).
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
from pathlib import Path

import numpy as np
import onnx

import engine
from scripts.bench_job import ROOT, dataset, say, warm
from scripts.models.mlp import SIZES, mlp

BATCH_ROWS = 4096
CORES = sorted(os.sched_getaffinity(0))

JOBS: dict[str, tuple[str, ...]] = {
    "one scorer": ("--engines", "1"),
    "a scorer a core": ("--engines", str(len(CORES))),
    "the same, Ray": ("--engines", str(len(CORES)), "--executor", "ray"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--input", default="zstd", help="compression of the dataset")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--sparsity", type=float, default=0.9)
    args = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "colonnade-bench"
    named = "" if args.input == "zstd" else f"-{args.input}"
    data = dataset(folder / f"rows-{args.rows}{named}", args.rows, args.input)
    model = folder / f"mlp-{args.sparsity}.onnx"
    onnx.save(mlp(SIZES, args.sparsity), model)
    warm(data)

    jobs = {name: words for name, words in JOBS.items() if not (args.no_ray and "ray" in words)}
    rates: dict[str, list[float]] = {name: [] for name in ("engine alone", *jobs)}
    for number in range(args.repeats):
        rates["engine alone"].append(alone(model))
        for name, options in jobs.items():
            rates[name].append(running(model, data, folder / "out-scaling", options))
        said = ", ".join(f"{name} {found[-1]:,.0f}" for name, found in rates.items())
        say(f"round {number + 1}, rows/s: {said}")
    shutil.rmtree(folder / "out-scaling")
    middle = {name: statistics.median(found) for name, found in rates.items()}
    for name, rate in middle.items():
        print(f"{name:16} {rate:9,.0f} rows/s")
    both = middle["a scorer a core"]
    print(f"job / engine alone: {both / middle['engine alone']:.2f}")
    print(f"{len(CORES)} scorers / one: {both / middle['one scorer']:.2f}")
    if not args.no_ray:
        print(f"Ray / local: {middle['the same, Ray'] / both:.2f}")


def alone(model: Path, seconds: float = 3.0) -> float:
    """Rows a second of one session on all cores."""
    x = np.random.default_rng(0).standard_normal((BATCH_ROWS, SIZES[0]), np.float32)
    with engine.Session(engine.compile(str(model)), cpus=CORES) as session:
        session.run({"x": x})
        began, rows = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            session.run({"x": x})
            rows += len(x)
        return rows / (time.perf_counter() - began)


def running(model: Path, data: Path, output: Path, options: tuple[str, ...]) -> float:
    """Rows a second of a job between its first and its last tenth."""
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, "-m", "jobs.cli", "run", "--model", str(model), "--input", str(data)]
    words += ["--output", str(output), "--threads", "1", "--progress", "json", *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    times: list[tuple[float, int]] = []
    rows = 0
    with subprocess.Popen(
        words, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "PartCommitted":
                rows += event["rows_in"]
                times.append((time.perf_counter(), rows))
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}")
    inner = [(at, done) for at, done in times if 0.1 * rows <= done <= 0.9 * rows]
    return (inner[-1][1] - inner[0][1]) / (inner[-1][0] - inner[0][0])


if __name__ == "__main__":
    main()
