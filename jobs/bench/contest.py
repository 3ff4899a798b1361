"""Contenders take turns on the same cores, so that a machine that slows down slows all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from jobs.bench.spec import BenchSpec
from numa.affinity import staying_on


@dataclass(frozen=True, slots=True)
class Contender:
    """Someone who runs the batch again and again."""

    name: str
    cpus: tuple[int, ...]
    """Where it may run."""
    run: Callable[[], Any]
    """One batch."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Rows a second over the rounds."""

    contender: Contender
    median: float
    lowest: float
    highest: float


def contest(
    contenders: Sequence[Contender],
    pool: Iterable[int],
    rows: int,
    spec: BenchSpec,
    say: Callable[[str], None],
) -> tuple[Rates, ...]:
    """In every round each contender has one turn of at least `spec.seconds`, in the order given.

    Threads of sessions and of onnxruntime are pinned already. Those of `pool`, the calling one
    and numpy's, which fallback nodes use, go where the contender may run.
    """
    found: list[list[float]] = [[] for _ in contenders]
    for number in range(spec.rounds):
        for rates, contender in zip(found, contenders, strict=True):
            say(f"round {number + 1} of {spec.rounds}: {contender.name}, {cores(contender)}")
            with staying_on(contender.cpus, pool):
                rates.append(rows * _calls_a_second(contender.run, spec.seconds))
    return tuple(
        Rates(c, statistics.median(r), min(r), max(r))
        for c, r in zip(contenders, found, strict=True)
    )


def cores(contender: Contender) -> str:
    count = len(contender.cpus)
    return "1 core" if count == 1 else f"{count} cores"


def _calls_a_second(run: Callable[[], Any], seconds: float) -> float:
    """Over at least `seconds` and one call."""
    calls, start = 0, perf_counter()
    while not calls or perf_counter() - start < seconds:
        run()
        calls += 1
    return calls / (perf_counter() - start)
