"""measure_choices(): every kernel that a node could have, timed on its own weights, on one core.

A program is chosen by the cost model, which is asked no more where a short timing settled a doubt
(engine/confirming.py). This says afterwards, of all kernels and on the machine at hand, where the
choice was wrong. Each kernel runs the whole product for one tile, again and again: its
weights come from the cache that they fit, as they do for the tiles of a group. The shortest time
counts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

from engine.columns import lower_all
from engine.compiler import POINTS
from engine.confirming import NOISE
from engine.dispatch import Choice
from engine.explanation import Explanation
from engine.kernels.building import address
from engine.kernels.peak import clock_ghz, peak_gflops
from engine.kernels.running import run_columns
from engine.ops.work import Linear
from engine.segments import Code
from engine.steps import Ending, linear_words
from engine.weights import Weights, aligned
from numa.affinity import staying_on

Array = np.ndarray[Any, Any]

BUDGET = 0.02
"""Seconds for one kernel on one matrix."""
SHORT_BUDGET = 0.002
"""The same, where several take turns."""
TURNS = 4
SHORTEST = 50e-6
"""Seconds between two looks at the clock, at least."""
MIN_TRIES = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """One kernel on one node's weights, for one tile."""

    node: str
    kernel: str
    chosen: bool
    microseconds: float
    predicted_microseconds: float
    """By the cost model, at the clock that was measured."""
    useful_gflops: float
    """Operations on weights that are not zero, in 10^9 a second."""
    predicted_gflops: float
    dense_gflops: float
    """As if every weight had been multiplied."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """All candidates of all nodes."""

    kernels: tuple[Measured, ...]
    points: int
    cpu: int
    peak_gflops: float
    """Of this core, multiply-adds on registers alone."""
    clock_ghz: float

    @property
    def wrong(self) -> tuple[tuple[Measured, Measured], ...]:
        """Chosen and fastest, where they differ by more than noise."""
        found = []
        for chosen in (m for m in self.kernels if m.chosen):
            others = (m for m in self.kernels if m.node == chosen.node)
            fastest = min(others, key=lambda m: m.microseconds)
            if chosen.microseconds > NOISE * fastest.microseconds:
                found.append((chosen, fastest))
        return tuple(found)

    def __str__(self) -> str:
        lines = [
            f"Measured on cpu {self.cpu}, tiles of {self.points} points, {self.clock_ghz:.2f} GHz, "
            f"peak {self.peak_gflops:.0f} GFLOP/s; * is chosen",
            f"  {'kernel':<22} {'us':>9} {'expected':>9} {'GFLOP/s':>8} {'expected':>9} "
            f"{'of peak':>8} {'as dense':>9}  node",
        ]
        lines += [f"{'*' if m.chosen else ' ':>2}{self._line(m)}" for m in self.kernels]
        lines += [
            f"  {chosen.node}: {fastest.kernel} is {chosen.microseconds / fastest.microseconds:.2f}"
            f" times as fast as {chosen.kernel}, which the cost model chose"
            for chosen, fastest in self.wrong
        ]
        if not self.wrong:
            lines.append("  the cost model chose the fastest kernel for every node")
        return "\n".join(lines)

    def _line(self, m: Measured) -> str:
        return (
            f"{m.kernel:<22} {m.microseconds:9.2f} {m.predicted_microseconds:9.2f} "
            f"{m.useful_gflops:8.1f} {m.predicted_gflops:9.1f} "
            f"{m.useful_gflops / self.peak_gflops:8.0%} {m.dense_gflops:9.1f}  {m.node}"
        )

    def to_json(self) -> dict[str, Any]:
        wrong = [{"node": c.node, "chosen": c.kernel, "fastest": f.kernel} for c, f in self.wrong]
        return asdict(self) | {"wrong": wrong}


def measure_choices(explanation: Explanation, cpu: int | None = None) -> Measurement:
    """Times every candidate that was not refused, on `cpu` or the first that may be used."""
    cpu = min(os.sched_getaffinity(0)) if cpu is None else cpu
    points = int(explanation.program.choices[POINTS])
    choices = {c.node: c for c in explanation.choices}
    found: list[Measured] = []
    with staying_on([cpu]):
        for item in lower_all(explanation.graph):
            if isinstance(item.work, Linear) and item.node.name in choices:
                found += _candidates(choices[item.node.name], item.work.weights, points)
        return Measurement(tuple(found), points, cpu, peak_gflops(), clock_ghz())


def _candidates(choice: Choice, weights: Array, points: int) -> list[Measured]:
    found = []
    for candidate in choice.candidates:
        if candidate.cycles is None:
            continue
        seconds = time_product(candidate.kernel, weights, points)
        predicted = candidate.cycles / clock_ghz() / 1e9
        useful = 2e-9 * np.count_nonzero(weights) * points
        found.append(
            Measured(
                node=choice.node,
                kernel=candidate.kernel,
                chosen=candidate.kernel == choice.kernel,
                microseconds=seconds * 1e6,
                predicted_microseconds=predicted * 1e6,
                useful_gflops=float(useful / seconds),
                predicted_gflops=float(useful / predicted) if predicted else 0.0,
                dense_gflops=2e-9 * weights.size * points / seconds,
            )
        )
    return found


def time_product(
    kernel: str, weights: Array, points: int, live: int = 0, budget: float = BUDGET
) -> float:
    """Seconds of `kernel` for W[M, K] and one tile, of which `live` points are rows, or all."""
    return _Product(kernel, weights, points, live or points).seconds(budget)


def time_in_turns(
    kernels: Sequence[str], weights: Array, points: int, budget: float = SHORT_BUDGET
) -> dict[str, float]:
    """Seconds of each kernel for W[M, K] and one tile, on one core."""
    return in_turns({k: _Product(k, weights, points, points).seconds for k in kernels}, budget)


def in_turns(
    timed: Mapping[str, Callable[[float], float]], budget: float, turns: int = TURNS
) -> dict[str, float]:
    """The shortest seconds of each, on one core; what is `timed` takes turns of `budget` seconds,
    so that a neighbour's burst slows none of them alone."""
    with staying_on([min(os.sched_getaffinity(0))]):
        rounds = [{name: run(budget) for name, run in timed.items()} for _ in range(turns)]
    return {name: min(times[name] for times in rounds) for name in timed}


