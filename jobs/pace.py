"""Pace: how long leases take as a rule, and how far one is overdue."""

from __future__ import annotations

from collections import deque
from statistics import median

REMEMBERED = 64
"""Leases that tell the pace: the latest, for the pace may change."""

PATIENCE = 2.0
"""A lease is overdue when it takes so many times as long as the median."""

LEAST_SECONDS = 1.0
"""No lease is overdue sooner: below that, noise outweighs what a second run could gain."""


class Pace:
    """The latest leases that ended well: seconds from loan to part, and decoded bytes."""

    def __init__(self) -> None:
        self._took: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)
        self._usual: tuple[float, float] | None = None
        """Median of the seconds and of the bytes, until another lease ends."""

    def took(self, seconds: float, nbytes: int) -> None:
        """A lease gave a part; the seconds count what it waited behind another lease, too."""
        self._took.append((seconds, nbytes))
        self._usual = None

    def overdue(self, seconds: float, nbytes: int) -> float:
        """Seconds by which a lease that is out for `seconds` is late; negative before that."""
        if not self._took:
            return -1.0
        if self._usual is None:
            self._usual = (median(s for s, _ in self._took), median(n for _, n in self._took))
        usual, typical = self._usual
        size = nbytes / max(1.0, typical)
        return seconds - max(LEAST_SECONDS, PATIENCE * usual * max(1.0, size))
