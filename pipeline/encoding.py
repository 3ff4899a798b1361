"""Parquet and Arrow files as parts are written: which encodings, and how compressed.

`--compression auto` is zstd level 1, for floating fields level -1 where that saves a twentieth of
a part's first rows and nothing where it does not, and nothing for Arrow files: their point is to
be memory-mapped. Measured (Zen 4, pyarrow 26, lists of 256 floats, microseconds of CPU a row and
bytes a row; level 1 | level -1 | lz4 | none):

| floats             | level 1      | level -1      | lz4           | none          |
|--------------------|--------------|---------------|---------------|---------------|
| normal             | 2.8 us 947 B | 1.8 us 1024 B | 1.6 us 1028 B | 1.5 us 1029 B |
| half of them zeros | 4.6 us 580 B | 4.3 us  620 B | 3.5 us  689 B |               |
| 90 % zeros         | 3.0 us 141 B | 2.9 us  145 B | 2.4 us  191 B |               |
| of a softmax       | 2.6 us 924 B | 1.8 us 1024 B | 1.6 us 1028 B |               |

The first rows are the first SAMPLE_ROWS, and of their values those in the first SAMPLE_NBYTES, or
all that a part's first row group has: neither batches nor threads change what is sampled, unless
rows are so long (32 KB) that fewer fill a row group, whose borders --batch-rows moves anyway. A
part whose first rows do not shrink and whose others would is larger than it could be. What is
stored as it is may be spliced (pipeline/splicing.py), which takes a tenth of pyarrow's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dictionaries import width
from pipeline.splicing import Lists, SplicedWriter
from pipeline.stores import Sink

VALUES_AT_ONCE = 1 << 10
NUMBERS_AT_ONCE = 1 << 14

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)

LEVEL, FLOATING_LEVEL = 1, -1
"""Of zstd."""

SAMPLE_ROWS, SAMPLE_NBYTES = 1 << 10, 1 << 18
"""Of a floating column of a part at most, to see whether zstd is worth its time."""

WORTH = 0.95
"""Of a sample's bytes, what is left of them at most where it is."""

LEVELS_AT_ONCE = 1 << 16
"""Elements of lists encoded at once: Parquet has two levels of 2 bytes for each, which pyarrow
makes for a whole record batch in buffers that grow. In a job, rows of 256 floats took 3.3
microseconds of CPU instead of 3.5 where these stay in the core's L2."""


def open_writer(
    sink: Sink | pa.NativeFile,
    schema: pa.Schema,
    format: str,
    compression: str = "auto",
    first: pa.Table | None = None,
    *,
    splice: bool = True,
) -> Any:
    """A Parquet or Arrow writer with our settings; Arrow files know no snappy. `first` are the rows
    that will be written first, for "auto" to look at. Where tensors turn out to be stored as they
    are, their pages are ours (pipeline/splicing.py), unless `splice` is off.

    Dictionaries and statistics only for flat fields that are not floating: for outputs of a model
    they cost 30 % of the encoding and shrink nothing.
    """
    stream = pa.PythonFile(sink, mode="w") if not isinstance(sink, pa.NativeFile) else sink
    if format == "arrow":
        codec = None if compression in ("auto", "none") else compression
        return pa.ipc.new_file(stream, schema, options=pa.ipc.IpcWriteOptions(compression=codec))
    worth = [f.name for f in schema if f.type.num_fields == 0 and not pa.types.is_floating(f.type)]
    codecs, levels = _codecs(schema, compression, first)
    options = {
        "compression": codecs,
        "compression_level": levels,
        "use_dictionary": worth or False,
        "write_statistics": worth or False,
        "write_batch_size": _batch_values(schema),
        "memory_pool": _pool(),
    }
    if splice and first and (plain := _plain(schema, codecs)):
        return SplicedWriter(sink, first, plain, options)
    return pq.ParquetWriter(stream, schema, **options)


