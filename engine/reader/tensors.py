"""TensorProto -> numpy array, with sizes checked before anything is allocated.

Weights outside the model file are mapped read only, and only from below the model's folder.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.errors import ModelError
from engine.mapped import mapped

Array = np.ndarray[Any, np.dtype[Any]]

MAX_DENSE_NBYTES = 2**31
"""A sparse constant is made dense; a few bytes of file must not become a whole memory."""

_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_BITS |= {"FLOAT6E2M3": 6, "FLOAT6E3M2": 6}


def array_of(
    tensor: TensorProto, folder: Path | None, where: str, outlying: Array | None = None
) -> Array:
    """The tensor as a read-only array; `where` names it in errors. `outlying` is uint8 of its
    raw data, where the reader left that in the model file."""
    label = f"{where}: constant {tensor.name!r}"
    dims = _dims(tensor, label)
    dtype = _dtype(tensor, label)
    if outlying is not None:
        _expect_nbytes(outlying.size, _nbytes(tensor, dims, dtype), label)
        return outlying.view(dtype).reshape(dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, dims, dtype, folder, label)
    if tensor.HasField("raw_data"):
        _expect_nbytes(len(tensor.raw_data), _nbytes(tensor, dims, dtype), label)
    try:
        array = np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(dims)
    except (ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{label}: expected {dtype.name}{list(dims)}, got data that does not fit ({error}); "
            "export the model again"
        ) from error
    array.flags.writeable = False
    return array


def embed(tensor: TensorProto, folder: Path | None, where: str) -> None:
    """Bring external data into the tensor itself: for subgraphs, which stay protobuf."""
    if tensor.data_location == TensorProto.EXTERNAL:
        array = array_of(tensor, folder, where)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), name))


def dense_of(sparse: onnx.SparseTensorProto, folder: Path | None, where: str) -> Array:
    """A sparse constant made dense; indices are linear [NNZ] or per axis [NNZ, rank]."""
    label = f"{where}: sparse constant {sparse.values.name!r}"
    values = array_of(sparse.values, folder, where)
    indices = array_of(sparse.indices, folder, where)
    dims = tuple(int(d) for d in sparse.dims)
    if any(d < 0 for d in dims) or math.prod(dims) * values.itemsize > MAX_DENSE_NBYTES:
        raise ModelError(
            f"{label}: expected at most {MAX_DENSE_NBYTES} bytes once dense, got shape "
            f"{list(dims)}; store it dense as external data"
        )
    per_axis = indices.ndim == 2 and indices.shape[1] == len(dims)
    good = values.ndim == 1 and len(indices) == len(values) and (per_axis or indices.ndim == 1)
    bounds = np.array(dims if per_axis else math.prod(dims), dtype=np.int64)
    if not good or indices.dtype != np.int64 or bool(((indices < 0) | (indices >= bounds)).any()):
        raise ModelError(
            f"{label}: expected int64 indices inside {list(dims)}, one for each value, got "
            f"{indices.dtype.name}{list(indices.shape)}; export the model again"
        )
    dense = np.zeros(dims, dtype=values.dtype)
    if per_axis:
        dense[tuple(indices.T)] = values
    else:
        dense.reshape(-1)[indices] = values
    dense.flags.writeable = False
    return dense


def _dims(tensor: TensorProto, label: str) -> tuple[int, ...]:
    dims = tuple(int(d) for d in tensor.dims)
    if any(d < 0 for d in dims) or tensor.HasField("segment"):
        raise ModelError(
            f"{label}: expected a whole tensor of known size, got shape {list(dims)}; "
            "export the model again"
        )
    return dims


def _dtype(tensor: TensorProto, label: str) -> np.dtype[Any]:
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, ValueError, TypeError):
        raise ModelError(
            f"{label}: expected an ONNX element type, got code {tensor.data_type}; "
            "export the model again"
        ) from None


def _nbytes(tensor: TensorProto, dims: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes that the raw data must have; narrow types are packed."""
    bits = _BITS.get(TensorProto.DataType.Name(tensor.data_type), dtype.itemsize * 8)
    return -(-math.prod(dims) * bits // 8)


def _expect_nbytes(got: int, expected: int, label: str) -> None:
    if got != expected:
        raise ModelError(
            f"{label}: expected {expected} bytes of data, got {got}; the file is damaged, "
            "export the model again"
        )


def _external(
    tensor: TensorProto,
    dims: tuple[int, ...],
    dtype: np.dtype[Any],
    folder: Path | None,
    label: str,
) -> Array:
    entries = {e.key: e.value for e in tensor.external_data}
    path = _inside(entries.get("location", ""), folder, label)
    expected = _nbytes(tensor, dims, dtype)
    try:
        offset = int(entries.get("offset", "0") or "0")
        length = int(entries.get("length", "") or expected)
    except ValueError:
        raise ModelError(
            f"{label}: expected whole numbers for offset and length, got {entries}; "
            "export the model again"
        ) from None
    if tensor.data_type == TensorProto.STRING:
        raise ModelError(f"{label}: expected numbers in external data, got text; keep it inline")
    _expect_nbytes(length, expected, label)
    size = path.stat().st_size
    if offset < 0 or offset + length > size:
        raise ModelError(
            f"{label}: expected bytes {offset} to {offset + length} of {path}, got a file of "
            f"{size} bytes; it is truncated, copy it again"
        )
    if expected == 0:
        return np.zeros(dims, dtype)
    raw = mapped(path)[offset : offset + length]
    if TensorProto.DataType.Name(tensor.data_type) in _BITS:
        packed = TensorProto(data_type=tensor.data_type, dims=dims, raw_data=raw.tobytes())
        unpacked: Array = numpy_helper.to_array(packed).reshape(dims)
        unpacked.flags.writeable = False
        return unpacked
    return raw.view(dtype).reshape(dims)


def _inside(location: str, folder: Path | None, label: str) -> Path:
    """The data file, which must lie below the model's folder once links are followed."""
    if folder is None:
        raise ModelError(
            f"{label}: expected its data inside the model, got a reference to {location!r}; "
            "load the model from its file"
        )
    root = folder.resolve()
    relative = Path(location)
    bad = not location or "\0" in location or relative.is_absolute() or ".." in relative.parts
    try:
        path = root if bad else (root / relative).resolve()
    except (OSError, RuntimeError):  # a loop of links
        bad, path = True, root
    if bad or not path.is_relative_to(root):
        raise ModelError(
            f"{label}: expected external data below {root}, got {location!r}; "
            "move the data beside the model and export it again"
        )
    if not path.is_file():
        raise ModelError(
            f"{label}: expected its data in {path}, got no such file; copy it beside the model"
        )
    return path
