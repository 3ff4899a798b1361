"""How the weights of each convolution are packed, with the predicted cost and the reason."""

from __future__ import annotations

import numpy as np

from engine.dispatch import Candidate, Choice
from engine.errors import EngineError
from engine.images.cycles import CYCLES, DEPTHWISE, is_depthwise, kernel_of, row_cycles
from engine.ops.image_work import Convolution
from engine.window_packing import pairs_of

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
    nonzeros, blocks = int(np.count_nonzero(work.weights)), _blocks(work)
    found = []
    for structure in CYCLES[lanes]:
        taps, shared, reason = nonzeros, 0, f"{nonzeros} non-zeros"
        if structure == "blk4":
            taps, fill = blocks, nonzeros / max(1, 4 * blocks)
            reason = f"{blocks} blocks, {fill:.0%} full"
        elif not sparse:
            found.append(Candidate(structure, None, "sparse kernels are off"))
            continue
        elif structure == "pair":
            shared = _shared(work)
            taps = nonzeros - 2 * shared
            reason = f"{reason}, {2 * shared / max(1, nonzeros):.0%} of them shared"
        pixels = kernel_of(work, structure, lanes).pixels
        row = row_cycles(work, structure, lanes, pixels, taps, shared)
        found.append(Candidate(structure, work.plane.height * row, reason))
    return tuple(found)


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
