"""Rotary positions: pairs of features of each head turned by an angle that grows with the place.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021. Cosines and sines
come as a panel of their own, looked up by a token's place, as an embedding is.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from engine.kernels.functions import inline
from engine.kernels.vector import load, load_i64, store, zeros


@inline
def _turn(shape, size, x, y, turns, pairs, stride, apart):
    """Features 2 by 2, `apart` bytes from each other; the next pair is `stride` bytes on."""
    for _ in range(pairs):
        one, two = load(shape, x), load(shape, x + apart)
        cosine, sine = load(shape, turns), load(shape, turns + pairs * size)
        store(y, one * cosine - two * sine)
        store(y + apart, two * cosine + one * sine)
        x += stride
        y += stride
        turns += size


def rotary(points, interleaved):
    """y[heads * depth, T] = x, the first 2 * pairs features of each head turned: i with i + pairs,
    or, `interleaved`, 2 i with 2 i + 1.

    Words: x, turns (float32[2 * pairs, T]: cosines, then sines), y, heads, depth, pairs.
    """

    def kernel(step, arena, row, live, borders):
        shape, size = zeros(points), 4 * points
        x, turns, y = (
            arena + load_i64(step + 8),
            arena + load_i64(step + 16),
            arena + load_i64(step + 24),
        )
        depth, pairs = load_i64(step + 40), load_i64(step + 48)
        for _ in range(load_i64(step + 32)):
            if interleaved:
                _turn(shape, size, x, y, turns, pairs, 2 * size, size)
            else:
                _turn(shape, size, x, y, turns, pairs, size, pairs * size)
            for k in range(2 * pairs, depth):
                store(y + k * size, load(shape, x + k * size))
            x += depth * size
            y += depth * size

    return kernel
