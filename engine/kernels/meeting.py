"""How far apart two processors are, measured: nanoseconds until a line of cache is back.

A virtual machine's processors wander over those of its host, and no file tells where they are. Two
that are one core's two threads share its arithmetic; two with an L3 between them share that; two
without have twice as much. One program's speed on two of them differs by more than what is worked
for, so who compares figures wants to know. A virtual EPYC of Zen 4 gave 55, 100 and 365 ns, which
fits these three; no other source confirms it.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from engine.kernels.building import kept
from engine.kernels.emitting import I64, at
from numa.affinity import pin_thread

TRIPS = 2_000
_TRIES = 5
"""The shortest counts: of the others a processor was away for a while."""


@intrinsic
def _read(typing, address):
    """The int64 at `address` as another thread wrote it last."""

    def emit(context, b, signature, args):
        return b.load_atomic(at(b, args[0], I64), "acquire", 8)

    return types.int64(types.int64), emit


@intrinsic
def _write(typing, address, value):
    """An int64 that other threads will read."""

    def emit(context, b, signature, args):
        b.store_atomic(args[1], at(b, args[0], I64), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


with kept("meeting"):

    @njit(types.void(*[types.int64] * 3), nogil=True, cache=True)
    def _meet(address, trips, me):
        """`trips` times waits for the other thread's number there and writes the next; `me` is 0
        for who begins and 1 for who answers."""
        for trip in range(trips):
            while _read(address) != 2 * trip + me:
                pass
            _write(address, 2 * trip + me + 1)


def round_trip_ns(cpus: Sequence[int]) -> float:
    """Of a line between two processors, there and back: the shortest of a few tries."""
    first, second = cpus
    line = np.zeros(1, np.int64)
    times = []
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for pool, cpu in ((one, first), (other, second)):
            pool.submit(pin_thread, cpu).result()
        for _ in range(_TRIES):
            line[0] = 0
            began = time.perf_counter()
            both = [p.submit(_meet, line.ctypes.data, TRIPS, i) for i, p in enumerate((one, other))]
            for half in both:
                half.result()
            times.append(time.perf_counter() - began)
            assert line[0] == 2 * TRIPS
    return min(times) / TRIPS * 1e9
