"""Every linear kernel over shapes and sparsities, as a fraction of the core's multiply-add peak.

`python -m scripts.bench_kernels` prints, for one core and one column of T points, GFLOP/s of
useful work (non-zeros only) and dense-equivalent GFLOP/s (as if nothing were zero), with the
fraction of the peak that the same run measured with multiply-adds on registers alone. What
engine/dispatch.py predicts stands beside what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.dispatch import choose
from engine.kernels.peak import clock_ghz, peak_gflops
from engine.kernels.table import kernels_of, points_of_tile
from engine.measuring import time_product
from engine.sparsity import measure

Array = np.ndarray[Any, Any]
POINTS = points_of_tile()
SHAPES = ("768x768", "1024x1024", "2048x2048", "3072x768", "768x3072", "512x784")


@dataclass(frozen=True, slots=True)
class Figure:
    """One kernel on one matrix, the shortest time."""

    kernel: str
    outputs: int
    inputs: int
    sparsity: float
    points: int
    useful_gflops: float
    dense_gflops: float
    of_peak: float
    """Useful GFLOP/s over the measured peak, 0..1."""
    microseconds: float
    predicted_microseconds: float
    """By the cost model, at the clock that was measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", default=SHAPES, help="outputs x inputs")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.0, 0.8, 0.9, 0.95])
    parser.add_argument("--points", type=int, nargs="+", default=[POINTS], help="live, 1..T")
    parser.add_argument("--rows", type=int, default=1, help="outputs pruned together: 4 is 4x1")
    parser.add_argument("--budget", type=float, default=0.1, help="seconds for each")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    peak = peak_gflops()
    if not args.json:
        print(
            f"peak of this core, multiply-adds on registers: {peak:.1f} GFLOP/s; "
            f"clock: {clock_ghz():.2f} GHz"
        )
        print(f"{'kernel':<22} {'shape':>10} zeros pts  useful   dense  peak       us  predicted")
    figures = []
    for text in args.shape:
        outputs, inputs = (int(n) for n in text.split("x"))
        for sparsity in args.sparsity:
            for points in args.points:
                for kernel in kernels_of("linear", POINTS):
                    weights = pruned(outputs, inputs, sparsity, args.rows)
                    figure = run(kernel.name, weights, sparsity, points, peak, args.budget)
                    figures.append(figure)
                    if not args.json:
                        print(line(figure), flush=True)
    if args.json:
        print(json.dumps({"peak_gflops": peak, "figures": [asdict(f) for f in figures]}, indent=2))


def pruned(outputs: int, inputs: int, sparsity: float, rows: int) -> Array:
    """Seeded random W[M, K] with zeros drawn for blocks of `rows` outputs by one input."""
    rng = np.random.default_rng(0)
    keep = np.repeat(rng.random((-(-outputs // rows), inputs)) >= sparsity, rows, axis=0)
    return (rng.standard_normal((outputs, inputs)) * keep[:outputs]).astype(np.float32)


def run(
    kernel: str, weights: Array, sparsity: float, points: int, peak: float, budget: float
) -> Figure:
    """Times one kernel: the shortest of as many tries as `budget` seconds have room for."""
    seconds = time_product(kernel, weights, POINTS, points, budget)
    useful = 2 * np.count_nonzero(weights) * points / seconds / 1e9
    predicted = {c.kernel: c.cycles for c in choose("", measure(weights), POINTS).candidates}
    outputs, inputs = weights.shape
    return Figure(
        kernel=kernel,
        outputs=outputs,
        inputs=inputs,
        sparsity=sparsity,
        points=points,
        useful_gflops=float(useful),
        dense_gflops=2 * weights.size * points / seconds / 1e9,
        of_peak=useful / peak,
        microseconds=seconds * 1e6,
        predicted_microseconds=(predicted[kernel] or 0.0) / clock_ghz() / 1e3,
    )


def line(f: Figure) -> str:
    return (
        f"{f.kernel:<22} {f.outputs:>5}x{f.inputs:<4} {f.sparsity:5.0%} {f.points:3d} "
        f"{f.useful_gflops:7.1f} {f.dense_gflops:7.1f} {f.of_peak:5.0%} {f.microseconds:8.1f} "
        f"{f.predicted_microseconds:10.1f}"
    )


if __name__ == "__main__":
    main()