class _Product:
    """A kernel with its weights packed, to be run on one tile of made-up points."""

    def __init__(self, kernel: str, weights: Array, points: int, live: int) -> None:
        outputs, inputs = weights.shape
        x = aligned((inputs + 3) * points * 4).view(np.float32)
        x[:] = np.random.default_rng(1).standard_normal(len(x))
        y = aligned((outputs + 3) * points * 4)
        bias, relu = np.zeros(outputs, np.float32), Ending(bounds=(0.0, np.inf))
        operands = linear_words(kernel, weights, bias, relu, points)
        self._kept = (x, y)
        """The step has their addresses, and those of weights on cache lines, as in a session."""
        self._weights = Weights()
        words = [address(kernel), x.ctypes.data, y.ctypes.data]
        words += [self._word(o) for o in operands]
        words += [y.ctypes.data]  # nothing is added
        self._step = np.array([words], np.int64)
        self._live = live

    def _word(self, operand: Array | Code | int) -> int:
        if isinstance(operand, Code):
            return address(operand.kernel)
        return self._weights.address(operand) if isinstance(operand, np.ndarray) else operand

    def seconds(self, budget: float) -> float:
        """The shortest time of one product, over some tries that take `budget` seconds."""
        return shortest(lambda count: call_seconds(self._step, self._live, count), budget)


def shortest(calls: Callable[[int], float], budget: float) -> float:
    """Seconds of one call, over some tries that take `budget` seconds; `calls` takes how many to
    make, and gives their seconds."""
    once = max(calls(1), 1e-9)
    count = max(1, math.ceil(SHORTEST / once))
    tries = max(MIN_TRIES, int(budget / (count * once)))
    return min(calls(count) for _ in range(tries)) / count


def call_seconds(steps: Array, live: int, count: int, arena: int = 0) -> float:
    """Seconds of `count` times all steps, int64[steps, words], in machine code: a column each."""
    stretch = np.array([1, 0, len(steps), live], np.int64)  # once for the whole of a column
    table = np.tile(np.array([0, live, 0, live], np.int64), (count, 1))
    held = np.array(
        [stretch.ctypes.data, 1, 0, 0, steps.ctypes.data, steps.strides[0], arena, 0, 1, 0],
        np.int64,
    )
    counter = np.zeros(1, np.int64)
    loop = run_columns()
    began = perf_counter()
    loop(counter.ctypes.data, count, table.ctypes.data, held.ctypes.data)
    return perf_counter() - began
