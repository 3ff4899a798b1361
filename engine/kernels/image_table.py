"""The rows of KERNELS for pictures, whose lanes are images (see grids.py)."""

from __future__ import annotations

from engine.kernels.row import Family, Kernel

LANES = (8, 16)
"""T: images of a lane group, one register of them: 8 on AVX2, 16 on AVX-512."""
STRIDES = (1, 2, 0)
"""S: pixels of x from a pixel of the group to the next; 0 where it stands in a word."""
CONV_PIXELS: dict[str, dict[int, tuple[int, ...]]] = {
    "nz": {8: (1, 2, 4, 7, 14), 16: (1, 2, 4, 7, 14)},
    "pair": {8: (), 16: (1, 2, 4, 7)},
    "blk4_": {8: (1, 2, 3), 16: (1, 2, 4, 7)},
}
"""R by structure, as names begin, and by T: a register a pixel, or four of them in BLK4."""
OUTPUTS = {"nz": 1, "pair": 2, "blk4_": 4}
"""By structure: how many are computed at once. The sums of pairs want 32 registers."""
DEPTHWISE_PIXELS = {8: (1, 2, 4, 7), 16: (1, 2, 4, 7, 14)}
"""R by T: with 8 lanes 14 sums leave no registers for the pixels that three taps share."""
BLEND_TAPS = (2, 4)
"""Rows and pixels that a pixel is a weighted sum of: linear and cubic."""
IMAGE_BINARY_NAMES = ("Add", "Div", "Mul", "PRelu", "Sub")

_CONV = "engine.kernels.conv"
_IMAGES = "engine.kernels.images"
_PICKING = "engine.kernels.picking"
_POOLING = "engine.kernels.pooling"
_BORDERS = "engine.kernels.image_borders"


def image_rows(lanes: int, unary: tuple[str, ...], elements: dict[str, int]) -> list[Kernel]:
    """All rows of one width, for those functions and those element types (with their bytes)."""
    x = f"f32_x{lanes}"
    return [
        *_convolutions(lanes),
        *(_row(f"image_{n.lower()}_{x}", "image unary", "unary", lanes, n) for n in unary),
        *_arithmetic(lanes),
        _row(f"image_copy_{x}", "image copy", "copy", lanes),
        _row(f"image_fill_{x}", "image fill", "fill", lanes),
        _row(f"image_sum_{x}", "image reduction", "reduction", lanes, False),
        _row(f"image_max_{x}", "image reduction", "reduction", lanes, True),
        Kernel(f"image_pick_{x}", "image pick", f"{_PICKING}:pick", (lanes,)),
        *(
            Kernel(f"image_blend{taps}_{x}", "image blend", f"{_PICKING}:blend", (lanes, taps))
            for taps in BLEND_TAPS
        ),
        Kernel(f"sumpool_{x}", "image pool", f"{_POOLING}:pool", (lanes, False)),
        Kernel(f"maxpool_{x}", "image pool", f"{_POOLING}:pool", (lanes, True)),
        *(
            Kernel(
                f"image_import_{element}_x{lanes}",
                "image import",
                f"{_BORDERS}:import_images",
                (lanes, element, nbytes),
            )
            for element, nbytes in elements.items()
        ),
        Kernel(f"image_export_{x}", "image export", f"{_BORDERS}:export_images", (lanes,)),
    ]


def _row(name: str, family: Family, function: str, *arguments: str | int | bool) -> Kernel:
    return Kernel(name, family, f"{_IMAGES}:{function}", arguments)


def _convolutions(lanes: int) -> list[Kernel]:
    """R varies fastest, then S."""
    conv = [
        Kernel(
            f"conv_f32_{structure}{pixels}x{lanes}s{stride}",
            "conv",
            f"{_CONV}:convolution",
            (lanes, pixels, stride, OUTPUTS[structure]),
            structure.rstrip("_"),
        )
        for structure, widths in CONV_PIXELS.items()
        for stride in STRIDES
        for pixels in widths[lanes]
    ]
    depthwise = [
        Kernel(
            f"dwconv_f32_{pixels}x{lanes}s{stride}",
            "depthwise",
            "engine.kernels.depthwise:depthwise",
            (lanes, pixels, stride),
        )
        for stride in STRIDES
        for pixels in DEPTHWISE_PIXELS[lanes]
    ]
    return conv + depthwise


def _arithmetic(lanes: int) -> list[Kernel]:
    """Two grids, a grid and a constant, a grid and a gate."""
    rows = [
        _row(f"image_{name.lower()}_f32_x{lanes}", "image binary", "binary", lanes, name)
        for name in IMAGE_BINARY_NAMES
    ]
    kinds: tuple[tuple[str, Family, str], ...] = (
        ("constant", "image constant", "binary_constant"),
        ("gate", "image gate", "gate"),
    )
    for kind, family, function in kinds:
        for name in IMAGE_BINARY_NAMES:
            for suffix, first in (("", False), ("_first", True)):
                full = f"image_{name.lower()}_{kind}{suffix}_f32_x{lanes}"
                rows.append(_row(full, family, function, lanes, name, first))
    return rows
