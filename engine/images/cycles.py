"""What a convolution's kernels take, and by it how many pixels of a row are computed at once.

A kernel computes R pixels of a row for all outputs, then the next R. Many pixels share what a tap
costs beside its multiply-adds. But the channels of a block are as many as keep the pixels of one
group in L1, so with more pixels there are more blocks, and each loads and stores all sums again:
where an output has few taps, that costs more than the taps. Bytes depend on R, since blocks do: it
is decided by the weights, the structure and the lanes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.kernels.row import Family, Kernel
from engine.kernels.table import kernels_of
from engine.ops.image_work import Convolution
from engine.window_packing import BLOCK_NBYTES, Taps

DEPTHWISE = "depthwise"
"""The structure of a convolution whose outputs have one input each."""
GROUP_PIXELS = {8: 14, 16: 7}
"""Pixels of a group at most, by lanes. Of 16 lanes wider ones leave L1 room for fewer channels a
block: MobileNetV1 of 90 % zeros, Zen 4: 28 pixels 264 images a second, 14 289, 7 348, 4 319."""
BY_TWO = "_by2"
"""Behind the name of a structure: a register holds two pixels of 8 images."""
GROUP_COST = 2.0
"""What a group of pixels of a depthwise one costs beside them, in pixels: loop ends, weights."""
KB = 1 << 10
BLOCKS = {8: (24 * KB, 40 * KB), 16: (32 * KB, 48 * KB, 64 * KB)}
"""Of blocks at most, by floats of a vector: longer ones load and store fewer sums for their taps,
and take more of them from L2. Zen 4, GFLOP/s of 7 vectors by blocks of 24, 32, 48 and 64 KB: 1x1
256->1024 at 14x14, pairs, two pixels of 8 images, 80 % zeros 88 90 92 83, 95 % 50 55 60 63; 3x3
256->256 96 94 88 76 and 69 73 73 69; 16 images, 3x3 512->512 at 7x7, 90 % 79 82 89 83."""
KEPT = {8: 24 * KB, 16: 36 * KB}
BEYOND = 128 * KB
"""Taps take longer where blocks do not stay in L1: by a share of the bytes beyond those kept."""
MOVED_COST = 1.25
"""Of groups that overlap, where a residual is added: y then needs rows of its own, more memory and
traffic. An estimate, so that 56 pixels are cut by 2 and not by 3 where four outputs share taps."""


@dataclass(frozen=True, slots=True)
class Cycles:
    """Of a group of R vectors; each a number of the group's own and one of a vector."""

    outputs: int
    """That are computed at once."""
    tap: tuple[float, float]
    """One weight that is not zero, or a block of four."""
    run: tuple[float, float]
    """What is added to the sums of the outputs computed at once, in one block of channels."""
    shared: tuple[float, float] = (0.0, 0.0)
    """Two weights for one tap of a pair of outputs."""


