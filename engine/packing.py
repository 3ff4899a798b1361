"""W[M, K] -> the streams a kernel reads, laid out as its docstring says.

Packing is plain numpy, because it happens once; tests/naive.py takes the streams apart by loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.kernels.registers import shuffles_are_free
from engine.kernels.table import OFFSET_REACH, OFFSET_UNIT, SELL4_BLOCK_NBYTES

Array = np.ndarray[Any, Any]

BLOCK_INPUTS = {16: 384, 32: 256}
"""Inputs of a block at most, by points: 384 x 16 x 4 bytes = 24 KB of AVX2's 32 KB of L1, the rest
is for weights and outputs; 256 x 32 x 4 = 32 KB of AVX-512's 48. On Zen 3, 2048x2048, 256 to 512
differ by 2 %, and whole rows cost 10-25 %; on a Xeon with 32 points, 80 % zeros, 768x768: 104
GFLOP/s with 256, 97 with 384, 100 with 192."""
BLOCK_NONZEROS = {16: 24, 32: 16}
"""Non-zeros a row has in a block on average, at least: a slice costs as much as ten steps besides
its steps, so very sparse rows want longer blocks."""
LONG_BLOCK_NONZEROS = 100
"""The same for row blocks where shuffles are free (kernels/registers.py): two lines of an input for
eight cycles of multiply-adds may come from L2. Zen 4, of the core's peak by inputs of a block:

    zeros  matrix       rows    256    512   1024   2048
    80 %   2048x2048      32   96.1   96.8   96.6   96.9
                          24   90.7   88.0   84.2   83.4
    90 %   768x768        32   89.4   90.3   91.7 (768)
           2048x2048      32   92.9   94.8   95.5   95.3
                          24   85.2   86.6   86.5   85.9
    95 %   2048x2048      32   86.8   90.9   92.8   93.2
"""


@dataclass(frozen=True, slots=True)
class Packed:
    """Weights as a kernel wants them."""

    streams: tuple[Array, ...]
    """In the order of the kernel's words."""
    numbers: tuple[int, ...]
    """The words after the streams."""

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.streams)


def round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def block_inputs(inputs: int, density: float, points: int) -> int:
    """Inputs of a block: all blocks alike, within L1, rows not too short, offsets in reach."""
    return _block(inputs, density, points, BLOCK_NONZEROS[points], SELL4_BLOCK_NBYTES)


def row_block_inputs(inputs: int, density: float, points: int) -> int:
    """The same for 4x1 row blocks, of which `density` are not all zero."""
    long = points == 32 and shuffles_are_free()
    nonzeros = LONG_BLOCK_NONZEROS if long else BLOCK_NONZEROS[points]
    return _block(inputs, density, points, nonzeros, OFFSET_REACH)


