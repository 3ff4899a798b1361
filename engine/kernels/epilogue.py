"""Epilogues: what is done to four outputs of a product while they are in L1.

A linear kernel calls one for each slice, after the last block of inputs, by the address in its
step: so every kernel has all of them, and the code of none is compiled into another. What it
spares is a pass over the whole panel. On Zen 4, where a panel lies in L2 and is fetched while
functions are computed, that is little: GELU takes 53 cycles an output of 32 points here, 51 in a
pass over 3,072 outputs, and two layers of BERT-base with 90 % zeros 28 ms both ways.

Called with five int64: address of the parameters (a, b), address of the panel, bytes from there to
the first output and, 32 bits higher, to the second; the same for the third and the fourth; and how
many of the tile's points are rows that exist.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.elementwise import apply
from engine.kernels.slices import LOW
from engine.kernels.table import NARROW
from engine.kernels.vector import load, load_float, store, zeros


def epilogue(points, name):
    """y = f(y; a, b) on four outputs of a tile of `points`, as the kernel of that function does."""
    half = points // 2

    def kernel(pair, y, first_two, last_two, live):
        a, b = load_float(pair), load_float(pair + 4)
        for offset in (first_two & LOW, first_two >> 32, last_two & LOW, last_two >> 32):
            at = y + offset
            if live <= NARROW:
                store(at, apply(name, load(zeros(NARROW), at), a, b))
            elif live <= half:
                store(at, apply(name, load(zeros(half), at), a, b))
            else:
                store(at, apply(name, load(zeros(points), at), a, b))

    return kernel
