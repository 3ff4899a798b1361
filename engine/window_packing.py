"""W[M, C, kh, kw] -> the streams of a convolution's kernel, laid out as kernels/conv.py says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.packing import Packed, round_up

Array = np.ndarray[Any, Any]

LINE = 64
"""Bytes of a cache line: what is not touched of one takes its place in L1, too."""
BLOCK_NBYTES = 32 << 10
"""Lines of x that a block's taps touch for one group of pixels, at most, where nobody says."""

LOOKED_AT = 1024
"""Taps of an output, at most, by which it is paired: the more it has, the more alike are others."""


@dataclass(frozen=True, slots=True)
class Taps:
    """Where the taps of a window lie in x, and how many pixels are computed together."""

    lanes: int
    """T."""
    channel_nbytes: int
    """From a channel of x to the next."""
    dilations: tuple[int, int] = (1, 1)
    """Rows from a ky to the next, pixels from a kx to the next."""
    pixels: int = 7
    """R of the kernel; with the stride it decides only how many channels make a block."""
    stride: int = 1
    """Pixels of x from a pixel of y to the next."""
    block_nbytes: int = BLOCK_NBYTES
    """Of a block at most."""

    def touched_nbytes(self, columns: int) -> int:
        """Lines that one channel's windows of `columns` columns touch, in bytes, where the first
        begins one."""
        first = np.arange(self.pixels)[:, None] * self.stride
        touched = (first + np.arange(columns) * self.dilations[1]) * self.lanes * 4
        return LINE * len(np.unique(touched // LINE))

    def block_channels(self, columns: int) -> int:
        """Channels of a block, for windows of `columns` columns."""
        return max(1, self.block_nbytes // self.touched_nbytes(columns))


def pack_nz(weights: Array, place: Taps) -> Packed:
    """Each output's own taps, block by block."""
    return _pack(weights[:, None], place)


def pack_blk4(weights: Array, place: Taps) -> Packed:
    """The taps that any of four neighbouring outputs has, with all four weights."""
    outputs = len(weights)
    padded = np.zeros((round_up(outputs, 4), *weights.shape[1:]), np.float32)
    padded[:outputs] = weights
    return _pack(padded.reshape(-1, 4, *weights.shape[1:]), place)


def pack_pair(weights: Array, place: Taps) -> Packed:
    """The taps that two outputs share, then those of each alone; outputs with much in common are
    paired. Only weights that are not zero are looked at, once for all blocks."""
    flat = weights.reshape(len(weights), -1)
    pairs = pairs_of(flat != 0)
    window = _Window.of(weights, place)
    output, at = np.divmod(np.flatnonzero(flat != 0), max(1, flat.shape[1]))
    pair, other = _partners(pairs)
    twin = flat[other[output], at]
    twin[other[output] == output] = 0  # the last output of an odd number, alone in its pair
    second = pairs[pair[output], 0] != output
    kind = np.where(twin != 0, 0, 1 + second)
    taken = (kind > 0) | ~second  # what is shared is taken with the first of the two
    output, at, kind, twin = output[taken], at[taken], kind[taken], twin[taken]
    run = (window.block[at] * len(pairs) + pair[output]) * 3 + kind
    runs = len(window.begins) * len(pairs) * 3
    # blocks, pairs, kinds, and taps as they lie: numbers of 16 bits are sorted by counting
    order = np.argsort(run.astype(np.min_scalar_type(runs)), kind="stable")
    counts = np.bincount(run, minlength=runs).reshape(-1, 3)
    both = np.stack([flat[output, at], twin], axis=1)[order]
    heads = np.column_stack([np.tile(pairs, (len(window.begins), 1)), counts])
    used = np.stack([np.ones(len(order), bool), kind[order] == 0], axis=1)
    return _streams(window.begins, [heads], [window.tap[at[order]]], [both[used]])


def _partners(pairs: Array) -> tuple[Array, Array]:
    """For each output its pair and the other one of it."""
    pair, other = np.empty((2, int(pairs.max(initial=-1)) + 1), np.int64)
    for mine, its in (pairs.T, pairs[:, ::-1].T):
        pair[mine], other[mine] = np.arange(len(pairs)), its
    return pair, other


def pairs_of(present: Array) -> Array:
    """int[n, 2] of present[M, taps]: each output with one of those left that shares most taps; the
    last with itself where their number is odd. Of many taps some are looked at."""
    some = present[:, :: -(-max(1, present.shape[1]) // LOOKED_AT)].astype(np.float32)
    common = some @ some.T
    left = np.ones(len(present), bool)
    found: list[tuple[int, int]] = []
    for m in range(len(present)):
        if left[m]:
            left[m] = False
            other = int(np.where(left, common[m], -1).argmax()) if left.any() else m
            left[other] = False
            found.append((m, other))
    return np.array(found, np.int64).reshape(-1, 2)


def _pack(weights: Array, place: Taps) -> Packed:
    """Streams of W[sets, outputs of a set, C, kh, kw]; a set shares its taps."""
    sets, shared = weights.shape[:2]
    blocks, heads, offsets, values = [], [], [], []
    for block, tap, flat in _blocks(weights.reshape(-1, *weights.shape[2:]), place):
        blocks.append(block)
        here = flat.reshape(sets, shared, -1)
        present = (here != 0).any(axis=1)
        heads.append(np.stack([np.arange(sets) * shared, present.sum(axis=1)], axis=1))
        which, place_of = np.nonzero(present)
        offsets.append(tap[place_of])
        values.append(here[which, :, place_of].ravel())
    return _streams(blocks, heads, offsets, values)


@dataclass(frozen=True, slots=True)
class _Window:
    """The taps of W[M, C, kh, kw], cut into blocks of some channels and one row each."""

    begins: list[tuple[int, int, int]]
    """Bytes to each block's row, bytes to its first channel, channels."""
    width: int
    """Channels of a block; the last may have fewer."""
    block: Array
    """int[C * kh * kw]: each tap's block,"""
    tap: Array
    """and how many bytes behind its begin it lies."""

    @classmethod
    def of(cls, weights: Array, place: Taps) -> _Window:
        channels, rows, columns = weights.shape[1:]
        width = place.block_channels(columns)
        width = -(-channels // -(-channels // width)) if channels else 1  # blocks all alike
        down, right = place.dilations[0], place.dilations[1] * place.lanes * 4
        begins = [
            (ky * down, first * place.channel_nbytes, min(width, channels - first))
            for first in range(0, max(channels, 1), width)
            for ky in range(rows)
        ]
        channel, ky, kx = (i.ravel() for i in np.indices(weights.shape[1:]))
        tap = channel % width * place.channel_nbytes + kx * right
        return cls(begins, width, channel // width * rows + ky, tap)


def _blocks(weights: Array, place: Taps) -> Iterator[tuple[tuple[int, int, int], Array, Array]]:
    """Of W[M, C, kh, kw]: where each block begins, bytes to its taps, and its weights[M, taps]."""
    window, rows = _Window.of(weights, place), weights.shape[2]
    taps = window.tap.reshape(weights.shape[1:])
    for number, begin in enumerate(window.begins):
        channels, ky = divmod(number, rows)
        part = np.s_[channels * window.width : (channels + 1) * window.width, ky]
        yield begin, taps[part].ravel(), weights[:, *part].reshape(len(weights), -1)


def _streams(
    blocks: list[tuple[int, int, int]],
    heads: list[Array],
    offsets: list[Array],
    values: list[Array],
) -> Packed:
    return Packed(
        (
            np.array(blocks, np.int32).ravel(),
            np.concatenate(heads).astype(np.int32).ravel(),
            np.concatenate(offsets).astype(np.int32),
            np.concatenate(values).astype(np.float32),
        ),
        (len(blocks),),
    )


CONV_PACKINGS: dict[str, Callable[[Array, Taps], Packed]] = {
    "nz": pack_nz,
    "pair": pack_pair,
    "blk4": pack_blk4,
}
"""By `Kernel.structure`: (W[M, C, kh, kw], window) -> streams."""


def pack_conv(structure: str, weights: Array, place: Taps) -> Packed:
    """Streams of that structure; the words 21 to 25 of a convolution."""
    return CONV_PACKINGS[structure](weights, place)
