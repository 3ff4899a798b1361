"""W[M, C, kh, kw] -> the streams of a convolution's kernel, laid out as kernels/conv.py says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.packing import Packed, round_up

Array = np.ndarray[Any, Any]

BLOCK_NBYTES = {8: 24 << 10, 16: 32 << 10}
"""Bytes of x that a block's taps touch for one group of pixels, at most, by lanes.

On Zen 4 (32 KB of L1, 16 lanes, 7 pixels, 1x1 1024->256 at 14x14, 90 % zeros) 16 KB are 60
GFLOP/s, 24 KB 66, 32 KB 68, 64 KB 67, all channels 51: long blocks load and store fewer sums for
their taps. With 8 lanes and 14 pixels 24 KB are best, or near it."""


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

    def block_channels(self, columns: int) -> int:
        """Channels whose touched pixels stay in L1, for windows of `columns` columns."""
        first = np.arange(self.pixels)[:, None] * self.stride
        touched = np.unique(first + np.arange(columns) * self.dilations[1])
        return max(1, BLOCK_NBYTES[self.lanes] // (len(touched) * self.lanes * 4))


def pack_nz(weights: Array, place: Taps) -> Packed:
    """Each output's own taps, block by block."""
    return _pack(weights[:, None], place)


def pack_blk4(weights: Array, place: Taps) -> Packed:
    """The taps that any of four neighbouring outputs has, with all four weights."""
    outputs = len(weights)
    padded = np.zeros((round_up(outputs, 4), *weights.shape[1:]), np.float32)
    padded[:outputs] = weights
    return _pack(padded.reshape(-1, 4, *weights.shape[1:]), place)


def _pack(weights: Array, place: Taps) -> Packed:
    """Streams of W[sets, outputs of a set, C, kh, kw]; a set shares its taps."""
    sets, shared, channels, rows, columns = weights.shape
    width = place.block_channels(columns)
    width = -(-channels // -(-channels // width)) if channels else 1  # blocks all alike
    down, right = place.dilations[0], place.dilations[1] * place.lanes * 4
    blocks, heads, offsets, values = [], [], [], []
    for first in range(0, max(channels, 1), width):
        for ky in range(rows):
            here = weights[:, :, first : first + width, ky].transpose(0, 2, 3, 1)
            present = (here != 0).any(axis=3)
            taps = present.sum(axis=(1, 2))
            which, channel, kx = np.nonzero(present)
            blocks.append((ky * down, first * place.channel_nbytes))
            heads.append(np.stack([np.arange(sets) * shared, taps], axis=1))
            offsets.append(channel * place.channel_nbytes + kx * right)
            values.append(here[which, channel, kx])
    return Packed(
        (
            np.array(blocks, np.int32).ravel(),
            np.concatenate(heads).astype(np.int32).ravel(),
            np.concatenate(offsets).astype(np.int32),
            np.concatenate(values).astype(np.float32).ravel(),
        ),
        (len(blocks),),
    )


CONV_PACKINGS: dict[str, Callable[[Array, Taps], Packed]] = {
    "nz": pack_nz,
    "blk4": pack_blk4,
}
"""By `Kernel.structure`: (W[M, C, kh, kw], window) -> streams."""


def pack_conv(structure: str, weights: Array, place: Taps) -> Packed:
    """Streams of that structure; the words 21 to 25 of a convolution."""
    return CONV_PACKINGS[structure](weights, place)