def _block(inputs: int, density: float, points: int, nonzeros: int, reach: int) -> int:
    wanted = max(BLOCK_INPUTS[points], int(nonzeros / max(density, 1e-9)))
    longest = min(wanted, reach // (4 * points))
    blocks = max(1, -(-inputs // longest))
    return max(1, -(-inputs // blocks))


def pack_sell4(weights: Array, points: int) -> Packed:
    """Slices of four rows sorted by length, see kernels/spmm.py."""
    outputs, inputs = weights.shape
    # one pass over the matrix: bool, flat and then split is a third of np.nonzero block by block
    flat = np.flatnonzero(weights.reshape(-1) != 0)
    rows, columns = np.divmod(flat, max(1, inputs))
    width = block_inputs(inputs, len(flat) / max(1, weights.size), points)
    slices = -(-outputs // 4)
    found = weights.reshape(-1)[flat]
    block = (columns // width).astype(np.uint16)
    by_block = np.argsort(block, kind="stable")
    ends = np.cumsum(np.bincount(block, minlength=max(1, -(-inputs // width))))
    blocks = [
        _pack_block(rows[at], columns[at] - k * width, found[at], slices, points)
        for k, at in enumerate(np.split(by_block, ends[:-1]))
    ]
    heads, offsets, values, extras = (np.concatenate(s) for s in zip(*blocks, strict=True))
    numbers = (len(blocks), slices, width * points * 4, inputs * points * 4)
    return Packed((heads, offsets, values, extras), numbers)


def _pack_block(
    rows: Array, columns: Array, found: Array, slices: int, points: int
) -> tuple[Array, Array, Array, Array]:
    """One block's non-zeros, row by row: head int32[slices, 8], offset u16[steps, 4], value,
    extras; `columns` count from the block's first input."""
    size = 4 * points
    lengths = np.bincount(rows, minlength=4 * slices)
    order = np.argsort(lengths, kind="stable")
    steps = lengths[order].reshape(slices, 4).min(axis=1)
    head = np.zeros((slices, 8), np.int32)
    head[:, :4] = order.reshape(slices, 4) * size
    head[:, 4] = steps
    head[:, 5] = lengths[order].reshape(slices, 4).sum(axis=1) - 4 * steps

    rank = np.empty(4 * slices, np.int64)
    rank[order] = np.arange(4 * slices)
    row_start = np.concatenate(([0], np.cumsum(lengths)))
    position = np.arange(len(rows)) - row_start[rows]  # of a non-zero in its row
    slice_of, lane = rank[rows] // 4, rank[rows] % 4
    in_step = position < steps[slice_of]
    first_step = np.concatenate(([0], np.cumsum(steps)))

    target = 4 * (first_step[slice_of] + position)[in_step] + lane[in_step]
    offsets = np.zeros(4 * int(steps.sum()), np.uint16)
    values = np.zeros(len(offsets), np.float32)
    offsets[target] = (columns * (size // OFFSET_UNIT))[in_step]
    values[target] = found[in_step]

    late = np.flatnonzero(~in_step)
    late = late[np.argsort(slice_of[late], kind="stable")]  # slice by slice, as they are read
    extras = np.zeros((len(late), 4), np.int32)
    extras[:, 0] = rows[late] * size
    extras[:, 1] = columns[late] * size
    extras[:, 2] = found[late].astype(np.float32).view(np.int32)
    return head.ravel(), offsets, values, extras.ravel()


def pack_blk4(weights: Array, points: int) -> Packed:
    """Row blocks of 4x1 in slices of four rows, the longest slice first, see kernels/spmm.py."""
    outputs, inputs = weights.shape
    padded = np.zeros((round_up(outputs, 4), inputs), np.float32)
    padded[:outputs] = weights
    quads = padded.reshape(-1, 4, inputs).transpose(0, 2, 1)  # [slice, input, 4]
    present = (quads != 0).any(axis=2)
    width = row_block_inputs(inputs, present.mean() if present.size else 0.0, points)
    heads, offsets, values = [], [], []
    for k in range(0, max(inputs, 1), width):
        here = present[:, k : k + width]
        steps = here.sum(axis=1)
        order = np.argsort(-steps, kind="stable")  # equal trip counts stand together
        heads.append(np.stack([order * 16 * points, steps[order]], axis=1).astype(np.int32))
        slices, columns = np.nonzero(here[order])
        offsets.append((columns * (4 * points // OFFSET_UNIT)).astype(np.uint16))
        values.append(quads[order[slices], k + columns])
    streams = (np.concatenate(heads).ravel(), np.concatenate(offsets), np.concatenate(values))
    numbers = (len(heads), len(quads), width * points * 4)
    return Packed((streams[0], streams[1], streams[2].ravel()), numbers)


def pack_dense4(weights: Array, points: int) -> Packed:
    """Four rows interleaved, block by block of inputs, see kernels/gemm.py."""
    outputs, inputs = weights.shape
    padded = np.zeros((round_up(outputs, 4), inputs), np.float32)
    padded[:outputs] = weights
    width = block_inputs(inputs, 1.0, points)
    blocks = [
        padded[:, k : k + width].reshape(len(padded) // 4, 4, -1).transpose(0, 2, 1).ravel()
        for k in range(0, max(inputs, 1), width)
    ]
    return Packed((np.concatenate(blocks),), (inputs, len(padded), width))


PACKINGS: dict[str, Callable[[Array, int], Packed]] = {
    "sell4": pack_sell4,
    "blk4": pack_blk4,
    "dense4": pack_dense4,
}
"""By `Kernel.structure`: (W[M, K], points) -> streams."""
