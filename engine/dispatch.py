"""A kernel for each Linear, with its predicted cost and its reason.

The cost model counts cycles for one tile of T points on one core; its constants are fitted to
measured kernels, width by width. What it must get right is the order of the candidates, not the
figure; engine/measuring.py says where it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import EngineError
from engine.kernels.registers import shuffles_are_free
from engine.kernels.row import Kernel
from engine.kernels.table import KERNELS, kernels_of
from engine.packing import block_inputs, row_block_inputs
from engine.sparsity import Sparsity


@dataclass(frozen=True, slots=True)
class Cycles:
    """What the parts of a product cost one core, by a tile of T points."""

    step: float
    """Of sell4: four non-zeros, 8 multiply-adds on an input each."""
    block: float
    """Of blk4: a 4x1 block, 8 multiply-adds on one input, found by its offset."""
    dense: float
    """Of dense4: four outputs of one input, 8 multiply-adds."""
    slice: float
    """Besides its steps, a slice of a block: head, outputs in and out, a mispredicted exit."""
    extra: float
    """A non-zero taken alone: outputs that fill no slice of four are all extras."""


_NARROW = Cycles(step=5.3, block=4.6, dense=4.4, slice=50.0, extra=8.0)
CYCLES = {
    (16, False): _NARROW,
    (16, True): _NARROW,
    (32, False): Cycles(step=8.5, block=5.5, dense=5.9, slice=28.0, extra=11.0),
    (32, True): Cycles(step=10.0, block=8.1, dense=8.2, slice=35.0, extra=11.0),
}
"""By points, and by whether shuffles are free (kernels/registers.py). 16 is fitted on Zen 3 with
AVX2: a step takes 4.8 with all in L1, from L2 more.

32 without free shuffles is fitted on a Xeon with AVX-512, 140 matrices from 256x256 to 2048x2048: a
step takes 8.0 to 9.5, so sparse pays from a third of zeros on; a block 5.2 to 5.8, dense 5.0 in L1
and 5.8 to 6.4 from L2. So there blk4 runs matrices without zeros, too: MLP of the bench, dense, 64
rows: 14.3 ms with it and 16.7 with dense4. The same Xeon with AVX2 and 16 points takes 7.5, 5.1 and
4.9: below a third of zeros dense is up to a fifth faster than the sell4 that the figures of Zen 3
choose.

32 with them is fitted on Zen 4, six shapes from 768x768 to 2048x2048: a register of 64 bytes takes
its halves of 32 one after the other, so eight multiply-adds are 8 cycles, which blk4 and dense4
reach."""


def _cycles(points: int) -> Cycles:
    return CYCLES[points, shuffles_are_free()]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One kernel considered for one node."""

    kernel: str
    cycles: float | None
    """Predicted for one tile; None where it is refused."""
    reason: str
    microseconds: float | None = None
    """Measured for one tile; None where the prediction left no doubt, or nobody measured."""

    def __str__(self) -> str:
        cost = "refused" if self.cycles is None else f"{self.cycles / 1000:.1f} kcycles"
        timed = "" if self.microseconds is None else f", measured {self.microseconds:.1f} us"
        return f"{self.kernel}: {cost}{timed}, {self.reason}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided for a node, and what against."""

    node: str
    kernel: str
    reason: str
    candidates: tuple[Candidate, ...]


def _sell4(kernel: Kernel, s: Sparsity, points: int) -> Candidate:
    cost, width = _cycles(points), block_inputs(s.inputs, s.density, points)
    slices = -(-s.outputs // 4) * -(-s.inputs // max(1, width))
    extras = s.nonzeros * (s.outputs % 4) / max(1, s.outputs)
    cycles = (s.nonzeros - extras) / 4 * cost.step + extras * cost.extra
    cycles += slices * cost.slice
    return Candidate(kernel.name, cycles, f"{s.nonzeros} non-zeros in {slices} slices")


def _blk4(kernel: Kernel, s: Sparsity, points: int) -> Candidate:
    width = row_block_inputs(s.inputs, s.blocks * 4 / max(1, s.outputs * s.inputs), points)
    slices = -(-s.outputs // 4) * -(-s.inputs // max(1, width))
    cycles = s.blocks * _cycles(points).block + slices * _cycles(points).slice
    return Candidate(kernel.name, cycles, f"{s.blocks} blocks, {s.block_fill:.0%} full")


def _dense4(kernel: Kernel, s: Sparsity, points: int) -> Candidate:
    width = block_inputs(s.inputs, 1.0, points)
    slices = -(-s.outputs // 4) * -(-s.inputs // max(1, width))
    cost = _cycles(points)
    cycles = -(-s.outputs // 4) * s.inputs * cost.dense + slices * cost.slice
    return Candidate(kernel.name, cycles, f"all {s.outputs * s.inputs} weights")


_COSTS: dict[str, Callable[[Kernel, Sparsity, int], Candidate]] = {
    "sell4": _sell4,
    "blk4": _blk4,
    "dense4": _dense4,
}
_SKIPS_ZEROS = frozenset({"sell4", "blk4"})


def recorded(node: str, kernel: str, points: int) -> Choice:
    """The kernel that a run chose when it began: a resume and every scorer use it again."""
    names = [k.name for k in kernels_of("linear", points)]
    if kernel not in names:
        raise EngineError(
            f"{node}: expected one of {', '.join(names)}, got the kernel {kernel!r}; the recorded "
            "choices are of another release: start over without them"
        )
    return Choice(node, kernel, "as recorded", ())


def choose(node: str, sparsity: Sparsity, points: int, *, sparse: bool = True) -> Choice:
    """The cheapest kernel for W of this sparsity."""
    candidates = []
    for kernel in kernels_of("linear", points):
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
