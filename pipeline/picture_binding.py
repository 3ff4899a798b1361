"""Which fields feed inputs of pictures, `[N, C, H, W]` or `[N, H, W, C]`, and as what.

| field                                       | feeds                                             |
|---------------------------------------------|---------------------------------------------------|
| tensor [H, W, C] or [C, H, W], uint8, float | as it lies, or with its dimensions turned round   |
| JPEG or PNG: binary, or struct<bytes, ...>  | with --image: decoded and scaled, as uint8        |

With --image the program takes pixels and normalises them (engine/pixels.py): a field of uint8 is
then fed as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from engine.graph import ROWS
from engine.pixels import RANK, Pixels
from pipeline.bound import FieldBinding, GraphValue, wanted
from pipeline.errors import BindingError
from pipeline.hints import CAST
from pipeline.layout import Layout, is_encoded, layout
from pipeline.picture_rules import PictureRules, by

CHANNELS = (1, 3)
TURNS = ((2, 0, 1), (1, 2, 0))
"""Of a picture's dimensions: channels to the front, to the end."""
EXAMPLE = "--image mean=0.485,0.456,0.406,std=0.229,0.224,0.225"
EXAMPLE_OF_BYTES = "--image filter=bilinear, and size=HxW where it leaves that open"
LARGEST = 255
"""A pixel of eight bits."""


def channel_axis(shape: tuple[int | str, ...] | None) -> int | None:
    """Where the channels of a batch of pictures stand, 1 or 3; None where it is none."""
    if shape is None or len(shape) != RANK or shape[0] != ROWS:
        return None
    return next((axis for axis in (1, RANK - 1) if shape[axis] in CHANNELS), None)


def pixels(
    schema: pa.Schema,
    inputs: Sequence[GraphValue],
    requested: Mapping[str, str],
    rules: PictureRules | None,
) -> dict[str, Pixels]:
    """For each input of pictures that a field feeds, what the program is to take. Empty without
    --image; raises BindingError where that has nothing to say anything of."""
    if rules is None:
        return {}
    found = {}
    for value in inputs:
        name = requested.get(value.name, value.name).removesuffix(CAST)
        axis = channel_axis(value.shape)
        if axis is None or name not in schema.names:
            continue
        fed = _fed_dtype(schema.field(name).type)
        if fed is not None:
            found[value.name] = _pixels_of(value, axis, fed, rules)
    if not found:
        raise BindingError(
            "--image: expected an input of pictures, float[N, C, H, W] or [N, H, W, C], that is "
            "fed from a field of encoded pictures (binary, not in a dictionary) or tensors, got "
            f"{', '.join(_fed(v, schema, requested) for v in inputs)}; do --bind INPUT=FIELD, or "
            "leave it out"
        )
    return found


def _fed(value: GraphValue, schema: pa.Schema, requested: Mapping[str, str]) -> str:
    """What the model wants there, and what it gets."""
    name = requested.get(value.name, value.name).removesuffix(CAST)
    field = f"field {name!r}"
    kind = f"{field} of {schema.field(name).type}" if name in schema.names else f"no {field}"
    return f"{wanted(value)} from {kind}"


def _fed_dtype(kind: pa.DataType) -> np.dtype[np.generic] | None:
    if is_encoded(kind):
        return np.dtype(np.uint8)
    found = layout(kind)
    return found.dtype if isinstance(found, Layout) and found.dims else None


