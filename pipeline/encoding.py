"""Parquet and Arrow files as parts are written: which encodings, and how compressed.

`--compression auto` is zstd level 1, but for floating fields level -1, and nothing for Arrow
files: their point is to be memory-mapped. Measured (Zen 4, pyarrow 26, lists of 256 floats,
microseconds of CPU a row and bytes a row; level 1 | level -1 | lz4 | none):

| floats             | level 1      | level -1      | lz4           | none          |
|--------------------|--------------|---------------|---------------|---------------|
| normal             | 2.8 us 947 B | 1.8 us 1024 B | 1.6 us 1028 B | 1.5 us 1029 B |
| half of them zeros | 4.6 us 580 B | 4.3 us  620 B | 3.5 us  689 B |               |
| 90 % zeros         | 3.0 us 141 B | 2.9 us  145 B | 2.4 us  191 B |               |
| of a softmax       | 2.6 us 924 B | 1.8 us 1024 B | 1.6 us 1028 B |               |

So level -1 costs next to nothing where nothing repeats, and finds what does.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dictionaries import width
from pipeline.stores import Sink

VALUES_AT_ONCE = 1 << 10
NUMBERS_AT_ONCE = 1 << 14

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)

LEVEL, FLOATING_LEVEL = 1, -1
"""Of zstd."""


def open_writer(
    sink: Sink | pa.NativeFile, schema: pa.Schema, format: str, compression: str = "auto"
) -> Any:
    """A Parquet or Arrow writer with our settings; Arrow files know no snappy.

    Dictionaries and statistics only for flat fields that are not floating: for outputs of a model
    they cost 30 % of the encoding and shrink nothing.
    """
    stream = pa.PythonFile(sink, mode="w") if not isinstance(sink, pa.NativeFile) else sink
    if format == "arrow":
        codec = None if compression in ("auto", "none") else compression
        return pa.ipc.new_file(stream, schema, options=pa.ipc.IpcWriteOptions(compression=codec))
    worth = [f.name for f in schema if f.type.num_fields == 0 and not pa.types.is_floating(f.type)]
    return pq.ParquetWriter(
        stream,
        schema,
        compression="zstd" if compression == "auto" else compression,
        compression_level=_levels(schema, compression),
        use_dictionary=worth or False,
        write_statistics=worth or False,
        write_batch_size=_batch_values(schema),
    )


def _batch_values(schema: pa.Schema) -> int:
    """Values written at once: a page ends after the batch that fills it, so that long strings must
    be few. For numbers pyarrow's 1024 took 15 to 20 % more CPU than sixteen times as many."""
    return NUMBERS_AT_ONCE if all(_has_one_size(field.type) for field in schema) else VALUES_AT_ONCE


def _has_one_size(kind: pa.DataType) -> bool:
    """Whether each of its values takes the same bytes. Lists of any length do not: their pages
    would end where the batches do that they came in."""
    if isinstance(kind, pa.BaseExtensionType):
        return _has_one_size(kind.storage_type)
    if pa.types.is_fixed_size_list(kind):
        return _has_one_size(kind.value_type)
    return kind.num_fields == 0 and width(kind) is not None


def _levels(schema: pa.Schema, compression: str) -> int | dict[str, int] | None:
    """By Parquet column; pyarrow takes its own default, which is LEVEL, for those not named."""
    if compression == "zstd":
        return LEVEL
    leaves = [_leaf(field.name, field.type) for field in schema]
    floating = {path: FLOATING_LEVEL for path, kind in leaves if pa.types.is_floating(kind)}
    return floating if compression == "auto" and floating else None


def _leaf(path: str, kind: pa.DataType) -> tuple[str, pa.DataType]:
    """The column below lists, and what its elements are."""
    if isinstance(kind, pa.BaseExtensionType):
        return _leaf(path, kind.storage_type)
    if any(is_list(kind) for is_list in _LISTS):
        return _leaf(f"{path}.list.element", kind.value_type)
    return path, kind
