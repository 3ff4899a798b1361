"""Every linear kernel over shapes and sparsities, as a fraction of the core's multiply-add peak.

`python -m scripts.bench_kernels` prints, for one core and one column of T points, GFLOP/s of
useful work (non-zeros only) and dense-equivalent GFLOP/s (as if nothing were zero), with the
fraction of the peak that the same run measured with multiply-adds on registers alone. The cycles
that engine/dispatch.py predicts stand beside what was measured.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numba import njit

from engine.columns import linear_words
from engine.dispatch import choose
from engine.kernels.building import address, compiled
from engine.kernels.table import POINTS, kernels_of
from engine.kernels.vector import fma, like, store, zeros
from engine.ops.work import Linear
from engine.session import aligned
from engine.sparsity import measure

Array = np.ndarray[Any, Any]
SHAPES = ("768x768", "1024x1024", "2048x2048", "3072x768", "768x3072", "512x784")
CHAINS = 10
"""Independent accumulators of the peak loop: more than latency times throughput, 4 x 2."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One kernel on one matrix, median over repeats."""

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
    predicted_kcycles: float


@njit(nogil=True, fastmath=False)
def _peak_loop(count):
    """`count` rounds of CHAINS multiply-adds on 8 floats each, in registers."""
    x = zeros(8)
    m = like(x, np.float32(0.999))
    a, b, c, d, e, f, g, h, i, j = x, x, x, x, x, x, x, x, x, x
    for _ in range(count):
        a, b, c, d, e = fma(a, m, m), fma(b, m, m), fma(c, m, m), fma(d, m, m), fma(e, m, m)
        f, g, h, i, j = fma(f, m, m), fma(g, m, m), fma(h, m, m), fma(i, m, m), fma(j, m, m)
    return _sum(a + b + c + d + e + f + g + h + i + j)


@njit(nogil=True)
def _sum(x):
    """Keeps the loop alive: what nobody reads is not computed."""
    from_vector = np.zeros(8, np.float32)
    store(from_vector.ctypes.data, x)
    return from_vector.sum()


def peak_gflops() -> float:
    """Multiply-adds on registers, best of several tries."""
    count = 3_000_000
    _peak_loop(10)
    best = 0.0
    for _ in range(7):
        start = time.perf_counter()
        _peak_loop(count)
        best = max(best, count * CHAINS * 8 * 2 / (time.perf_counter() - start) / 1e9)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", default=SHAPES, help="outputs x inputs")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.0, 0.8, 0.9, 0.95])
    parser.add_argument("--points", type=int, nargs="+", default=[POINTS], help="live, 1..T")
    parser.add_argument("--rows", type=int, default=1, help="outputs pruned together: 4 is 4x1")
    parser.add_argument("--repeats", type=int, default=51)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    peak = peak_gflops()
    if not args.json:
        print(f"peak of this core, multiply-adds on registers: {peak:.1f} GFLOP/s")
        print(f"{'kernel':<22} {'shape':>10} zeros pts  useful   dense  peak       us  predicted")
    figures = []
    for text in args.shape:
        outputs, inputs = (int(n) for n in text.split("x"))
        for sparsity in args.sparsity:
            for points in args.points:
                for kernel in kernels_of("linear"):
                    weights = pruned(outputs, inputs, sparsity, args.rows)
                    figure = run(kernel.name, weights, sparsity, points, peak, args.repeats)
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
    kernel: str, weights: Array, sparsity: float, points: int, peak: float, repeats: int
) -> Figure:
    """Times one kernel; ten calls a timing."""
    rng = np.random.default_rng(1)
    outputs, inputs = weights.shape
    work = Linear("x", "y", weights, np.zeros(outputs, np.float32), (("Relu", 0.0, 0.0),))
    x = aligned((inputs + 3) * POINTS * 4).view(np.float32)
    x[:] = rng.standard_normal(len(x))
    y = aligned((outputs + 3) * POINTS * 4)
    operands = (x, y, *linear_words(kernel, work, (0.0, np.inf)))
    words = [o if isinstance(o, int) else o.ctypes.data for o in operands]
    step = np.array([address(kernel), *words], np.int64)
    call = compiled(kernel).ctypes
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(10):
            call(step.ctypes.data, 0, 0, points, 0)
        times.append((time.perf_counter() - start) / 10)
    seconds = statistics.median(times)
    useful = 2 * np.count_nonzero(weights) * points / seconds / 1e9
    predicted = {c.kernel: c.cycles for c in choose("", measure(weights), POINTS).candidates}
    return Figure(
        kernel=kernel,
        outputs=outputs,
        inputs=inputs,
        sparsity=sparsity,
        points=points,
        useful_gflops=useful,
        dense_gflops=2 * weights.size * points / seconds / 1e9,
        of_peak=useful / peak,
        microseconds=seconds * 1e6,
        predicted_kcycles=(predicted[kernel] or 0.0) / 1e3,
    )


def line(f: Figure) -> str:
    return (
        f"{f.kernel:<22} {f.outputs:>5}x{f.inputs:<4} {f.sparsity:5.0%} {f.points:3d} "
        f"{f.useful_gflops:7.1f} {f.dense_gflops:7.1f} {f.of_peak:5.0%} {f.microseconds:8.1f} "
        f"{f.predicted_kcycles:8.1f} kcycles"
    )


if __name__ == "__main__":
    main()