def _pixels_of(
    value: GraphValue, axis: int, fed: np.dtype[np.generic], rules: PictureRules
) -> Pixels:
    channels = int((value.shape or ())[axis])
    if value.dtype.kind != "f":
        if rules.normalises:
            raise BindingError(
                f"input {value.name!r}: expected no mean, std or range, as the model takes "
                f"{value.dtype.name} and normalises itself, got --image {rules}"
            )
        return Pixels(value.dtype.name, (0.0,) * channels, (1.0,) * channels, axis)
    bytes_ = fed == np.uint8
    scale = LARGEST if bytes_ and rules.range == 1 else 1
    numbers = []
    for name, given in (("mean", rules.mean), ("std", rules.std)):
        if len(given) not in (1, channels):
            raise BindingError(
                f"--image: expected {name} of 1 or {channels} numbers, one for each channel of "
                f"{value.name!r}, got {len(given)}"
            )
        numbers.append(tuple(scale * number for number in given * (channels // len(given))))
    return Pixels("uint8" if bytes_ else value.dtype.name, numbers[0], numbers[1], axis)


def encoded(
    schema_type: tuple[str, pa.DataType], value: GraphValue, rules: PictureRules | None
) -> FieldBinding:
    """A field (name, type) of encoded pictures for an input of pictures."""
    name, kind = schema_type
    where = f"input {value.name!r} from field {name!r}"
    axis = channel_axis(value.shape)
    if rules is None:
        raise BindingError(
            f"{where}: expected {wanted(value)}, got {kind}; if it holds JPEG or PNG, say how the "
            f"model wants pictures: {EXAMPLE if value.dtype.kind == 'f' else EXAMPLE_OF_BYTES}"
        )
    if axis is None or value.dtype != np.uint8:
        raise BindingError(
            f"{where}: expected an input of pictures, [N, C, H, W] or [N, H, W, C] of 1 or 3 "
            f"channels, got {wanted(value)}"
        )
    dims = list((value.shape or ())[1:])
    channels = int(dims.pop(axis - 1))
    height, width = (
        _side(where, dim, None if rules.size is None else rules.size[number])
        for number, dim in enumerate(dims)
    )
    shape = (channels, height, width) if axis == 1 else (height, width, channels)
    note = f"decoded, {_fitted(rules, (height, width))}, {rules.filter}"
    return FieldBinding(
        value.name, name, str(kind), value.dtype.name, shape, False, note, picture=True
    )


def _side(where: str, dim: int | str, asked: int | None) -> int:
    if isinstance(dim, int):
        if asked not in (None, dim):
            raise BindingError(f"{where}: expected size={dim}, as the model has it, got {asked}")
        return dim
    if asked is None:
        raise BindingError(f"{where}: the model leaves {dim} open; add size=H or size=HxW")
    return asked


def _fitted(rules: PictureRules, size: tuple[int, int]) -> str:
    if rules.stretch:
        return f"stretched to {by(size)}"
    if rules.resize is None:
        return f"scaled and cut to {by(size)}"
    if rules.resize < size or rules.resize[1] < size[1]:
        raise BindingError(
            f"--image: expected resize of at least {by(size)}, which is cut out of it, got "
            f"{by(rules.resize)}"
        )
    return f"scaled to cover {by(rules.resize)}, cut to {by(size)}"


def opened(found: Layout, dims: tuple[int | str, ...]) -> tuple[int, ...] | None:
    """An input's dimensions of one row, open ones filled from a field of as many: as they lie, or
    with the channels brought from the other end. None where they do not fit."""
    sizes = tuple(d for d in found.dims if d is not None)
    if len(sizes) != len(found.dims) or len(sizes) != len(dims):
        return None
    ways = [tuple(range(len(dims))), *(TURNS if len(dims) == RANK - 1 else ())]
    for way in ways:
        shape = tuple(sizes[axis] for axis in way)
        fits = all(a == b or isinstance(a, str) for a, b in zip(dims, shape, strict=True))
        if fits and (way == ways[0] or turned(found, shape)):
            return shape
    return None


def turned(found: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Which dimension of a field each of an input's rows is, where channels stand at the other
    end; () where nothing has to be turned."""
    dims, size = found.dims, len(shape)
    if size != RANK - 1 or len(dims) != size or dims == shape:
        return ()
    for axes in TURNS:
        channel = shape[0] if axes[0] == 2 else shape[2]
        if channel in (1, 3, 4) and tuple(dims[axis] for axis in axes) == shape:
            return axes
    return ()
