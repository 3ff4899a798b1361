"""A choice of kernel that the cost model is not sure of, confirmed by a short timing.

Where two kernels are predicted to take nearly the same, which one is faster depends on the
processor more than on what the model knows. Those kernels, and only those, are timed where
`compile` is given somebody who times (engine/stopwatch.py); a driver that compiles again, and
every scorer, takes the choices as recorded.

What it gains is little where the model was fitted: on Zen 4 with AVX-512 no choice changed in the
MLP of the bench with 0, 10, 20, 30 and 40 % zeros, all in doubt (2026-11-25). Its four kinds of
matrix took 0.6 to 0.8 s, once, and two more to load numba; from 50 % zeros on nothing is in doubt.

Linear kernels add the products of an output in the order of its inputs, all of them, so for finite
numbers the choice changes no byte (but perhaps the sign of a zero). With NaN and infinity it does:
kernels that skip a zero weight do not multiply it. Convolutions: images/confirming.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from engine.dispatch import Choice
from engine.ops.image_work import Convolution
from engine.sparsity import Sparsity

Array = np.ndarray[Any, Any]

DOUBT = 1.5
"""Kernels are timed that are predicted to take up to so many times what the best one takes. Where
the model is known to be wrong (Xeon, AVX2, see dispatch.CYCLES), its ratio of two kernels is 1.27
times off."""
NOISE = 1.05
"""A kernel is called faster from here on; below, the cost model's choice stands."""


WORTH = 100e3
"""Predicted cycles for a tile from which on a layer is worth timing. One that takes less passes a
million rows in a second, which is what it takes to load the machine code that times it."""


class Timer(Protocol):
    """Who times kernels."""

    def __call__(
        self, weights: Array, sparsity: Sparsity, kernels: Sequence[str], points: int
    ) -> Mapping[str, float]:
        """Nanoseconds of each kernel for W[M, K] and one tile of `points`."""

    def convolution(
        self, work: Convolution, structures: Sequence[str], lanes: int
    ) -> Mapping[str, float]:
        """Nanoseconds of each way to pack its weights, for a lane group of images."""


def doubtful(choice: Choice) -> tuple[str, ...]:
    """The chosen kernel and those close to it; nothing where there is none, or too little to do."""
    return close_to(choice, WORTH)


def close_to(choice: Choice, worth: float) -> tuple[str, ...]:
    """The same, from `worth` predicted cycles on."""
    costs = {c.kernel: c.cycles for c in choice.candidates if c.cycles is not None}
    least = costs.get(choice.kernel, 0.0)
    close = tuple(kernel for kernel, cycles in costs.items() if cycles <= DOUBT * least)
    return close if len(close) > 1 and least >= worth else ()


def confirmed(
    choice: Choice, weights: Array, sparsity: Sparsity, points: int, timer: Timer
) -> Choice:
    """The same choice, or the kernel that was measured to be faster, with what was measured."""
    close = doubtful(choice)
    if not close:
        return choice
    return settled(choice, timer(weights, sparsity, close, points), f"; {sparsity}")


def settled(choice: Choice, times: Mapping[str, float], about: str = "") -> Choice:
    """By nanoseconds of the chosen kernel and those close to it; `about` ends a new reason."""
    fastest = min(times, key=times.__getitem__)
    gain = times[choice.kernel] / times[fastest]
    candidates = tuple(
        replace(c, microseconds=times[c.kernel] / 1e3) if c.kernel in times else c
        for c in choice.candidates
    )
    if gain <= NOISE:
        reason = f"{choice.reason}; confirmed by timing"
        return replace(choice, reason=reason, candidates=candidates)
    reason = f"measured {gain:.2f} times as fast as {choice.kernel}, the cost model's choice"
    return replace(choice, kernel=fastest, reason=f"{reason}{about}", candidates=candidates)
