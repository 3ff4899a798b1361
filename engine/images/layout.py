"""How a ring lies in memory: `[slots][channels][width][lanes]` float32, a slot a row of pixels."""

from __future__ import annotations

from dataclasses import dataclass

from engine.arena import LINE
from engine.images.schedule import Ring
from engine.ops.image_work import Plane

WORDS = 5
"""Of a grid: base, first slot, slots, bytes of a slot, bytes of a channel."""
NO_GRID = (0, 0, 1, 0, 0)


@dataclass(frozen=True, slots=True)
class Layout:
    """One value's ring, for images side by side in `lanes`."""

    ring: Ring
    plane: Plane
    lanes: int

    @property
    def pixel_nbytes(self) -> int:
        return 4 * self.lanes

    @property
    def width(self) -> int:
        """Pixels of a row: padding, the image's, padding, and as many more as keep channels from
        falling into the same sets of L1; whole lines, where an image's row is."""
        width = self.ring.left + self.plane.width + self.ring.right
        rest = 1 if self.plane.width * self.pixel_nbytes % LINE else LINE
        while width > 1 and (
            width * self.pixel_nbytes // LINE % 2 == 0 or width * self.pixel_nbytes % rest
        ):
            width += 1
        return width

    @property
    def lead(self) -> int:
        """Bytes in front of the first slot, so that the first pixel of each row lies on a line
        where rows are whole lines: kernels of two pixels a register load them so."""
        return -self.ring.left * self.pixel_nbytes % LINE

    @property
    def channel_nbytes(self) -> int:
        return self.width * self.pixel_nbytes

    @property
    def slot_nbytes(self) -> int:
        return self.plane.channels * self.channel_nbytes

    @property
    def nbytes(self) -> int:
        return self.lead + self.ring.slots * self.slot_nbytes

    def grid(self, offset: int, row: int, channel: int = 0, pixel: int = 0) -> tuple[int, ...]:
        """Words that point to a pixel of a row, in an arena where the ring lies at `offset`."""
        ring = self.ring
        base = channel * self.channel_nbytes + (ring.left + pixel) * self.pixel_nbytes
        slot = (row + ring.top) % ring.slots
        return offset + self.lead + base, slot, ring.slots, self.slot_nbytes, self.channel_nbytes
