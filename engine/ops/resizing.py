"""Which pixels a Resize reads, along one axis, and with what weights: ONNX's rules in float32.

Result i stands at a place of the input that the coordinate rule names (COORDINATES). Nearest takes
the pixel that a rounding rule names there (ROUNDINGS), linear the two around it, cubic four. Rules
are onnxruntime's. Where a place lies on the border between two pixels, the last bit of float32
decides which is nearer; for scales like 1.3 it may decide otherwise than there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.graph import Node
from engine.ops.image_work import Blend

Array = np.ndarray[Any, Any]
F = np.float32
_HALF = F(0.5)


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a Resize."""

    inputs: int
    results: int
    scale: float
    """Results for an input, as given: `results` is rounded down."""

    @property
    def numbers(self) -> Array:
        """float32 of all results."""
        return np.arange(self.results, dtype=F)


def _asymmetric(axis: Axis) -> Array:
    return axis.numbers / F(axis.scale)


def _half_pixel(axis: Axis) -> Array:
    return (axis.numbers + _HALF) / F(axis.scale) - _HALF


def _pytorch_half_pixel(axis: Axis) -> Array:
    return _half_pixel(axis) if axis.results > 1 else np.zeros(1, F)


def _half_pixel_symmetric(axis: Axis) -> Array:
    share = F(axis.results) / (F(axis.scale) * F(axis.inputs))
    offset = F(axis.inputs) / F(2) * (F(1) - share)
    return offset + (axis.numbers + _HALF) / F(axis.scale) - _HALF


def _align_corners(axis: Axis) -> Array:
    if axis.results == 1:
        return np.zeros(1, F)
    return axis.numbers * F(axis.inputs - 1) / F(axis.results - 1)


def _tf_half_pixel_for_nn(axis: Axis) -> Array:
    return (axis.numbers + _HALF) / F(axis.scale)


COORDINATES: dict[str, Callable[[Axis], Array]] = {
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "tf_half_pixel_for_nn": _tf_half_pixel_for_nn,
}
ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round_prefer_ceil": lambda at: np.floor(at + _HALF),
    "round_prefer_floor": lambda at: np.ceil(at - _HALF),
}


def _at(axis: Axis, coordinates: str) -> Array:
    """float32[results]: where in the input each stands."""
    return axis.numbers if axis.scale == 1 else COORDINATES[coordinates](axis)


def nearest(axis: Axis, coordinates: str, rounding: str) -> Array:
    """int64[results]; with the rounding `simple`, of old opsets, up where there are fewer pixels
    than before, else down."""
    if rounding == "simple":
        rounding = "ceil" if axis.scale < 1 else "floor"
    places = ROUNDINGS[rounding](_at(axis, coordinates))
    return np.clip(places, 0, axis.inputs - 1).astype(np.int64)


def linear(axis: Axis, coordinates: str, node: Node) -> Blend:
    last = axis.inputs - 1
    at = np.clip(_at(axis, coordinates), F(0), F(last))
    low = np.floor(at).astype(np.int64)
    places = np.stack([low, np.minimum(low + 1, last)], axis=1)
    weights = np.abs(at[:, None] - places[:, ::-1].astype(F))
    weights[low == last] = _HALF
    return Blend(places, weights)


def cubic(axis: Axis, coordinates: str, node: Node) -> Blend:
    a = F(node.attributes.get("cubic_coeff_a", -0.75))
    at = _at(axis, coordinates)
    low = np.floor(at)
    away = np.abs(np.arange(-1, 3, dtype=F) - (at - low)[:, None])
    near = ((a + 2) * away - (a + 3)) * away * away + 1
    far = ((a * away - 5 * a) * away + 8 * a) * away - 4 * a
    weights = np.where(away <= 1, near, far)
    places = low[:, None].astype(np.int64) + np.arange(-1, 3)
    if node.attributes.get("exclude_outside", 0):
        weights = np.where((places < 0) | (places >= axis.inputs), F(0), weights)
        weights /= weights.sum(axis=1, keepdims=True)
    return Blend(np.clip(places, 0, axis.inputs - 1), weights.astype(F))


BLENDS: dict[str, Callable[[Axis, str, Node], Blend]] = {
    "bilinear": linear,  # as opset 7 says it
    "cubic": cubic,
    "linear": linear,
}
"""By mode."""
