"""The machine code of the hot kernels, read for all tiers wherever this runs: nothing is executed.

What a loop must be stands in `faults`; that each of its rules can fail is shown by kernels as they
are not used (32 points on AVX2, 16 on AVX-512) and by loops with one instruction put in.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass, replace

import pytest

from scripts.machine_code import TIERS, Loop, assembly, loops

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86's machine code")

REGISTER = {"avx2": "ymm", "avx512": "zmm", "zen4": "zmm"}
POINTS = {"avx2": 16, "avx512": 32, "zen4": 32}
SPARSE = "spmm_f32_sell4x"
PRODUCTS = (SPARSE, "spmm_f32_blk4x", "gemm_f32_4x")
ATTENTION = "attention_f32_x"
ATTENTIONS = (ATTENTION, "attention_near_f32_x")
UNUSED = {
    "avx2": ("spmm_f32_sell4x32", "gemm_f32_4x32"),
    "avx512": ("gemm_f32_4x16",),
    "zen4": (),
}
"""Widths that a tier can run, because a run goes on with the width it began with, and should not
choose."""
EXPONENTIAL = 6
"""Multiply-adds of one exponential."""


@functools.cache
def code(tier: str) -> dict[str, str]:
    """One process a tier; about five seconds."""
    used = [f"{name}{POINTS[tier]}" for name in (*PRODUCTS, *ATTENTIONS)]
    return assembly([*used, *UNUSED[tier]], tier)


def text_of(name: str, tier: str) -> str:
    return code(tier)[f"{name}{POINTS[tier]}"]


def accumulating(assembly_text: str) -> list[Loop]:
    """Loops whose sums stay in registers: those that all the time goes to."""
    return [
        x for x in loops(assembly_text) if x.accumulators >= 4 and len(x.stores) == len(x.spilled)
    ]


def exponentials(assembly_text: str) -> list[Loop]:
    return [x for x in loops(assembly_text) if len(x.multiply_adds) % EXPONENTIAL == 0]


def faults(loop: Loop, tier: str, register: str | None = None) -> list[str]:
    """What no hot loop may have; weights may be dealt from registers of the tier's kind."""
    found = []
    if loop.on_stack:
        found.append(f"vectors on the stack: {loop.on_stack}")
    wanted = REGISTER[tier] if register is None else register
    if wanted not in loop.registers or not loop.registers <= {wanted, REGISTER[tier]}:
        found.append(f"registers: {sorted(loop.registers)}")
    if loop.calls:
        found.append(f"calls: {loop.calls}")
    if loop.by_lane:
        found.append(f"lane by lane: {loop.by_lane}")
    return found


@dataclass(frozen=True)
class Widths:
    """A product's loops by the rows that they are for."""

    few: list[Loop]
    halves: list[Loop]
    """None on AVX2, whose half of a tile is few."""
    three: list[Loop]
    """Three registers of eight."""
    full: Loop


def by_width(name: str, tier: str) -> Widths:
    *found, full = accumulating(text_of(name, tier))
    three = [x for x in found if x.accumulators == 12]
    halves = [x for x in found if REGISTER[tier] in x.registers and tier != "avx2"]
    few = [x for x in found if x not in (*three, *halves)]
    return Widths(few, halves, three, full)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_keep_sums_in_registers(name: str, tier: str) -> None:
    found = by_width(name, tier)
    alone = {4} if name == SPARSE else {8, 4}  # of dense weights, two slices at once
    assert {x.accumulators for x in found.halves} == (set() if tier == "avx2" else alone)
    full = found.full
    assert full.accumulators == len(full.multiply_adds) == 8  # four outputs of two registers
    assert [fault for x in (*found.halves, full) for fault in faults(x, tier)] == []


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_three_registers_of_eight_where_wide_ones_take_two_turns(name: str, tier: str) -> None:
    three = by_width(name, tier).three
    assert len(three) == (tier == "zen4")
    assert [fault for x in three for fault in faults(x, tier, register="ymm")] == []


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_few_rows_take_two_slices_at_once(name: str, tier: str) -> None:
    """And alone what one of them has more than the other, or the last of an odd number."""
    few = by_width(name, tier).few
    assert {x.accumulators for x in few} == {8, 4}
    assert [fault for x in few for fault in faults(x, tier, register="ymm")] == []


