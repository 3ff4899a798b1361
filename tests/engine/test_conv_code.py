"""The machine code of convolutions, read for both tiers wherever this runs: nothing is executed."""

from __future__ import annotations

import functools
import platform

import pytest

from scripts.machine_code import Loop, assembly, loops

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86's machine code")

LANES = {"avx2": 8, "avx512": 16, "zen4": 16}
REGISTER = {"avx2": "ymm", "avx512": "zmm", "zen4": "zmm"}
WIDEST = 14
"""R of the widest NZ."""
FOURS = {"avx2": 3, "avx512": 7}
"""R of the widest BLK4."""


@functools.cache
def code(tier: str) -> dict[str, str]:
    """By name without lanes; one process a tier."""
    lanes = LANES[tier]
    full = [f"conv_f32_nz7x{lanes}s2", f"conv_f32_nz{WIDEST}x{lanes}s1"]
    full += [f"conv_f32_pair7x{lanes}s1"] if lanes == 16 else []
    if tier in FOURS:
        full += [f"conv_f32_blk4_{FOURS[tier]}x{lanes}s1", f"dwconv_f32_7x{lanes}s1"]
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


@pytest.mark.parametrize("tier", LANES)
@pytest.mark.parametrize("widest", [False, True])
def test_four_taps_are_their_weights_and_multiply_adds_from_memory(tier: str, widest: bool) -> None:
    """One load of four weights where shuffles deal them out, else four; the taps beyond, up to
    three, are no loop."""
    pixels = WIDEST if widest else 7
    weights = 4 if tier == "avx512" else 1
    for loop in hot(tier, f"nz{pixels}x"):
        assert loop.accumulators == pixels
        assert loop.from_memory == len(loop.multiply_adds) == 4 * pixels
        assert loop.loads == 4 * pixels + weights


@pytest.mark.parametrize("tier", ["avx512", "zen4"])
def test_pairs_load_a_pixel_once_for_both(tier: str) -> None:
    both, first, second = hot(tier, "pair7x")[:3]
    weights = 4 if tier == "avx512" else 1
    assert both.accumulators == 14 and len(both.multiply_adds) == 2 * 14
    assert (both.from_memory, both.loads) == (0, 2 * 7 + weights)
    for alone in (first, second):
        assert (alone.from_memory, alone.loads) == (4 * 7, 4 * 7 + weights)


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
        assert loop.loads == 3 + 4 if tier == "avx2" else 2 + 4 * 5 + 4


@pytest.mark.parametrize("tier", ["avx2", "avx512"])
def test_three_taps_of_a_depthwise_row_share_pixels(tier: str) -> None:
    loads = {len(loop.multiply_adds): loop.loads for loop in hot(tier, "dwconv")}
    assert loads == {21: 9 + 3, 7: 7 + 1}  # three taps at once, and one by one
