"""Hollow programs: all of a program but its weights.

A driver names, prices and compares programs, and never runs one. Of a model that is larger than
its memory it packs one node's weights after the other, and keeps of each array what those want:
type, shape, and a hash of what was in it. A hollow program prints, prices and hashes as the whole
one does; a session refuses it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.digest import content_of
from engine.mapped import stays_in_place

Array = np.ndarray[Any, Any]

SMALL_NBYTES = 1 << 14
"""Arrays up to here are kept: they are numbers that a program is read by."""


class Hollow(Array):
    """An array of a type and a shape, without memory; what is read of it means nothing."""

    content: bytes
    """The hash of what it stands for."""
    in_place: bool
    """Whether that lies in a file, and stays there."""


def hollow(array: Array) -> Array:
    """What stands for the array in a program that nobody runs; itself if it is small."""
    if array.nbytes <= SMALL_NBYTES or isinstance(array, Hollow):
        return array
    found = np.broadcast_to(np.zeros((), array.dtype), array.shape).view(Hollow)
    found.content, found.in_place = content_of(array), stays_in_place(array)
    return found
