"""Which way to pack a convolution's weights, confirmed by a short timing.

Outputs in pairs and outputs alone are often predicted to take nearly the same. They add the
products of an output in another order, so the last bits depend on the choice: it is recorded with a
run, and a resume and every scorer take it as recorded.

The convolutions of ResNet-50, 90 % zeros, took 3 s to time, once, numba's start with them (Zen 4,
busy). Of them only the first changed, from blocks of four to pairs, which are 1.07 times as fast.
"""

from __future__ import annotations

from engine.confirming import Timer, close_to, settled
from engine.dispatch import Choice
from engine.ops.image_work import Convolution

WORTH = 2e6
"""Predicted cycles for a group of images from which on a convolution is worth timing: below, 16
images take less than a millisecond."""


def confirmed_structure(choice: Choice, work: Convolution, lanes: int, timer: Timer) -> Choice:
    """The same choice, or the structure that was measured to be faster, with what was measured."""
    close = close_to(choice, WORTH)
    return settled(choice, timer.convolution(work, close, lanes)) if close else choice


def kind_of(work: Convolution, lanes: int) -> str:
    """What convolutions that take the same time have in common."""
    x, *rest = work.reads
    outputs = len(work.weights) // work.group
    taps = (work.weights != 0).reshape(work.group, outputs, -1)
    fours = taps[:, : outputs // 4 * 4].reshape(work.group, outputs // 4, 4, -1)
    blocks = float(fours.any(axis=2).mean()) if fours.size else 1.0
    return (
        f"{lanes} images, {'x'.join(map(str, work.weights.shape))} in {work.group}, "
        f"{work.plane.height}x{work.plane.width} pixels, stride {x.rows.stride}x{x.pixels.stride}, "
        f"dilation {x.rows.dilation}x{x.pixels.dilation}, {'added to another, ' if rest else ''}"
        f"density {float(taps.mean()):.2f}, blocks {blocks:.2f}"
    )
