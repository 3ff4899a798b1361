"""A kernel for each Linear, with its predicted cost and its reason.

The cost model counts cycles for one column of T points on one core; its constants are fitted to
scripts/bench_kernels.py on Zen 3 with AVX2. What it must get right is the order of the
candidates, not the figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import EngineError
from engine.kernels.table import KERNELS, Kernel, kernels_of
from engine.packing import block_inputs
from engine.sparsity import Sparsity

STEP_CYCLES = 5.3
"""A step of four non-zeros by 16 points: 8 multiply-adds from L1 take 4.8, from L2 more."""
SLICE_CYCLES = 50.0
"""Besides its steps, a slice of a block: head, outputs in and out, a mispredicted exit."""
EXTRA_CYCLES = 8.0
"""A non-zero taken alone: outputs that fill no slice of four are all extras."""
BLOCK_CYCLES = 4.6
"""A 4x1 block by 16 points: 8 multiply-adds on one input, found by its offset."""
DENSE_CYCLES = 4.4
"""Four outputs of one input by 16 points: 8 multiply-adds, bound by the arithmetic."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One kernel considered for one node."""

    kernel: str
    cycles: float | None
    """Predicted for one column; None where it is refused."""
    reason: str

    def __str__(self) -> str:
        cost = "refused" if self.cycles is None else f"{self.cycles / 1000:.1f} kcycles"
        return f"{self.kernel}: {cost}, {self.reason}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided for a node, and what against."""

    node: str
    kernel: str
    reason: str
    candidates: tuple[Candidate, ...]


def _sell4(kernel: Kernel, s: Sparsity, points: int) -> Candidate:
    width = block_inputs(s.inputs, s.density, points)
    slices = -(-s.outputs // 4) * -(-s.inputs // max(1, width))
    extras = s.nonzeros * (s.outputs % 4) / max(1, s.outputs)
    cycles = (s.nonzeros - extras) / 4 * STEP_CYCLES + extras * EXTRA_CYCLES
    cycles += slices * SLICE_CYCLES
    return Candidate(kernel.name, cycles, f"{s.nonzeros} non-zeros in {slices} slices")


def _blk4(kernel: Kernel, s: Sparsity, points: int) -> Candidate:
    width = block_inputs(s.inputs, s.blocks * 4 / max(1, s.outputs * s.inputs), points)
    slices = -(-s.outputs // 4) * -(-s.inputs // max(1, width))
    cycles = s.blocks * BLOCK_CYCLES + slices * SLICE_CYCLES
    return Candidate(kernel.name, cycles, f"{s.blocks} blocks, {s.block_fill:.0%} full")


def _dense4(kernel: Kernel, s: Sparsity, points: int) -> Candidate:
    width = block_inputs(s.inputs, 1.0, points)
    slices = -(-s.outputs // 4) * -(-s.inputs // max(1, width))
    cycles = -(-s.outputs // 4) * s.inputs * DENSE_CYCLES + slices * SLICE_CYCLES
    return Candidate(kernel.name, cycles, f"all {s.outputs * s.inputs} weights")


_COSTS: dict[str, Callable[[Kernel, Sparsity, int], Candidate]] = {
    "sell4": _sell4,
    "blk4": _blk4,
    "dense4": _dense4,
}
_SKIPS_ZEROS = frozenset({"sell4", "blk4"})


def recorded(node: str, kernel: str) -> Choice:
    """The kernel that a run chose when it began: a resume and every scorer use it again."""
    names = [k.name for k in kernels_of("linear")]
    if kernel not in names:
        raise EngineError(
            f"{node}: expected one of {', '.join(names)}, got the kernel {kernel!r}; the recorded "
            "choices are of another release: start over without them"
        )
    return Choice(node, kernel, "as recorded", ())


def choose(node: str, sparsity: Sparsity, points: int, *, sparse: bool = True) -> Choice:
    """The cheapest kernel for W of this sparsity."""
    candidates = []
    for kernel in kernels_of("linear"):
        candidate = _COSTS[kernel.structure](kernel, sparsity, points)
        if kernel.structure in _SKIPS_ZEROS and not sparse:
            candidate = Candidate(kernel.name, None, "sparse kernels are off")
        candidates.append(candidate)
    best = min((c for c in candidates if c.cycles is not None), key=lambda c: c.cycles or 0.0)
    others = [c for c in candidates if c is not best]
    reason = f"{sparsity}; " + "; ".join(
        f"{(c.cycles or 0) / max(1.0, best.cycles or 0):.1f}x the cycles with {c.kernel}"
        if c.cycles is not None
        else f"{c.kernel}: {c.reason}"
        for c in others
    )
    return Choice(node, best.kernel, reason, tuple(candidates))


def structure_of(kernel: str) -> str:
    """How a linear kernel wants its weights: a key of packing.PACKINGS."""
    return KERNELS[kernel].structure
