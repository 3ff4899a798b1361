"""Rules of IMAGE_OPS for what takes pixels by index: Pad, Slice, Gather, Concat, Resize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.graph import Graph, Node
from engine.ops.image_work import Blend, Blended, ImageWork, Part, Picked, Plane, Read
from engine.ops.numbers import numbers
from engine.ops.resizing import BLENDS, COORDINATES, Axis, nearest
from engine.ops.work import Refusal

Array = np.ndarray[Any, Any]
Planes = Mapping[str, Plane]
Indices = list[Array]
"""int64 for channels, rows and pixels of a result: where in x each comes from, -1 for nowhere."""
PAD_MODES = ("constant", "edge", "reflect", "wrap")


def _sizes(plane: Plane) -> tuple[int, int, int]:
    return plane.channels, plane.height, plane.width


def _picked(node: Node, planes: Planes, indices: Indices, fill: float = 0.0) -> ImageWork | Refusal:
    """y[m, i, j] = x[indices], or `fill` where one of them is -1."""
    x, y = planes[node.inputs[0]], planes[node.outputs[0]]
    if tuple(map(len, indices)) != _sizes(y):
        return Refusal(f"it does not take {x} to {y}")
    if not all((index >= 0).any() for index in indices):
        return Refusal(f"it takes nothing of {node.inputs[0]}")
    channels, rows, pixels = indices
    part = Part(
        order=channels[channels >= 0],
        rows=rows,
        pixels=pixels[pixels >= 0],
        channel=int(np.argmax(channels >= 0)),
        pixel=int(np.argmax(pixels >= 0)),
    )
    gaps = any((index < 0).any() for index in indices)
    read = _read(node.inputs[0], x, rows[:, None])
    return Picked((read,), node.outputs[0], y, (part,), fill if gaps else None)


def _read(name: str, plane: Plane, rows: Array) -> Read:
    """Of rows[results, taps]; of one that is -1 nothing."""
    pairs = zip(rows.min(axis=1).tolist(), rows.max(axis=1).tolist(), strict=True)
    listed = tuple((low, high) if low >= 0 else (0, -1) for low, high in pairs)
    return Read(name, plane, padded=False, listed=listed)


def place_of(axis: int, rank: int) -> int:
    """Of an axis of the value among channels, rows and pixels; below zero for the rows of the
    batch. A value [N, C, L] has one row of pixels."""
    axis %= rank
    return axis - 1 if axis < 2 else axis - rank + 3


def _rank(node: Node, graph: Graph) -> int:
    return len(graph.values[node.inputs[0]].shape or ())


def pad(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    pads, value, axes = (
        numbers(node, name, place, graph)
        for place, name in ((1, "pads"), (2, "value"), (3, "axes"))
    )
    mode, rank = node.attributes.get("mode", "constant"), _rank(node, graph)
    if mode not in PAD_MODES or not isinstance(pads, list) or isinstance(value, str):
        return Refusal(f"its pads or its value are computed, or {mode} is no known mode")
    if isinstance(axes, str):
        return Refusal(axes)
    sides = np.zeros((2, 4), np.int64)  # of the rows of the batch, then of what has a place
    places = [1 + place_of(a, rank) for a in (axes or range(rank))]
    sides[:, places] = np.reshape(pads, (2, -1))
    if sides[:, 0].any() or (sides.min() < 0 and mode != "constant"):
        return Refusal(f"it pads the rows of the batch, or cuts, in mode {mode}")
    indices = [
        _padded(size, int(before), int(after), mode)
        for size, before, after in zip(_sizes(planes[node.inputs[0]]), *sides[:, 1:], strict=True)
    ]
    return _picked(node, planes, indices, float((value or [0.0])[0]))


def _padded(size: int, before: int, after: int, mode: str) -> Array:
    kept = np.arange(size)[max(0, -before) : size - max(0, -after)]
    more = (max(0, before), max(0, after))
    if mode == "constant":
        return np.pad(kept, more, constant_values=-1)
    wide: Array = np.pad(kept, more, mode=mode)  # type: ignore[call-overload]
    return wide


def slicing(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    """Starts, ends, axes, steps: attributes before opset 10, inputs since."""
    found = [
        numbers(node, name, place, graph)
        for place, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    ]
    starts, ends, axes, steps = (f if isinstance(f, list) else None for f in found)
    if any(isinstance(f, str) for f in found) or starts is None or ends is None:
        return Refusal("where it starts and ends is computed")
    rank = _rank(node, graph)
    indices: Indices = [np.arange(size) for size in _sizes(planes[node.inputs[0]])]
    ones = [1] * len(starts)
    for start, end, axis, step in zip(
        starts, ends, axes or range(len(starts)), steps or ones, strict=True
    ):
        place = place_of(axis, rank)
        if place >= 0:  # that it takes all rows of the batch, row_rules says
            indices[place] = indices[place][slice(start, end, step)]
    return _picked(node, planes, indices)


def gathering(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    chosen, axis = graph.initializers.get(node.inputs[1]), node.attributes.get("axis", 0)
    place = place_of(axis, _rank(node, graph))
    if chosen is None or chosen.ndim != 1 or place < 0:
        return Refusal("its indices are computed, or no list along an axis of the image")
    indices: Indices = [np.arange(size) for size in _sizes(planes[node.inputs[0]])]
    size = len(indices[place])
    if ((chosen < -size) | (chosen >= size)).any():
        return Refusal(f"it takes others than the {size} along axis {axis}")
    indices[place] = chosen.astype(np.int64) % size
    return _picked(node, planes, indices)


def concat_space(names: Sequence[str], write: str, planes: Planes, place: int) -> Picked:
    """Images one below (`place` 1) or beside (2) the other."""
    y, done = planes[write], 0
    reads, parts = [], []
    for name in names:
        x = planes[name]
        rows = np.arange(y.height)
        if place == 1:
            rows = np.where((rows >= done) & (rows < done + x.height), rows - done, -1)
        pixel = done if place == 2 else 0
        parts.append(Part(np.arange(x.channels), rows, np.arange(x.width), pixel=pixel))
        reads.append(_read(name, x, rows[:, None]))
        done += _sizes(x)[place]
    return Picked(tuple(reads), write, y, tuple(parts))


def resize(node: Node, graph: Graph, planes: Planes) -> ImageWork | Refusal:
    x, y = planes[node.inputs[0]], planes[node.outputs[0]]
    old = node.op == "Upsample" or graph.opsets.get("", 1) < 11
    default = "asymmetric" if old else "half_pixel"
    how = node.attributes.get("coordinate_transformation_mode", default)
    scales = _scales(node, graph, x, y)
    mode = node.attributes.get("mode", "nearest")
    reason = _unknown(node, how, mode, x, y)
    if reason or isinstance(scales, str):
        return Refusal(reason or str(scales))
    axes = (Axis(x.height, y.height, scales[0]), Axis(x.width, y.width, scales[1]))
    if mode == "nearest":
        rounding = "simple" if old else node.attributes.get("nearest_mode", "round_prefer_floor")
        return _picked(
            node, planes, [np.arange(x.channels), *(nearest(a, how, rounding) for a in axes)]
        )
    rows, pixels = (BLENDS[mode](axis, how, node) for axis in axes)
    return _blended(node, x, y, rows, pixels)


def _blended(node: Node, x: Plane, y: Plane, rows: Blend, pixels: Blend) -> Blended:
    return Blended((_read(node.inputs[0], x, rows.places),), node.outputs[0], y, rows, pixels)


def _unknown(node: Node, how: str, mode: str, x: Plane, y: Plane) -> str | None:
    """Why a Resize is none of ours."""
    if mode not in ("nearest", *BLENDS) or how not in COORDINATES:
        return f"mode {mode} with coordinates {how}"
    if node.attributes.get("antialias", 0):
        return "it smooths before it makes smaller (antialias)"
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "it keeps the aspect ratio"
    return None if x.channels == y.channels else f"it takes {x} to {y}"


def _scales(node: Node, graph: Graph, x: Plane, y: Plane) -> list[float] | str:
    """Of rows and of pixels: as given, or so that the sizes come out. Where no size changes, all
    is left as it is, whatever was given: so does onnxruntime."""
    new = node.op == "Resize" and graph.opsets.get("", 1) > 10
    given, rank = numbers(node, "scales", 2 if new else 1, graph), _rank(node, graph)
    if isinstance(given, str):
        return given
    found = [y.height / x.height, y.width / x.width]
    if found == [1.0, 1.0]:
        return found
    axes = node.attributes.get("axes") or range(rank)
    for axis, scale in zip(axes, given or [], strict=False):
        if place_of(axis, rank) > 0:
            found[place_of(axis, rank) - 1] = float(scale)
    return found
