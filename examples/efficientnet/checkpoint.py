"""Reads checkpoints that PyTorch wrote before version 1.6, without PyTorch and without trust.

Such a file is a row of pickles (a magic number, a protocol number, notes of the system, the
weights with their places in storages, the storages' keys) and then each storage: its number of
elements and the elements themselves. Of pickles only these names are let in, and none runs code:

| name                               | stands for                          |
|------------------------------------|-------------------------------------|
| collections.OrderedDict            | itself                              |
| torch._utils._rebuild_tensor_v2    | `_Tensor`, a place within a storage |
| torch.FloatStorage, .LongStorage   | an element type                     |
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scripts.models.writer import Array

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: np.dtype[Any]
    key: str
    size: int
    """In elements."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    first: int
    """Its first element in the storage."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""


def _tensor(
    storage: _Storage, first: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    return _Tensor(storage, first, shape, strides)


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise ValueError(
                f"checkpoint: expected tensors of float32 and int64 only, got {module}.{name}"
            ) from None

    def persistent_load(self, saved: Any) -> _Storage:
        kind, dtype, key, _, size, *_ = saved
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ValueError(f"checkpoint: expected a storage, got {kind!r}")
        return _Storage(dtype, str(key), int(size))


def read_checkpoint(path: Path) -> dict[str, Array]:
    """All tensors by name. ValueError for anything that is not whole, or not such a file."""
    data = path.read_bytes()
    file = io.BytesIO(data)
    try:
        found = [_Reader(file).load() for _ in range(5)]
    except (pickle.UnpicklingError, EOFError, TypeError, IndexError, AttributeError) as e:
        raise ValueError(f"{path}: expected a checkpoint of PyTorch before 1.6, got: {e}") from e
    if tuple(found[:2]) != (MAGIC, PROTOCOL):
        raise ValueError(f"{path}: expected a checkpoint of PyTorch before 1.6, got {found[:2]}")
    tensors, keys = found[3], [str(key) for key in found[4]]
    sizes = {t.storage.key: t.storage for t in tensors.values()}
    storages: dict[str, Array] = {}
    offset = file.tell()
    for key in keys:
        storage = sizes[key]
        count = int(np.frombuffer(_cut(data, offset, 8, path), "<i8")[0])
        if count != storage.size:
            raise ValueError(f"{path}: storage {key}: expected {storage.size} numbers, got {count}")
        raw = _cut(data, offset + 8, count * storage.dtype.itemsize, path)
        storages[key] = np.frombuffer(raw, storage.dtype)
        offset += 8 + len(raw)
    return {name: _view(tensor, storages, f"{path}: {name}") for name, tensor in tensors.items()}


def _cut(data: bytes, first: int, size: int, path: Path) -> bytes:
    if not 0 <= size <= len(data) - first:
        raise ValueError(f"{path}: expected {size} bytes at {first}, got {len(data)} in all")
    return data[first : first + size]


def _view(tensor: _Tensor, storages: Mapping[str, Array], where: str) -> Array:
    """A copy in order. Strides are a file's word: they may not lead out of the storage."""
    flat, shape, strides = storages[tensor.storage.key], tensor.shape, tensor.strides
    whole = len(shape) == len(strides) and min((*shape, *strides, tensor.first), default=0) >= 0
    steps = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=False))
    empty = 0 in shape
    if not whole or (not empty and tensor.first + steps >= flat.size):
        raise ValueError(f"{where}: expected {shape} within {flat.size} numbers, got {tensor}")
    if empty:
        return np.empty(shape, flat.dtype)
    nbytes = tuple(stride * flat.itemsize for stride in strides)
    view = np.lib.stride_tricks.as_strided(flat[tensor.first :], shape, nbytes, writeable=False)
    return np.array(view, order="C")