@pytest.mark.parametrize("tier", TIERS)
def test_sparse_products_read_inputs_within_multiply_adds(tier: str) -> None:
    found = accumulating(text_of(SPARSE, tier))
    assert [x.from_memory for x in found] == [len(x.multiply_adds) for x in found]
    assert {len(x.multiply_adds) for x in found} == ({4, 8, 12} if tier == "zen4" else {4, 8})


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_weights_are_asked_for_ahead_where_that_was_measured_to_pay(name: str, tier: str) -> None:
    """In every loop, but for the last slice of dense weights where two are taken at once."""
    for loop in accumulating(text_of(name, tier)):
        alone = name == "gemm_f32_4x" and loop.accumulators == 4
        asked = any(line.startswith("prefetcht0") for line in loop.lines)
        assert asked == (tier == "zen4" and not alone), loop.lines


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ["spmm_f32_blk4x", "gemm_f32_4x"])
def test_four_outputs_share_an_input(name: str, tier: str) -> None:
    """Two loads of the input and those of four weights, all at once where a shuffle deals them."""
    full = accumulating(text_of(name, tier))[-1]
    assert full.loads == {"avx2": 2 + 1, "avx512": 2 + 4, "zen4": 2 + 1}[tier]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_keeps_sums_in_registers(name: str, tier: str) -> None:
    found = accumulating(text_of(name, tier))
    assert len(found) >= 6  # scores and values of the tile, and of its halves
    # of 32 registers the sums of eight keys take half, of 16 those of four
    assert max(x.accumulators for x in found) == {"avx2": 8, "avx512": 16, "zen4": 16}[tier]
    assert [fault for x in found for fault in faults(x, tier)] == []


@pytest.mark.parametrize("tier", TIERS)
def test_keys_that_some_lanes_do_not_see_take_no_compare(tier: str) -> None:
    """The sign of a share says it, which one instruction turns into a choice of lanes."""
    sign = {"avx2": "vblendvps", "avx512": "vpmovd2m", "zen4": "vpmovd2m"}[tier]
    products = [x for x in loops(text_of(ATTENTIONS[1], tier)) if x.multiply_adds and not x.stores]
    edges = [x for x in products if any(sign in line for line in x.lines)]
    assert len(edges) == 6  # before and behind what all see; of the tile, and of its halves
    assert [fault for x in edges for fault in faults(x, tier)] == []
    assert not any("vcmp" in line for x in edges for line in x.lines)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_exponentials_stay_in_lanes(name: str, tier: str) -> None:
    """On AVX2 its constants and two vectors need more than 16 registers: two are spilled."""
    text = text_of(name, tier)
    found = exponentials(text)
    assert len(found) >= 2  # of the tile, and of its halves
    assert "vcvtt" not in text
    for loop in found:
        assert (loop.registers, loop.calls, loop.by_lane) == ({REGISTER[tier]}, [], [])
        assert len(loop.spilled) <= {"avx2": 2, "avx512": 0, "zen4": 0}[tier]


@pytest.mark.parametrize("kernel", UNUSED["avx2"])
def test_32_points_spill_on_avx2(kernel: str) -> None:
    """Why AVX2 has 16, and that spills are seen."""
    full = accumulating(code("avx2")[kernel])[-1]
    assert len(full.multiply_adds) == 16
    assert full.spilled
    assert any("stack" in fault for fault in faults(full, "avx2"))


def test_16_points_leave_half_of_the_accumulators_on_avx512() -> None:
    """Why AVX-512 has 32, and that accumulators and kinds of registers are counted."""
    *few, full = accumulating(code("avx512")["gemm_f32_4x16"])
    assert full.accumulators == 4
    assert all("registers: ['ymm']" in faults(x, "avx512") for x in few)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("vmovups %ymm3, 32(%rsp)", "stack"),
        ("vmovups -48(%rbp), %ymm3", "stack"),
        ("vfmadd231ps 64(%rsp), %ymm1, %ymm2", "stack"),
        ("vmovups (%rax), %zmm3", "registers"),
        ("callq *%rax", "calls"),
        ("vcvttss2si %xmm1, %eax", "lane by lane"),
        ("vextractf128 $1, %ymm1, %xmm2", "lane by lane"),
    ],
)
def test_one_instruction_put_in_is_seen(line: str, fault: str) -> None:
    good = accumulating(text_of("gemm_f32_4x", "avx2"))[-1]
    assert faults(good, "avx2") == []
    bad = replace(good, lines=(line, *good.lines), frame=True)
    assert any(fault in x for x in faults(bad, "avx2"))


def test_a_frame_pointer_counts_as_stack_only_where_there_is_one() -> None:
    body = ".LBB0_1:\nvfmadd231ps (%rbp,%r8), %ymm1, %ymm2\njne .LBB0_1\nretq\n"
    (plain,), (framed,) = loops(body), loops(f"movq\t%rsp, %rbp\n{body}")
    assert not plain.on_stack
    assert framed.on_stack


def test_loops_are_found_and_what_only_looks_like_one_is_not() -> None:
    text = """
        .LBB0_1:
            vfmadd231ps\t%ymm1, %ymm2, %ymm3   # in a loop of two blocks
        .LBB0_2:
            vfmadd231ps\t(%rax), %ymm2, %ymm3
            .p2align 4
            jne .LBB0_2
            addq $8, %rax
            jne .LBB0_1
        .LBB0_3:
            addq $8, %rax
            jne .LBB0_3
            retq
    """
    (found,) = loops(text)
    assert found.lines == ("vfmadd231ps (%rax), %ymm2, %ymm3", "jne .LBB0_2")
    assert (found.from_memory, found.accumulators, found.loads) == (1, 1, 1)
    assert found.stores == []
