"""Encoded pictures into pixels, by Pillow: columns of uint8 for a batch's JPEG and PNG.

Runs beside the engine, on a few threads behind the scorer's read thread: Pillow holds no lock of
Python's while it decodes and scales. Pictures come out upright, as viewers show them (EXIF);
greys, palettes, transparency and CMYK become the model's channels as Pillow converts them, where
transparency is dropped. What cannot be decoded is null, with a reason beside it.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.bound import Binding, FieldBinding
from pipeline.errors import BindingError
from pipeline.picture_rules import PictureRules, Size

Array = np.ndarray[Any, Any]

FORMATS = ("JPEG", "PNG")
"""Pillow reads others, too, with more code that bad files can reach."""

MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
"""Of eight bits or less; what has more would be cut off by a conversion, not scaled."""

MOST_PIXELS = 1 << 25
LARGE_PIXELS = 1 << 22
"""Of larger pictures one is decoded at a time, and none above MOST_PIXELS: memory is bounded."""

PIXEL_NBYTES = 16
"""A pixel while it is decoded: 4 as decoded, 6 of a progressive JPEG's coefficients, 4 turned
upright or converted (measured 12.1 at most, a progressive CMYK JPEG; Pillow 13)."""

THREADS = 4
"""That decode, at most."""


class Unreadable(Exception):
    """Why a picture cannot be used, as a reason of its row."""


def decoding_nbytes(threads: int) -> int:
    """What decoding takes of an engine's memory, at most, beside the batch that it makes."""
    return PIXEL_NBYTES * (MOST_PIXELS + min(threads, THREADS) * LARGE_PIXELS)


def check_pillow() -> None:
    """Raises BindingError where it is not installed."""
    try:
        import PIL.Image  # noqa: F401 (an extra: only where pictures are decoded)
    except ImportError as e:
        raise BindingError(
            "--image: expected the package pillow to decode pictures, got none; "
            "do pip install 'colonnade[image]', or pip install pillow"
        ) from e


class Decoder:
    """Adds to a batch the columns that a binding's fields of pictures are fed from."""

    def __init__(self, rules: PictureRules, binding: Binding, threads: int) -> None:
        check_pillow()
        self.fields = [f for f in binding.fields if f.picture]
        self.rules = rules
        self._threads = min(threads, THREADS)
        self._large = threading.Lock()

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """For each field fixed_size_list<uint8>, null where it is null or `problems` says why."""
        for field in self.fields:
            pixels, problems = self._decoded(batch.column(field.field), field)
            batch = batch.append_column(field.column, pixels)
            batch = batch.append_column(field.problems, problems)
        return batch

    def _decoded(self, column: pa.Array, field: FieldBinding) -> tuple[pa.Array, pa.Array]:
        encoded = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
        rows = np.zeros((len(encoded), *field.shape), np.uint8)
        reasons: list[str | None] = [None] * len(encoded)

        def decode(row: int) -> None:
            data = encoded[row].as_py()
            try:
                if data is not None:
                    self._into(rows[row], data)
            except Unreadable as e:
                reasons[row] = str(e)

        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(decode, range(len(encoded))):
                pass
        missing = np.array([reason is not None for reason in reasons], np.bool_)
        missing |= np.array(encoded.is_null())
        values = pa.FixedSizeListArray.from_arrays(
            pa.array(rows.reshape(-1)), math.prod(field.shape), mask=pa.array(missing)
        )
        return values, pa.array(reasons, pa.string())

    def _into(self, target: Array, data: bytes) -> None:
        """One picture; `target` is [C, H, W] or [H, W, C]."""
        first, last = target.shape[0], target.shape[-1]
        turned = first in (1, 3)
        channels = first if turned else last
        size = target.shape[1:] if turned else target.shape[:2]
        pixels = self._pixels(data, channels, (size[0], size[1]))
        target[...] = pixels.transpose(2, 0, 1) if turned else pixels

    def _pixels(self, data: bytes, channels: int, size: Size) -> Array:
        """[H, W, C]"""
        from PIL import Image, UnidentifiedImageError

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of huge pictures and odd metadata: judged here
            try:
                with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                    return self._fitted(picture, channels, size)
            except Unreadable:
                raise
            except UnidentifiedImageError:
                raise Unreadable("is no JPEG or PNG") from None
            except Exception as e:  # Pillow's decoders raise whatever they meet in bad data
                raise Unreadable(f"cannot be decoded: {str(e) or type(e).__name__}") from e

    def _fitted(self, picture: Any, channels: int, size: Size) -> Array:
        pixels = picture.width * picture.height
        if pixels > MOST_PIXELS:
            raise Unreadable(
                f"has {picture.width}x{picture.height} pixels, expected at most {MOST_PIXELS:,}"
            )
        if picture.mode not in MODES:
            raise Unreadable(f"has pixels of more than eight bits (mode {picture.mode})")
        if pixels <= LARGE_PIXELS:
            return _scaled(picture, channels, size, self.rules)
        with self._large:
            return _scaled(picture, channels, size, self.rules)


def _scaled(picture: Any, channels: int, size: Size, rules: PictureRules) -> Array:
    """Upright, converted, scaled and cut, as uint8[H, W, C]."""
    from PIL import Image, ImageOps

    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # a palette's colours are lost otherwise
    mode = "RGB" if channels == 3 else "L"
    if picture.mode != mode:
        picture = picture.convert(mode)
    height, width = size
    scaled = size if rules.stretch else _covering(picture, rules.resize or size)
    if (picture.height, picture.width) != scaled:
        how = Image.Resampling[rules.filter.upper()]
        picture = picture.resize((scaled[1], scaled[0]), how)
    if scaled != size:
        left, top = round((scaled[1] - width) / 2), round((scaled[0] - height) / 2)
        picture = picture.crop((left, top, left + width, top + height))
    return np.asarray(picture, np.uint8).reshape(height, width, channels)


def _covering(picture: Any, size: Size) -> Size:
    """Of the picture when it covers `size` and no more, in its own shape."""
    height, width = size
    if picture.width * height >= picture.height * width:  # too wide
        return height, max(width, int(height * picture.width / picture.height))
    return max(height, int(width * picture.height / picture.width)), width
