"""What this core can do at best, measured: its multiply-adds a second, and its clock.

Both for one core, the one that the thread is on; who wants one figure stays on one core.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import functools
import time

import numpy as np
from numba import njit

from engine.kernels.building import kept
from engine.kernels.registers import register_lanes
from engine.kernels.vector import fma, like, store, zeros

LANES = register_lanes()
CHAINS = 10
"""Independent accumulators of the peak loop: more than latency times throughput, 4 x 2."""
LATENCY = 4
"""Cycles from one multiply-add to one that adds to it: Intel since Skylake, AMD since Zen 2
(5 on Zen 1 and Haswell, where the clock comes out a fifth low)."""
_TRIES = 7


with kept("peak"):

    @njit(nogil=True, cache=True)
    def _independent(count, out):
        """`count` rounds of CHAINS multiply-adds on a register each, in registers."""
        x = zeros(LANES)
        m = like(x, np.float32(0.999))
        a, b, c, d, e, f, g, h, i, j = x, x, x, x, x, x, x, x, x, x
        for _ in range(count):
            a, b, c, d, e = fma(a, m, m), fma(b, m, m), fma(c, m, m), fma(d, m, m), fma(e, m, m)
            f, g, h, i, j = fma(f, m, m), fma(g, m, m), fma(h, m, m), fma(i, m, m), fma(j, m, m)
        # kept alive by being written: what nobody reads is not computed
        store(out, a + b + c + d + e + f + g + h + i + j)

    @njit(nogil=True, cache=True)
    def _chain(count, out):
        """`count` multiply-adds, each waiting for the one before."""
        x = zeros(LANES)
        m = like(x, np.float32(0.999))
        for _ in range(count):
            x = fma(x, m, m)
        store(out, x)


@functools.cache
def peak_gflops() -> float:
    """Multiply-adds on registers, two operations each; the best of several tries."""
    count = 3_000_000
    return count * CHAINS * LANES * 2 / _shortest(_independent, count) / 1e9


def spin(rounds: int) -> None:
    """`rounds` times CHAINS multiply-adds on registers: work that asks nothing of any memory. The
    interpreter's lock is free meanwhile."""
    out = np.zeros(LANES, np.float32)
    _independent(rounds, out.ctypes.data)


@functools.cache
def clock_ghz() -> float:
    """Cycles in a nanosecond under vector work; no file tells it where the machine is virtual."""
    count = 1_000_000
    return count * LATENCY / _shortest(_chain, count) / 1e9


def _shortest(loop, count: int) -> float:
    """Seconds of the shortest run."""
    out = np.zeros(LANES, np.float32)
    loop(10, out.ctypes.data)
    times = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        loop(count, out.ctypes.data)
        times.append(time.perf_counter() - start)
    return min(times)
