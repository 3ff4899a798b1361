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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
    scaling: float
    """Colonnade's speed over its own with the first number of cores asked for."""
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
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for sparsity in args.sparsity:
            path = Path(folder) / f"mlp-{sparsity}.onnx"
            onnx.save(mlp(SIZES, sparsity), path)
            for batch in args.batch:
                found = measure(path, sparsity, batch, cpus, args)
                if not args.json:
                    print_table(found, header=not figures)
                figures += found
    if args.json:
        print(json.dumps([{**asdict(f), "ratio": f.ratio} for f in figures], indent=2))


def measure(
    path: Path, sparsity: float, batch: int, cpus: list[int], args: argparse.Namespace
) -> list[Figure]:
    """A Figure for each number of cores; in a round everyone has a turn with every number."""
    x = np.random.default_rng(1).standard_normal((batch, SIZES[0]), np.float32)
    program = engine.compile(path)
    rates: dict[tuple[int, str], list[float]] = {}
    with ExitStack() as sessions:
        runs: dict[tuple[int, str], Run] = {}
        for cores in args.cores:
            with on(cpus[:cores]):  # onnxruntime's threads inherit it; ours pin themselves
                ours = sessions.enter_context(engine.Session(program, cpus=cpus[:cores]))
                theirs = onnxruntime_session(path, cores)
            runs[cores, "colonnade"] = partial(lambda s: s.run({"x": x})["y"], ours)
            runs[cores, "onnxruntime"] = partial(lambda s: s.run(["y"], {"x": x})[0], theirs)
            check_agreement(runs[cores, "colonnade"](), runs[cores, "onnxruntime"]())
        for _ in range(args.rounds):
            for key, run in runs.items():
                with on(cpus[: key[0]]):
                    rate = batch * calls_a_second(run, args.seconds)
                rates.setdefault(key, []).append(rate)
    medians = {key: statistics.median(values) for key, values in rates.items()}
    return [
        Figure(
            sparsity,
            batch,
            cores,
            medians[cores, "colonnade"],
            medians[cores, "onnxruntime"],
            medians[cores, "colonnade"] / medians[args.cores[0], "colonnade"],
            args.rounds,
        )
        for cores in args.cores
    ]


@contextmanager
def on(cpus: list[int]) -> Iterator[None]:
    """This thread on these CPUs, and threads made meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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


def print_table(figures: list[Figure], *, header: bool) -> None:
    if header:
        print("sparsity  batch  cores  colonnade rows/s  onnxruntime rows/s  ratio  scaling")
    for f in figures:
        print(
            f"{f.sparsity:8.2f} {f.batch:6d} {f.cores:6d} {f.colonnade:17,.0f} "
            f"{f.onnxruntime:19,.0f} {f.ratio:6.2f} {f.scaling:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
