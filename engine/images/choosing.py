"""How the weights of each convolution are packed, with the predicted cost and the reason."""

from __future__ import annotations

import numpy as np

from engine.dispatch import Candidate, Choice
from engine.errors import EngineError
from engine.images.convolving import DEPTHWISE, is_depthwise
from engine.ops.image_work import Convolution

CYCLES = {"nz": 0.85, "blk4": 2.35}
"""Of a pixel of 8 lanes on AVX2, for a weight that is not zero and for a block of 4 outputs that
share an input: half a cycle for each multiply-add, at 60 and 85 % of the peak. Estimates: between
no zeros, where blk4 is faster, and 80 %, where nz is twice as fast, nothing was measured."""


def choose_structure(
    node: str, work: Convolution, asked: str | None = None, *, sparse: bool = True
) -> Choice:
    """The cheaper structure, or the one that was recorded when a run began."""
    if asked is not None:
        return _recorded(node, asked)
    if is_depthwise(work):
        return Choice(node, DEPTHWISE, "each output has one input", ())
    candidates = _candidates(work, sparse)
    best = min((c for c in candidates if c.cycles is not None), key=lambda c: c.cycles or 0.0)
    others = [c for c in candidates if c is not best]
    reason = "; ".join(
        f"{(c.cycles or 0) / max(1.0, best.cycles or 0):.1f}x the cycles with {c.kernel}"
        if c.cycles is not None
        else f"{c.kernel}: {c.reason}"
        for c in others
    )
    return Choice(node, best.kernel, f"{best.reason}; {reason}", tuple(candidates))


def _candidates(work: Convolution, sparse: bool) -> tuple[Candidate, ...]:
    pixels = work.plane.height * work.plane.width
    nonzeros, blocks = int(np.count_nonzero(work.weights)), _blocks(work)
    nz = Candidate("nz", nonzeros * pixels * CYCLES["nz"], f"{nonzeros} non-zeros")
    if not sparse:
        nz = Candidate("nz", None, "sparse kernels are off")
    fill = nonzeros / max(1, 4 * blocks)
    blk4 = Candidate("blk4", blocks * pixels * CYCLES["blk4"], f"{blocks} blocks, {fill:.0%} full")
    return nz, blk4


def _blocks(work: Convolution) -> int:
    """Blocks of 4 neighbouring outputs of a group with a weight for the same tap of an input."""
    outputs = len(work.weights) // work.group
    taps = (work.weights != 0).reshape(work.group, outputs, -1)
    padded = np.zeros((work.group, -(-outputs // 4) * 4, taps.shape[2]), bool)
    padded[:, :outputs] = taps
    return int(padded.reshape(work.group, -1, 4, taps.shape[2]).any(axis=2).sum())


def _recorded(node: str, asked: str) -> Choice:
    if asked not in (*CYCLES, DEPTHWISE):
        raise EngineError(
            f"{node}: expected one of {', '.join((*CYCLES, DEPTHWISE))}, got {asked!r}; the "
            "recorded choices are of another release: start over without them"
        )
    return Choice(node, asked, "as recorded", ())