_WIDE = {
    "nz": Cycles(1, (0.42, 1.15), (9.0, 2.1)),
    "pair": Cycles(2, (0.28, 1.07), (21.0, 4.6), shared=(0.56, 2.04)),
    "blk4": Cycles(4, (1.0, 3.86), (0.0, 13.0)),
}
CYCLES = {
    8: {
        "nz": Cycles(1, (0.3, 0.58), (7.5, 1.6)),
        "blk4": Cycles(4, (0.45, 1.95), (0.0, 6.5)),
        **{structure + BY_TWO: cycles for structure, cycles in _WIDE.items()},
    },
    16: _WIDE,
}
"""By lanes and structure, on Zen 4: of 7 pixels fitted to seven layers of ResNet-50, 80, 90 and
95 % zeros, within 7 %; of 2 and 4, and with 8 lanes, to what scripts.bench_conv says of six of
them. At 95 % zeros 1x1 256->1024 at 14x14, 16 lanes, reaches 52 GFLOP/s by 7 pixels and 66 by 2,
1024->256 51 and 62, 3x3 71 and 72; at 90 % 69 and 78, 69 and 75, 85 and 79; at 80 % 7 pixels are
fastest. AVX2 takes more (0.85 a tap and pixel of nz on Zen 3). Between no zeros, where blk4 is
faster, and 80 %, where nz is twice as fast, nothing was measured."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """How a convolution's pixels are computed: R at once, by a kernel of as many vectors or half,
    for blocks of inputs whose pixels take so many bytes at most."""

    kernel: Kernel
    pixels: int
    block_nbytes: int


def packing_of(structure: str) -> str:
    """A row of window_packing.CONV_PACKINGS."""
    return structure.removesuffix(BY_TWO)


def skips_zeros(structure: str) -> bool:
    """Whether a weight that is zero takes no memory."""
    return packing_of(structure) in ("nz", "pair")


def structures_for(work: Convolution, lanes: int, *, by_two: bool) -> tuple[str, ...]:
    """How its weights may be packed; `by_two` where registers hold two pixels. That is never slower
    than one where a row has an even number; of an odd one a pixel is computed twice."""
    two = by_two and fits_two(work, lanes)
    kinds = {two, two and work.plane.width % 2 == 0}
    return tuple(s for s in CYCLES[lanes] if s.endswith(BY_TWO) in kinds)


def fits_two(work: Convolution, lanes: int) -> bool:
    """Whether its pixels can be computed two in a register."""
    return lanes == 8 and work.reads[0].pixels.stride == 1 and work.plane.width >= 4


def is_depthwise(work: Convolution) -> bool:
    return work.weights.shape[1] == 1 and work.group == work.reads[0].plane.channels


def writes_once(work: Convolution, structure: str, lanes: int) -> bool:
    """Whether no pixel of y belongs to two groups, of which the second would add r again."""
    return work.plane.width % grouping_of(work, structure, lanes).pixels == 0


def row_cycles(
    work: Convolution,
    structure: str,
    lanes: int,
    pixels: int,
    taps: float,
    shared: float = 0,
    block_nbytes: int = BLOCK_NBYTES,
) -> float:
    """Of a row of y for a group of images; `taps` are all outputs' own, `shared` those of pairs."""
    cycles, vectors = CYCLES[lanes][structure], pixels // _side(structure)

    def of(part: tuple[float, float]) -> float:
        return part[0] + vectors * part[1]

    sets = -(-len(work.weights) // cycles.outputs)
    blocks, nbytes = _blocks(work, lanes, pixels, block_nbytes)
    beyond = 1 + max(0, nbytes - KEPT[_vector(structure, lanes)]) / BEYOND
    own = taps * of(cycles.tap) + shared * of(cycles.shared)
    group = own * beyond + sets * blocks * of(cycles.run)
    return -(-work.plane.width // pixels) * group


def _side(structure: str) -> int:
    """Pixels side by side in a register."""
    return 2 if structure.endswith(BY_TWO) else 1


def _vector(structure: str, lanes: int) -> int:
    """Floats of a vector."""
    return lanes * _side(structure)


def _blocks(work: Convolution, lanes: int, pixels: int, block_nbytes: int) -> tuple[int, int]:
    """Blocks that the inputs of an output are cut into, and bytes of one."""
    channels, rows, columns = (int(n) for n in work.weights.shape[1:])
    x = work.reads[0]
    dilations = x.rows.dilation, x.pixels.dilation
    taps = Taps(lanes, 0, dilations, pixels, x.pixels.stride, block_nbytes)
    parts = -(-channels // taps.block_channels(columns))
    return rows * parts, -(-channels // max(1, parts)) * taps.touched_nbytes(columns)


def grouping_of(work: Convolution, structure: str, lanes: int) -> Grouping:
    """The one whose groups of pixels make a row in the fewest cycles."""
    stride, width, side = work.reads[0].pixels.stride, work.plane.width, _side(structure)
    family: Family = "depthwise" if structure == DEPTHWISE else "conv"
    found = [
        Grouping(k, k.pixels * side, block_nbytes)
        for k in kernels_of(family, lanes * side)
        if k.structure == ("" if structure == DEPTHWISE else packing_of(structure))
        and k.stride == (stride if stride in (1, 2) else 0)
        and k.pixels * side <= min(width, GROUP_PIXELS[lanes])
        and (k.pixels > 1 or width == 1)  # sums of one vector wait for each other
        for block_nbytes in BLOCKS[_vector(structure, lanes)]
    ]
    taps = _taps(work, structure)

    def cost(grouping: Grouping) -> float:
        moved = len(work.reads) > 1 and width % grouping.pixels
        return _cost(work, structure, lanes, grouping, taps) * (MOVED_COST if moved else 1.0)

    return min(found, key=cost)


def _cost(work: Convolution, structure: str, lanes: int, grouping: Grouping, taps: float) -> float:
    pixels, block_nbytes = grouping.pixels, grouping.block_nbytes
    if structure == DEPTHWISE:
        return -(-work.plane.width // pixels) * (pixels + GROUP_COST)
    return row_cycles(work, structure, lanes, pixels, taps, block_nbytes=block_nbytes)


def _taps(work: Convolution, structure: str) -> float:
    """About how many an output's loops pass, all outputs together, as if zeros lay anywhere."""
    nonzeros = int(np.count_nonzero(work.weights))
    if packing_of(structure) != "blk4":
        return nonzeros
    share = nonzeros / max(1, work.weights.size)
    return work.weights.size / 4 * (1 - (1 - share) ** 4)
