"""How the weights of each convolution are packed, with the predicted cost and the reason."""

from __future__ import annotations

import numpy as np

from engine.dispatch import Candidate, Choice
from engine.errors import EngineError
from engine.images.cycles import (
    DEPTHWISE,
    grouping_of,
    is_depthwise,
    packing_of,
    row_cycles,
    skips_zeros,
    structures_for,
)
from engine.ops.image_work import Convolution
from engine.window_packing import pairs_of

SAMPLE = 256
"""Outputs of a group that are paired to see what pairs share."""


def choose_structure(
    node: str,
    work: Convolution,
    lanes: int,
    asked: str | None = None,
    *,
    sparse: bool = True,
    by_two: bool = False,
) -> Choice:
    """The cheapest structure, or the one that was recorded when a run began. `by_two`: registers
    may hold two pixels of 8 images."""
    if asked is not None:
        return _recorded(node, asked, work, lanes)
    if is_depthwise(work):
        return Choice(node, DEPTHWISE, "each output has one input", ())
    structures = structures_for(work, lanes, by_two=by_two)
    candidates = [_candidate(structure, work, lanes, sparse) for structure in structures]
    best = min((c for c in candidates if c.cycles is not None), key=lambda c: c.cycles or 0.0)
    others = [c for c in candidates if c is not best]
    reason = "; ".join(
        f"{(c.cycles or 0) / max(1.0, best.cycles or 0):.1f}x the cycles with {c.kernel}"
        if c.cycles is not None
        else f"{c.kernel}: {c.reason}"
        for c in others
    )
    return Choice(node, best.kernel, f"{best.reason}; {reason}", tuple(candidates))


def _candidate(structure: str, work: Convolution, lanes: int, sparse: bool) -> Candidate:
    if skips_zeros(structure) and not sparse:
        return Candidate(structure, None, "sparse kernels are off")
    taps, shared, reason = _TAPS[packing_of(structure)](work)
    grouping = grouping_of(work, structure, lanes)
    how = (taps, shared, grouping.block_nbytes)
    row = row_cycles(work, structure, lanes, grouping.pixels, *how)
    return Candidate(structure, work.plane.height * row, reason)


def _alone(work: Convolution) -> tuple[int, int, str]:
    nonzeros = int(np.count_nonzero(work.weights))
    return nonzeros, 0, f"{nonzeros} non-zeros"


def _paired(work: Convolution) -> tuple[int, int, str]:
    nonzeros, _, reason = _alone(work)
    shared = _shared(work)
    share = 2 * shared / max(1, nonzeros)
    return nonzeros - 2 * shared, shared, f"{reason}, {share:.0%} of them shared"


def _in_fours(work: Convolution) -> tuple[int, int, str]:
    blocks = _blocks(work)
    fill = np.count_nonzero(work.weights) / max(1, 4 * blocks)
    return blocks, 0, f"{blocks} blocks, {fill:.0%} full"


_TAPS = {"nz": _alone, "pair": _paired, "blk4": _in_fours}
"""By packing: taps of all outputs, those that two share, and both in words."""


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


def _recorded(node: str, asked: str, work: Convolution, lanes: int) -> Choice:
    ways = (structures_for(work, lanes, by_two=by_two) for by_two in (False, True))
    known = list(dict.fromkeys([s for way in ways for s in way] + [DEPTHWISE]))
    if asked not in known:
        raise EngineError(
            f"{node}: expected one of {', '.join(known)}, got {asked!r}; the "
            "recorded choices are of another release: start over without them"
        )
    return Choice(node, asked, "as recorded", ())
