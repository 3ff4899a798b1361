"""What a job makes of its cores, once it runs: against the engine alone, one scorer, and Ray.

`python -m scripts.bench_scaling` takes dataset and MLP of scripts/bench_job.py and runs, in turn,
the engine alone (one session on all cores, one batch again and again, nothing read or written),
`colonnade run` with one scorer of one core, with one of all cores (which is what a NUMA node gets
unless told otherwise), with one a core, and the same through Ray. A job runs from the time when a
tenth of its rows are committed until nine tenths are: start and end are left out, whatever they
take. Prints medians, and the ratios that matter: the median of those of each round, whose
contenders ran one after the other, and behind it the least and the largest.
`--input` says how the dataset is compressed: zstd, as in the other benches; snappy, which is what
pyarrow and Spark write unless told otherwise; `none` shows what is left without decompression.

Where others use the machine, rates cannot be compared, but CPU can, nearly: beside each rate stand
the microseconds of CPU that all processes of the job together take for a row, Ray's own included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import psutil

import engine
from scripts.bench_job import ROOT, dataset, say, warm
from scripts.models.mlp import SIZES, mlp

BATCH_ROWS = 4096
CORES = sorted(os.sched_getaffinity(0))

JOBS: dict[str, tuple[str, ...]] = {
    "one scorer": ("--engines", "1", "--threads", "1"),
    "one of all cores": ("--engines", "1", "--threads", str(len(CORES))),
    "a scorer a core": ("--engines", str(len(CORES)), "--threads", "1"),
    "the same, Ray": ("--engines", str(len(CORES)), "--threads", "1", "--executor", "ray"),
}


@dataclass(frozen=True, slots=True)
class Rate:
    rows_a_second: float
    cpu_a_row: float
    """Microseconds."""

    def __str__(self) -> str:
        return f"{self.rows_a_second:,.0f} ({self.cpu_a_row:.1f} µs)"


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
    rates: dict[str, list[Rate]] = {name: [] for name in ("engine alone", *jobs)}
    for number in range(args.repeats):
        for name, options in jobs.items():
            if name == "one of all cores":  # beside what it is compared with
                rates["engine alone"].append(alone(model))
            rates[name].append(running(model, data, folder / "out-scaling", options))
        said = ", ".join(f"{name} {found[-1]}" for name, found in rates.items())
        say(f"round {number + 1}, rows/s: {said}")
    shutil.rmtree(folder / "out-scaling")
    report(rates)


def middle(rates: list[Rate]) -> Rate:
    return Rate(
        statistics.median(rate.rows_a_second for rate in rates),
        statistics.median(rate.cpu_a_row for rate in rates),
    )


def report(rates: dict[str, list[Rate]]) -> None:
    for name, found in rates.items():
        rate = middle(found)
        print(f"{name:16} {rate.rows_a_second:9,.0f} rows/s {rate.cpu_a_row:7.1f} µs of CPU a row")
    print(f"{'':32} by the clock       by CPU")
    for first, second in (
        ("one of all cores", "engine alone"),
        ("a scorer a core", "engine alone"),
        ("a scorer a core", "one scorer"),
        ("the same, Ray", "a scorer a core"),
    ):
        if first in rates:
            rounds = list(zip(rates[first], rates[second], strict=True))
            clock = spread([a.rows_a_second / b.rows_a_second for a, b in rounds])
            cpu = spread([b.cpu_a_row / a.cpu_a_row for a, b in rounds])
            print(f"{f'{first} / {second}':32} {clock:18} {cpu}")


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def alone(model: Path, seconds: float = 6.0) -> Rate:
    """One session on all cores."""
    x = np.random.default_rng(0).standard_normal((BATCH_ROWS, SIZES[0]), np.float32)
    with engine.Session(engine.compile(str(model)), cpus=CORES) as session:
        session.run({"x": x})
        began, cpu, rows = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds:
            session.run({"x": x})
            rows += len(x)
        spent = time.process_time() - cpu
        return Rate(rows / (time.perf_counter() - began), spent / rows * 1e6)


def running(model: Path, data: Path, output: Path, options: tuple[str, ...]) -> Rate:
    """A job between its first and its last tenth."""
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, "-m", "jobs.cli", "run", "--model", str(model), "--input", str(data)]
    words += ["--output", str(output), "--progress", "json", *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    seen: list[tuple[int, float, float]] = []
    rows = 0
    with subprocess.Popen(
        words, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "PartCommitted":
                rows += event["rows_in"]
                seen.append((rows, time.perf_counter(), cpu_of(process.pid)))
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}")
    inner = [one for one in seen if 0.1 * rows <= one[0] <= 0.9 * rows]
    done, seconds, cpu = (last - first for first, last in zip(inner[0], inner[-1], strict=True))
    return Rate(done / seconds, cpu / done * 1e6)


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process and all that live below it have taken."""
    total = 0.0
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


if __name__ == "__main__":
    main()
