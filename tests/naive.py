"""Slow, obvious twins of what the engine does cleverly. Nothing here is shared with the engine."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def linear(weights: Array, bias: Array, x: Array, low: float, high: float) -> Array:
    """y[M, T] = clamp(W[M, K] @ x[K, T] + bias), touching non-zero weights only, in float64."""
    outputs, points = len(weights), x.shape[1]
    y = np.zeros((outputs, points))
    with np.errstate(all="ignore"):
        for m in range(outputs):
            y[m] = bias[m]
            for k in np.flatnonzero(weights[m] != 0):
                y[m] += float(weights[m, k]) * x[k].astype(np.float64)
    return clamp(y, low, high)


def dense_linear(weights: Array, bias: Array, x: Array, low: float, high: float) -> Array:
    """The same with every weight multiplied: zero times infinity is NaN."""
    with np.errstate(all="ignore"):
        wide = weights.astype(np.float64)[:, :, None] * x.astype(np.float64)[None]
        return clamp(wide.sum(axis=1) + bias[:, None], low, high)


def block_linear(weights: Array, bias: Array, x: Array, low: float, high: float) -> Array:
    """The same touching whole blocks of four outputs by one input: zeros in them are multiplied."""
    outputs, points = len(weights), x.shape[1]
    y = np.repeat(bias.astype(np.float64)[:, None], points, axis=1)
    with np.errstate(all="ignore"):
        for first in range(0, outputs, 4):
            block = weights[first : first + 4]
            for k in np.flatnonzero((block != 0).any(axis=0)):
                y[first : first + 4] += block[:, k : k + 1].astype(np.float64) * x[k]
    return clamp(y, low, high)


def conv(x: Array, weights: Array, strides: tuple[int, int], dilations: tuple[int, int]) -> Array:
    """y[N, M, H', W'] = conv(x[N, C, H, W], W[M, C, kh, kw]), x already padded, touching non-zero
    weights only, in float64."""
    outputs, _, kh, kw = weights.shape
    high, wide = (
        (x.shape[2 + i] - (k - 1) * dilations[i] - 1) // strides[i] + 1
        for i, k in enumerate((kh, kw))
    )
    y = np.zeros((len(x), outputs, high, wide))
    with np.errstate(all="ignore"):
        for m, c, ky, kx in np.argwhere(weights != 0):
            rows = x[:, c, ky * dilations[0] :][:, : (high - 1) * strides[0] + 1 : strides[0]]
            pixels = rows[:, :, kx * dilations[1] :][:, :, : (wide - 1) * strides[1] + 1]
            y[:, m] += float(weights[m, c, ky, kx]) * pixels[:, :, :: strides[1]].astype(np.float64)
    return y


def clamp(y: Array, low: float, high: float) -> Array:
    """Bounds that let NaN through."""
    y = np.where(y < low, low, y)
    return np.where(y > high, high, y)


def softmax(x: Array, axis: int) -> Array:
    """exp(x) / sum(exp(x)) in float64, shifted so that nothing overflows."""
    with np.errstate(all="ignore"):
        e = np.exp(x.astype(np.float64) - x.max(axis=axis, keepdims=True))
        return np.asarray(e / e.sum(axis=axis, keepdims=True))


def unpack_sell4(
    streams: tuple[Array, ...], numbers: tuple[int, ...], outputs: int, inputs: int, points: int
) -> Array:
    """W[M, K] back from SELL4 streams, entry by entry."""
    head, offsets, values, extras = streams
    blocks, slices, block_nbytes, nbytes = numbers
    assert nbytes == inputs * 4 * points
    size = 4 * points
    weights = np.zeros((outputs, inputs), np.float32)
    step = extra = 0
    for block in range(blocks):
        start = block * block_nbytes // size
        for s in range(slices):
            entry = head[(block * slices + s) * 8 :][:8]
            for _ in range(entry[4]):
                for lane in range(4):
                    k = start + 8 * int(offsets[4 * step + lane]) // size
                    weights[entry[lane] // size, k] += values[4 * step + lane]
                step += 1
            for _ in range(entry[5]):
                row, column, bits = extras[4 * extra : 4 * extra + 3]
                weights[row // size, start + column // size] += np.int32(bits).view(np.float32)
                extra += 1
    assert 4 * step == len(offsets) == len(values)
    assert 4 * extra == len(extras)
    return weights


def extreme(x: Array, most: str, which: str) -> Array:
    """Where the largest or smallest of each x[rows, outer, :, inner] lies, the first or the last
    of equal ones. What is compared with NaN neither wins nor loses, so a NaN in front stays."""
    found = np.zeros((x.shape[0], x.shape[1], x.shape[3]), np.int64)
    for row, outer, inner in np.ndindex(found.shape):
        line, best = x[row, outer, :, inner], 0
        for k in range(1, len(line)):
            wins = line[k] > line[best] if most == "max" else line[k] < line[best]
            if wins or (which == "last" and line[k] == line[best]):
                best = k
        found[row, outer, inner] = best
    return found


def top(x: Array, k: int, largest: bool) -> tuple[Array, Array]:
    """The first k of each x[rows, outer, :, inner] in order, and where they lie: NaN is larger
    than any number, and of equal ones the first is in front."""
    places = np.zeros((x.shape[0], x.shape[1], k, x.shape[3]), np.int64)
    for row, outer, inner in np.ndindex(x.shape[0], x.shape[1], x.shape[3]):
        line = x[row, outer, :, inner]

        def rank(place: int, line: Array = line) -> tuple[bool, float, int]:
            value, nan = float(line[place]), bool(np.isnan(line[place]))
            number = 0.0 if nan else value
            return (not nan, -number, place) if largest else (nan, number, place)

        places[row, outer, :, inner] = sorted(range(len(line)), key=rank)[:k]
    return np.take_along_axis(x, places, axis=2), places
