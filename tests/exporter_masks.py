"""Masks as exporters compute them, and patterns that are no masks of keys: see exporters.py."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from scripts.models import bert_attention as ways
from scripts.models.writer import Writer

END = np.iinfo(np.int64).max


def raw(write: Writer, mask: str, value: float) -> str:
    return mask


def of_ids(write: Writer, mask: str, value: float, padding: int = 0) -> str:
    """From the ids themselves: those that are padding do not count."""
    wide = write.unsqueeze(write.op("Equal", "input_ids", write.int_scalar(padding)), 1, 2)
    return write.op("Where", wide, write.floats(value), write.floats(0))


def some_ids(write: Writer, mask: str, value: float) -> str:
    """Ids above 5 count."""
    wide = write.unsqueeze(write.op("Greater", "input_ids", write.int_scalar(5)), 1, 2)
    return write.op("Where", wide, write.floats(0), write.floats(value))


def _places(write: Writer, mask: str) -> tuple[str, str]:
    length = write.dimension(mask, 1)
    places = write.op("Range", write.int_scalar(0), length, write.int_scalar(1))
    return write.unsqueeze(places, 1), write.unsqueeze(places, 0)


def _both(write: Writer, mask: str, pattern: str, value: float) -> str:
    wide = write.unsqueeze(write.cast(mask, TensorProto.BOOL), 1, 2)
    both = write.op("And", wide, write.unsqueeze(pattern, 0, 1))
    return write.op("Where", both, write.floats(0), write.floats(value))


def causal(write: Writer, mask: str, value: float) -> str:
    query, key = _places(write, mask)
    return _both(write, mask, write.op("LessOrEqual", key, query), value)


def window(write: Writer, mask: str, value: float, width: int = 8) -> str:
    """Keys up to `width` tokens back."""
    query, key = _places(write, mask)
    near = write.op("Greater", write.op("Sub", key, query), write.int_scalar(-width))
    return _both(write, mask, near, value)


def every_second(write: Writer, mask: str, value: float) -> str:
    """Keys an even number of places from the query."""
    query, key = _places(write, mask)
    rest = write.op("Mod", write.op("Sub", key, query), write.int_scalar(2))
    return _both(write, mask, write.op("Equal", rest, write.int_scalar(0)), value)


def causal_float(write: Writer, mask: str, value: float) -> str:
    """Older decoders: two masks of the least float, one of them a triangle, and their sum."""
    least = write.floats(float(np.finfo(np.float32).min))
    length = write.unsqueeze(write.dimension(mask, 1), 0)
    square = write.op("Expand", least, write.op("Concat", length, length, axis=0))
    above = write.op("Trilu", square, write.int_scalar(1), upper=1)
    return write.op("Add", write.unsqueeze(above, 0, 1), ways.additive_mask(write, mask, value))


def first_keys(write: Writer, mask: str, value: float) -> str:
    """The first 40 keys count whatever the mask says."""
    ones = write.op("Expand", write.int_scalar(1), write.op("Shape", mask))
    bounds = (write.ints(0), write.ints(40), write.ints(1))
    rest = write.op("Slice", mask, write.ints(40), write.ints(END), write.ints(1))
    whole = write.op("Concat", write.op("Slice", ones, *bounds), rest, axis=1)
    return ways.additive_mask(write, whole, value)


def table(write: Writer, mask: str, value: float) -> str:
    """GPT-2: a triangle of constants, sliced to the length."""
    triangle = write.weight("triangle", np.tril(np.ones((80, 80), np.bool_)))
    end = write.unsqueeze(write.dimension(mask, 1), 0)
    for axis in (0, 1):
        triangle = write.op("Slice", triangle, write.ints(0), end, write.ints(axis))
    return _both(write, mask, triangle, value)


def by_range(write: Writer, mask: str, value: float) -> str:
    """Newer exports: the mask gathered by places, which changes nothing."""
    _, key = _places(write, mask)
    keys = write.op("Gather", mask, write.op("Squeeze", key, write.ints(0)), axis=1)
    return ways.additive_mask(write, keys, value)


def positive(write: Writer, mask: str, value: float) -> str:
    wide = write.unsqueeze(write.op("Greater", mask, write.int_scalar(0)), 1, 2)
    return write.op("Where", wide, write.floats(0), write.floats(value))
