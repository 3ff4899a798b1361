"""The machine code of convolutions, read for both tiers wherever this runs: nothing is executed."""

from __future__ import annotations

import functools
import platform

import pytest

from scripts.machine_code import Loop, assembly, loops

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86's machine code")

LANES = {"avx2": 8, "avx512": 16}
REGISTER = {"avx2": "ymm", "avx512": "zmm"}
WIDEST = {"avx2": 14, "avx512": 28}
"""R of the widest NZ."""
FOURS = {"avx2": 3, "avx512": 7}
"""R of the widest BLK4."""


@functools.cache
def code(tier: str) -> dict[str, str]:
    """By name without lanes; one process a tier."""
    names = [f"nz7x{LANES[tier]}s2", f"nz{WIDEST[tier]}x{LANES[tier]}s1"]
    names += [f"blk4_{FOURS[tier]}x{LANES[tier]}s1"]
    full = [f"conv_f32_{name}" for name in names] + [f"dwconv_f32_7x{LANES[tier]}s1"]
    return assembly(full, tier)


def hot(tier: str, part: str) -> list[Loop]:
    """The loops over taps of the kernel whose name has this in it."""
    (text,) = (text for name, text in code(tier).items() if part in name)
    found = loops(text)
    assert found, f"{part}: no loop multiplies and adds"
    for loop in found:
        assert (loop.stores, loop.calls, loop.by_lane) == ([], [], [])
        assert not any("%rsp" in line for line in loop.lines)  # %rbp holds any address here
        assert loop.registers == {REGISTER[tier]}
    return found


@pytest.mark.parametrize("tier", ["avx2", "avx512"])
@pytest.mark.parametrize("widest", [False, True])
def test_a_tap_is_one_broadcast_and_multiply_adds_from_memory(tier: str, widest: bool) -> None:
    pixels = WIDEST[tier] if widest else 7
    for loop in hot(tier, f"nz{pixels}x"):
        assert loop.accumulators == loop.from_memory == len(loop.multiply_adds) == pixels
        assert loop.loads == pixels + 1


@pytest.mark.parametrize("tier", ["avx2", "avx512"])
def test_strides_are_offsets_of_the_instructions(tier: str) -> None:
    far = 6 * 2 * LANES[tier] * 4  # the seventh pixel, two apart
    for loop in hot(tier, "nz7x"):
        assert any(line.split(" ", 1)[1].startswith(f"{far}(") for line in loop.multiply_adds)


@pytest.mark.parametrize("tier", ["avx2", "avx512"])
def test_four_outputs_share_pixels(tier: str) -> None:
    """Fewer loads than multiply-adds, so that those bind."""
    pixels = FOURS[tier]
    for loop in hot(tier, "blk4_"):
        assert loop.accumulators == len(loop.multiply_adds) == 4 * pixels
        assert loop.loads == {"avx2": 3 + 4, "avx512": 2 + 4 * 5 + 4}[tier]


@pytest.mark.parametrize("tier", ["avx2", "avx512"])
def test_three_taps_of_a_depthwise_row_share_pixels(tier: str) -> None:
    loads = {len(loop.multiply_adds): loop.loads for loop in hot(tier, "dwconv")}
    assert loads == {21: 9 + 3, 7: 7 + 1}  # three taps at once, and one by one
