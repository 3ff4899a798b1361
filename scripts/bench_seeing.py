"""What it costs to watch a job: its history, its report and its metrics.

`python -m scripts.bench_seeing` runs the job of scripts/bench_job.py in this process, with a report
and a metrics file, and takes the CPU time of each call that is there for either. Two jobs, one with
and one without, differ by more than that from run to run. What scorers take beside it is a look
at the clock around each batch, in every job.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from jobs import metrics, run
from jobs.driver import Driver
from jobs.report.history import History
from jobs.resolving import resolve
from scripts.bench_job import dataset, warm
from scripts.models.mlp import SIZES, mlp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    args = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "colonnade-bench"
    data = dataset(folder / f"rows-{args.rows}", args.rows)
    warm(data)
    model, output = folder / "mlp-0.9.onnx", folder / "out-seeing"
    onnx.save(mlp(SIZES, 0.9), model)
    shutil.rmtree(output, ignore_errors=True)
    calls: dict[str, list[float]] = {}
    timed(History, "add", "history", calls)
    timed(metrics.Meter, "show", "metrics", calls)
    timed(metrics.Meter, "close", "metrics", calls)
    timed(metrics, "make", "metrics", calls)
    timed(Driver, "_report", "report", calls)  # with its imports
    spec = resolve(
        {
            "model": str(model), "input": (str(data),), "output": str(output),
            "progress": "none", "metrics": str(folder / "metrics.prom"),
        }
    )  # fmt: skip
    began = time.perf_counter()
    code = run.score(spec)
    seconds = time.perf_counter() - began
    size = (output / "_report.html").stat().st_size
    print(f"job of {args.rows:,} rows: {seconds:.2f} s, exit code {code}, report of {size:,} bytes")
    total = 0.0
    for what, times in calls.items():
        total += sum(times)
        print(f"{what:8} {len(times):6,} calls {1e3 * sum(times):8.2f} ms")
    print(f"together {total / seconds:.2%} of the job's time")


def timed(owner: Any, name: str, what: str, calls: dict[str, list[float]]) -> None:
    """Every call of owner.name counts for `what`, in CPU seconds of its thread."""
    plain: Callable[..., Any] = getattr(owner, name)

    def call(*given: Any, **more: Any) -> Any:
        began = time.thread_time()
        try:
            return plain(*given, **more)
        finally:
            calls.setdefault(what, []).append(time.thread_time() - began)

    setattr(owner, name, call)


if __name__ == "__main__":
    main()