def _plain(schema: pa.Schema, codecs: _Codecs) -> dict[str, Lists]:
    """The fields whose pages can be ours, as they are not compressed."""
    found = {}
    for field in schema:
        if lists := Lists.of(field):
            path, _ = _leaf(field.name, field.type)
            if (codecs if isinstance(codecs, str) else codecs[path]) == "none":
                found[field.name] = lists
    return found


@cache
def _pool() -> pa.MemoryPool:
    """jemalloc where pyarrow has it: mimalloc gives buffers back to the kernel after 10 ms, and the
    next part gets them page by page again, each cleared first. In a job, rows of 256 floats took
    2.6 microseconds of CPU to write, and 2.9 with mimalloc."""
    if "jemalloc" in pa.supported_memory_backends():
        return pa.jemalloc_memory_pool()
    return pa.default_memory_pool()


def in_pieces(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The same rows, in pieces that are encoded in a core's cache, where lists have one size."""
    if not all(_has_one_size(field.type) for field in schema):
        yield from batches
        return
    values = max((_elements(field.type) for field in schema), default=1)
    rows = max(1, LEVELS_AT_ONCE // max(1, values))
    for batch in batches:
        for first in range(0, batch.num_rows, rows):
            yield batch.slice(first, rows)


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


def _elements(kind: pa.DataType) -> int:
    """Of a row, where each has as many."""
    if isinstance(kind, pa.BaseExtensionType):
        return _elements(kind.storage_type)
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _elements(kind.value_type)
    return 1


_Levels = int | dict[str, int] | None
_Codecs = str | dict[str, str]


def _codecs(schema: pa.Schema, compression: str, first: pa.Table | None) -> tuple[_Codecs, _Levels]:
    """Codecs and zstd's levels, for all Parquet columns or by column; pyarrow takes its own level,
    which is LEVEL, for those not named."""
    if compression != "auto":
        return compression, LEVEL if compression == "zstd" else None
    leaves = {_leaf(f.name, f.type): f.name for f in schema}
    floating = {path: name for (path, kind), name in leaves.items() if pa.types.is_floating(kind)}
    plain = {path for path, name in floating.items() if not _shrinks(name, first)}
    levels = {path: FLOATING_LEVEL for path in floating if path not in plain} or None
    if not plain:
        return "zstd", levels
    return {p: "none" if p in plain else "zstd" for p in _paths(schema.remove_metadata())}, levels


def _shrinks(name: str, first: pa.Table | None) -> bool:
    """Whether zstd saves something of a field's first floats; yes if there is none to see."""
    if first is None:
        return True
    found = _floats(first.column(name).slice(0, SAMPLE_ROWS).combine_chunks())
    sample = np.ascontiguousarray(found.drop_null().to_numpy(zero_copy_only=False))
    taken = sample.reshape(-1).view(np.uint8)[:SAMPLE_NBYTES]
    if not len(taken):
        return True
    left = pa.Codec("zstd", FLOATING_LEVEL).compress(pa.py_buffer(taken)).size
    return bool(left <= WORTH * len(taken))


def _floats(column: pa.Array) -> pa.Array:
    """What a column's lists hold, in order."""
    if isinstance(column, pa.ChunkedArray):  # combined of none or of several
        column = pa.concat_arrays(column.chunks)
    while column.type.num_fields or isinstance(column, pa.ExtensionArray):
        column = column.storage if isinstance(column, pa.ExtensionArray) else column.flatten()
    return column


@cache
def _paths(schema: pa.Schema) -> tuple[str, ...]:
    """Parquet columns of a schema, as a file names them."""
    stream = pa.BufferOutputStream()
    with pq.ParquetWriter(stream, schema):
        pass
    with pq.ParquetFile(pa.BufferReader(stream.getvalue())) as file:
        return tuple(file.schema.column(i).path for i in range(len(file.schema.names)))


def _leaf(path: str, kind: pa.DataType) -> tuple[str, pa.DataType]:
    """The column below lists, and what its elements are."""
    if isinstance(kind, pa.BaseExtensionType):
        return _leaf(path, kind.storage_type)
    if any(is_list(kind) for is_list in _LISTS):
        return _leaf(f"{path}.list.element", kind.value_type)
    return path, kind
