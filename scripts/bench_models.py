"""Rows a second of engine.Session against onnxruntime, on the same cores, in the same run.

`python -m scripts.bench_models` prints a table; `--json` a list of rows. Each figure is the
median over rounds, and within a round the contenders take turns, so that a machine that slows
down slows all of them. Compile times and the first, warming run are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import engine
from scripts.make_models import SIZES, mlp

Array = np.ndarray[Any, Any]
Run = Callable[[], Array]

TOLERANCE = 1e-3
"""Of the largest output: how far two programs' float32 sums may lie apart."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians of one setting, in rows a second."""

    sparsity: float
    batch: int
    cores: int
    colonnade: float
    onnxruntime: float
    rounds: int

    @property
    def ratio(self) -> float:
        return self.colonnade / self.onnxruntime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 1024], help="rows a run")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn in a round")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    if max(args.cores) > len(cpus):
        parser.error(f"expected at most {len(cpus)} cores, the ones this process may use")
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for sparsity in args.sparsity:
            path = Path(folder) / f"mlp-{sparsity}.onnx"
            onnx.save(mlp(SIZES, sparsity), path)
            for cores in args.cores:
                figures += measure(path, sparsity, cpus[:cores], args)
                if not args.json:
                    print_table(figures, header=len(figures) == len(args.batch), last=args.batch)
    if args.json:
        print(json.dumps([{**asdict(f), "ratio": f.ratio} for f in figures], indent=2))
    elif {1, 2} <= set(args.cores):
        print_scaling(figures)


def measure(path: Path, sparsity: float, cpus: list[int], args: argparse.Namespace) -> list[Figure]:
    """One Figure for each batch size. Both contenders stay loaded, so memory is warm for both."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)  # onnxruntime's threads inherit it; ours pin themselves
    try:
        with engine.Session(engine.compile(path), cpus=cpus) as ours:
            theirs = onnxruntime_session(path, len(cpus))
            figures = []
            for batch in args.batch:
                x = np.random.default_rng(1).standard_normal((batch, SIZES[0]), np.float32)
                runs: dict[str, Run] = {
                    "colonnade": partial(lambda x: ours.run({"x": x})["y"], x),
                    "onnxruntime": partial(lambda x: theirs.run(["y"], {"x": x})[0], x),
                }
                check_agreement(*(run() for run in runs.values()))
                rates = {name: [0.0] * args.rounds for name in runs}
                for number in range(args.rounds):
                    for name, run in runs.items():
                        rates[name][number] = batch * calls_a_second(run, args.seconds)
                medians = {name: statistics.median(r) for name, r in rates.items()}
                figures.append(Figure(sparsity, batch, len(cpus), **medians, rounds=args.rounds))
            return figures
    finally:
        os.sched_setaffinity(0, allowed)


def onnxruntime_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check_agreement(ours: Array, theirs: Array) -> None:
    """A bench of a wrong result is worth nothing."""
    gap = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not gap <= TOLERANCE:
        raise SystemExit(f"outputs differ by {gap:.2g} of the largest; expected {TOLERANCE}")


def calls_a_second(run: Run, seconds: float) -> float:
    """Over at least `seconds` and two calls."""
    calls, start = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < seconds:
        run()
        calls += 1
    return calls / (time.perf_counter() - start)


def print_table(figures: list[Figure], *, header: bool, last: list[int]) -> None:
    if header:
        print("sparsity  batch  cores  colonnade rows/s  onnxruntime rows/s  ratio")
    for f in figures[-len(last) :]:
        print(
            f"{f.sparsity:8.2f} {f.batch:6d} {f.cores:6d} {f.colonnade:17,.0f} "
            f"{f.onnxruntime:19,.0f} {f.ratio:6.2f}",
            flush=True,
        )


def print_scaling(figures: list[Figure]) -> None:
    """Two cores over one, for each setting."""
    rows = {(f.sparsity, f.batch, f.cores): f.colonnade for f in figures}
    for (sparsity, batch, cores), one in rows.items():
        if cores == 1:
            two = rows[sparsity, batch, 2]
            print(f"two cores over one, sparsity {sparsity:.2f}, batch {batch}: {two / one:.2f}")


if __name__ == "__main__":
    main()
