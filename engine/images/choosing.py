"""How the weights of each convolution are packed, with the predicted cost and the reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.dispatch import Candidate, Choice
from engine.errors import EngineError
from engine.images.convolving import DEPTHWISE, GROUP_PIXELS, is_depthwise
from engine.ops.image_work import Convolution
from engine.window_packing import Taps, pairs_of


@dataclass(frozen=True, slots=True)
class Cycles:
    """What a kernel takes for one pixel of a lane group. A run is all that a visit adds to the sums
    of the outputs that are computed at once, in one block of channels (window_packing.py)."""

    tap: float
    """One weight that is not zero, or a block of four."""
    run: float = 0.0
    shared: float = 0.0
    """Two weights for one tap of a pair of outputs."""


CYCLES = {
    8: {"nz": Cycles(0.85), "blk4": Cycles(2.35)},
    16: {
        "nz": Cycles(1.16, 3.4),
        "pair": Cycles(1.07, 7.6, shared=2.06),
        "blk4": Cycles(4.0, 13.0),
    },
}
"""By lanes and structure. 16: fitted on Zen 4 to seven layers of ResNet-50, 80, 90 and 95 % zeros;
within 7 %, but for 1x1 64->256, where pairs are up to 13 % faster. 8: half a cycle for each
multiply-add, at 60 and 85 % of the peak of AVX2. Estimates: between no zeros, where blk4 is faster,
and 80 %, where nz is twice as fast, nothing was measured."""

SAMPLE = 256
"""Outputs of a group that are paired to see what pairs share."""


def choose_structure(
    node: str, work: Convolution, lanes: int, asked: str | None = None, *, sparse: bool = True
) -> Choice:
    """The cheaper structure, or the one that was recorded when a run began."""
    if asked is not None:
        return _recorded(node, asked, lanes)
    if is_depthwise(work):
        return Choice(node, DEPTHWISE, "each output has one input", ())
    candidates = _candidates(work, lanes, sparse)
    best = min((c for c in candidates if c.cycles is not None), key=lambda c: c.cycles or 0.0)
    others = [c for c in candidates if c is not best]
    reason = "; ".join(
        f"{(c.cycles or 0) / max(1.0, best.cycles or 0):.1f}x the cycles with {c.kernel}"
        if c.cycles is not None
        else f"{c.kernel}: {c.reason}"
        for c in others
    )
    return Choice(node, best.kernel, f"{best.reason}; {reason}", tuple(candidates))


def _candidates(work: Convolution, lanes: int, sparse: bool) -> tuple[Candidate, ...]:
    pixels = work.plane.height * work.plane.width
    nonzeros, blocks = int(np.count_nonzero(work.weights)), _blocks(work)
    outputs, runs = len(work.weights), _runs(work, lanes)
    found = []
    for structure, cycles in CYCLES[lanes].items():
        if structure == "blk4":
            taps, fill = cycles.tap * blocks, nonzeros / max(1, 4 * blocks)
            count, reason = -(-outputs // 4), f"{blocks} blocks, {fill:.0%} full"
        elif not sparse:
            found.append(Candidate(structure, None, "sparse kernels are off"))
            continue
        elif structure == "pair":
            both = _shared(work)
            taps = cycles.tap * (nonzeros - 2 * both) + cycles.shared * both
            share = 2 * both / max(1, nonzeros)
            count, reason = -(-outputs // 2), f"{nonzeros} non-zeros, {share:.0%} of them shared"
        else:
            taps, count, reason = cycles.tap * nonzeros, outputs, f"{nonzeros} non-zeros"
        found.append(Candidate(structure, (taps + cycles.run * count * runs) * pixels, reason))
    return tuple(found)


def _runs(work: Convolution, lanes: int) -> int:
    """Blocks that the inputs of an output are cut into."""
    channels, rows, columns = (int(n) for n in work.weights.shape[1:])
    pixels = work.reads[0].pixels
    dilations = work.reads[0].rows.dilation, pixels.dilation
    taps = Taps(lanes, 0, dilations, GROUP_PIXELS[lanes], pixels.stride)
    return rows * -(-channels // taps.block_channels(columns))


def _shared(work: Convolution) -> int:
    """About how many taps both outputs of a pair have, from the first outputs of each group."""
    outputs, found = len(work.weights) // work.group, 0
    for first in range(0, len(work.weights), outputs):
        present = (work.weights[first : first + min(outputs, SAMPLE)] != 0).reshape(
            min(outputs, SAMPLE), -1
        )
        a, b = pairs_of(present).T
        found += int((present[a] & present[b])[a != b].sum())
    return found * outputs // min(outputs, SAMPLE)


def _blocks(work: Convolution) -> int:
    """Blocks of 4 neighbouring outputs of a group with a weight for the same tap of an input."""
    outputs = len(work.weights) // work.group
    taps = (work.weights != 0).reshape(work.group, outputs, -1)
    padded = np.zeros((work.group, -(-outputs // 4) * 4, taps.shape[2]), bool)
    padded[:, :outputs] = taps
    return int(padded.reshape(work.group, -1, 4, taps.shape[2]).any(axis=2).sum())


def _recorded(node: str, asked: str, lanes: int) -> Choice:
    known = (*CYCLES[lanes], DEPTHWISE)
    if asked not in known:
        raise EngineError(
            f"{node}: expected one of {', '.join(known)}, got {asked!r}; the "
            "recorded choices are of another release: start over without them"
        )
    return Choice(node, asked, "as recorded", ())
