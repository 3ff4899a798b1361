"""Streams of weights, asked for some kilobytes before they are used; panels as well.

A product reads its streams side by side and slowly: 24 bytes of weights and offsets in ten cycles.
Where they come from L3 or from memory, the processor's own prefetchers do not keep up, least when
neighbours use the same L3. Zen 4, sell4, 2048x2048, cycles a step by rows, before and after; in
large pages where it says so (engine/weights.py; a busy machine, 2026-11-29):

    rows                                    8            16            24            32
    80 % zeros, one matrix               4.0  4.0     6.0  6.1     9.1  9.2    10.7 10.8
    four of them in turn, 20 MB         12.1  7.4    12.7  8.6    17.0 12.3    15.6 12.9
    the same in large pages             11.7  6.1    11.1  7.9    14.3 11.4    13.7 11.7
    95 % zeros, one matrix               4.7  4.9     7.0  7.3    10.7 11.0    12.6 12.8

The MLP of the bench, 64 rows, milliseconds of one core and of two together: 80 % zeros 4.9 -> 4.6
and 6.2 -> 4.8, 90 % 2.5 -> 2.2 and 2.8 -> 2.4; BERT-base of 90 % zeros 327 -> 320 a core. What did
not gain: asking for offsets, too (half of their bytes; a step took 2 % more, and 8 rows from memory
a quarter less), in a loop of its own for each slice (6 % more), into L2 alone (1 to 4 % more). On
AVX2's code of 16 points asking for both took 10 % more.

Panels come from L3, too, where they live from stretch to stretch of a column of sequences, and
slices touch their rows in no order. A block of inputs is asked for before it is read, outputs and
what is added to them two slices before. BERT-base of 90 % zeros: the product behind attention 88 ->
66 microseconds a tile, those of queries, keys and values 60 -> 53; a batch of 8 sequences 323, 317
and 324 -> 308, 315 and 302 ms a core, in turn. The MLP of the bench, whose panels lie in L2, takes
1 % longer.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from engine.kernels.emitting import asked
from engine.kernels.functions import inline
from engine.kernels.registers import asks_ahead
from engine.kernels.vector import load_i32

AHEAD = 4096
"""Bytes: 256 steps of sell4, some 2,600 cycles with 32 rows."""
SLICES_AHEAD = 2
"""Of a slice whose outputs are asked for; six gained less."""
LINE = 64
_INTO_L1, _INTO_L2 = 3, 2


def _asking_for(level):
    """An intrinsic that asks for a cache line, to be read; what is no memory is not an error."""

    def ask(typing, address):
        def emit(context, b, signature, args):
            asked(b, args[0], False, level)
            return context.get_dummy_value()

        return types.void(types.int64), emit

    return intrinsic(ask)


_ask, _ask_far = _asking_for(_INTO_L1), _asking_for(_INTO_L2)


@inline
def _asking(weights):
    _ask(weights + AHEAD)


@inline
def _asking_lines(first, nbytes):
    for line in range(first, first + nbytes, LINE):
        _ask(line)


@inline
def _asking_far_lines(first, nbytes):
    for line in range(first, first + nbytes, LINE):
        _ask_far(line)


@inline
def _asking_rows(head, y, size):
    for place in (0, 4, 8, 12):
        row = y + load_i32(head + place)
        _ask(row)
        if size > LINE:
            _ask(row + LINE)


@inline
def _leaving(weights):
    return None


@inline
def _leaving_lines(first, nbytes):
    return None


@inline
def _leaving_rows(head, y, size):
    return None


ask_ahead = _asking if asks_ahead() else _leaving
"""Of a stream of weights what will be read some steps later."""
ask_lines = _asking_lines if asks_ahead() else _leaving_lines
"""A block of inputs, before rows of it are read in no order."""
ask_far_lines = _asking_far_lines if asks_ahead() else _leaving_lines
"""The same into L2, of what is read long after."""
ask_rows = _asking_rows if asks_ahead() else _leaving_rows
"""Four rows of a panel, of `size` bytes, at the offsets in a slice's head."""
