"""Parts: the output file of one shard, written under a temporary name that no one else has.

The bytes of a part depend on the run's fingerprint, its shard and --batch-rows only: no attempt,
host or time is in it. Its footer says whose it is, so that the folder alone can be resumed.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dictionaries import decoded
from pipeline.encoding import in_pieces, open_writer
from pipeline.errors import BindingError, OutputError
from pipeline.failpoints import reach
from pipeline.shards import Lease, Shard
from pipeline.stores import OWN, Store, joined, store_at

REJECTS = f"{OWN}/rejects"
FORMATS = ("parquet", "arrow")

GROUP_NBYTES = 32 << 20
GROUP_ROWS = 1 << 20
"""An output row group is closed when it reaches either."""

REJECT_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time of one lease went. Threads overlap: the sum is no duration."""

    read: float = 0.0
    """Of the read thread: decoding, checks, feeds."""
    run: float = 0.0
    """Of the run threads: the engine."""
    write: float = 0.0
    """Of the write thread: encoding and syncing."""
    wait: float = 0.0
    """Of the run threads: for a batch to be read, or for room before the write thread."""

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*(getattr(self, n) + getattr(other, n) for n in Seconds.__slots__))


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part, still under the name of its attempt, which in stores without a rename is
    the final one. All paths are relative to the output."""

    shard: int
    attempt: int
    path: str
    """Final name, given by the shard alone: part-000123.parquet, in its partition folders."""
    temp: str
    """_colonnade/tmp/part-000123.ATTEMPT.RANDOM.parquet"""
    rows_in: int
    rows_out: int
    rejects: int
    """Rows in the rejects file. rows_in = rows_out + filtered, + rejects where they are skipped."""
    nbytes: int
    checksum: str
    """Of the part file's bytes, as pipeline/checksums.py has it."""
    rejects_temp: str
    """Relative path of the rejects file, "" when there are none."""
    rejects_nbytes: int
    rejects_checksum: str
    seconds: Seconds
    filtered: int = 0
    """Rows that --where leaves out; they are of rows_in, too."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that was not scored; `row` counts from 0 in the file."""

    row: int
    field: str
    reason: str


def part_name(shard: int, format: str, folder: str = "") -> str:
    """Relative to the output folder; `folder` are the partition folders that it lies in."""
    return f"{folder}/part-{shard:06d}.{format}".lstrip("/")


def part_of(shard: Shard, format: str) -> str:
    return part_name(shard.index, format, shard.folder)


def rejects_name(shard: int) -> str:
    """Relative to the output folder. Rejects are Parquet whatever the parts are."""
    return f"{REJECTS}/part-{shard:06d}.parquet"


def footer_marks(fingerprint: str, shard: Shard) -> dict[str, str]:
    """The key-values that say whose part a file is."""
    return {
        "colonnade.fingerprint": fingerprint,
        "colonnade.shard": str(shard.index),
        "colonnade.source": shard.path,
        "colonnade.rows": f"{shard.first_row}:{shard.first_row + shard.rows}",
    }


def read_marks(store: Store, name: str, format: str) -> tuple[dict[str, str], int]:
    """The marks and the number of rows in a part's footer. ArrowInvalid or OSError if damaged."""
    with store.open(name) as source:
        if format == "parquet":
            with pq.ParquetFile(source) as file:
                metadata, rows = file.schema_arrow.metadata, file.metadata.num_rows
        else:
            with pa.ipc.open_file(source) as reader:
                metadata, rows = reader.schema.metadata, reader.count_rows()
    marks = {k.decode(): v.decode() for k, v in (metadata or {}).items()}
    return {k: v for k, v in marks.items() if k.startswith("colonnade.")}, rows


def discard(store: Store, shard: Shard, format: str, *staged: str) -> None:
    """Removes what an attempt staged; what lies under a final name already is not its own."""
    finals = (part_of(shard, format), rejects_name(shard.index))
    for name in staged:
        if name and name not in finals:
            with contextlib.suppress(OSError):
                store.delete(name)


class PartWriter:
    """Writes one attempt at one shard. `close` returns the Part; `abort` leaves nothing behind.

    OSError (disk full, I/O error, a store that does not answer) comes out as OutputError naming
    the folder.
    """

    def __init__(
        self,
        output: str | Path,
        lease: Lease,
        schema: pa.Schema,
        *,
        format: str,
        fingerprint: str,
        compression: str = "auto",
        splice: bool = True,
    ) -> None:
        self.store = store_at(output)
        self.lease = lease
        self.format = format
        self._marks = footer_marks(fingerprint, lease.shard)
        attempt = f"{lease.attempt}.{uuid.uuid4().hex[:12]}"
        self._temp = self.store.staged(part_of(lease.shard, format), attempt)
        rejects = rejects_name(lease.shard.index)
        self._rejects_temp = self.store.staged(rejects, f"{attempt}.rejects")
        plain = _plain_schema(schema) if format == "arrow" else schema
        self._schema = plain.with_metadata(self._marks)
        self._pending: list[pa.RecordBatch] = []
        self._pending_nbytes = 0
        self._rows_out = 0
        self._rejects: list[Reject] = []
        self._compression, self._splice = compression, splice
        self._writer: Any = None
        with self._naming_the_output():
            self._sink = self.store.sink(self._temp)

    def write(self, batch: pa.RecordBatch) -> None:
        """Gathers the batch; a full row group is encoded and written."""
        self._rows_out += batch.num_rows
        for piece in decoded(batch, self._schema):
            self._pending.append(piece)
            self._pending_nbytes += piece.nbytes
            if (
                self._pending_nbytes >= GROUP_NBYTES
                or sum(b.num_rows for b in self._pending) >= GROUP_ROWS
            ):
                with self._naming_the_output():
                    self._flush()

    def reject(self, rejects: Iterable[Reject]) -> None:
        self._rejects += rejects

    def close(self, *, seconds: Seconds = Seconds(), filtered: int = 0) -> Part:
        """Closes, syncs, reads the footer back and checks its rows.

        `seconds` spent so far; closing is added to those of writing. `filtered` are rows of the
        shard that were not scored because of --where.
        """
        began = time.perf_counter()
        with self._naming_the_output():
            self._flush()
            self._opened(None).close()
            reach("after_encode")
            # Before the part: whoever finds the part finds its rejects, too.
            rejects_nbytes, rejects_checksum = self._write_rejects()
            reach("before_fsync")
            self._sink.sync()
            self._sink.close()
            reach("after_fsync")
            self._check_footer()
        shard = self.lease.shard
        return Part(
            shard=shard.index,
            attempt=self.lease.attempt,
            path=part_of(shard, self.format),
            temp=self._temp,
            rows_in=shard.rows,
            rows_out=self._rows_out,
            rejects=len(self._rejects),
            nbytes=self._sink.nbytes,
            checksum=self._sink.checksum,
            rejects_temp=self._rejects_temp if self._rejects else "",
            rejects_nbytes=rejects_nbytes,
            rejects_checksum=rejects_checksum,
            seconds=seconds + Seconds(write=time.perf_counter() - began),
            filtered=filtered,
        )

    def abort(self) -> None:
        """Removes the temporary files. Never raises: it runs while something else is wrong."""
        self._pending = []
        with contextlib.suppress(Exception):
            if self._writer is not None:
                self._writer.close()
        with contextlib.suppress(OSError):
            self._sink.close()
        discard(self.store, self.lease.shard, self.format, self._temp, self._rejects_temp)

    def _flush(self) -> None:
        if self._pending:
            reach("before_encode")
            pieces = in_pieces(self._pending, self._schema)
            table = pa.Table.from_batches(pieces, schema=self._schema)
            self._pending, self._pending_nbytes = [], 0
            self._opened(table).write_table(table)

    def _opened(self, first: pa.Table | None) -> Any:
        """The writer, opened by what is written first: how that shrinks decides how it is kept."""
        if self._writer is None:
            how = (self.format, self._compression, first)
            self._writer = open_writer(self._sink, self._schema, *how, splice=self._splice)
        return self._writer

    def _write_rejects(self) -> tuple[int, str]:
        """Size and checksum of the rejects file, if there are rejects."""
        if not self._rejects:
            return 0, ""
        columns: list[list[Any]] = [
            [self.lease.shard.path] * len(self._rejects),
            [r.row for r in self._rejects],
            [r.field for r in self._rejects],
            [r.reason for r in self._rejects],
        ]
        table = pa.table(columns, schema=REJECT_SCHEMA.with_metadata(self._marks))
        sink = self.store.sink(self._rejects_temp)
        with contextlib.closing(sink):
            with open_writer(sink, table.schema, "parquet") as writer:
                writer.write_table(table)
            sink.sync()
        return sink.nbytes, sink.checksum

    def _check_footer(self) -> None:
        marks, rows = read_marks(self.store, self._temp, self.format)
        if marks != self._marks or rows != self._rows_out:
            raise OutputError(
                f"{joined(self.store.where, self._temp)}: expected {self._rows_out} rows of "
                f"{self.lease.shard}, got {rows} with {marks}; the storage does not keep "
                "what is written"
            )

    @contextlib.contextmanager
    def _naming_the_output(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise self.store.trouble(e) from e


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Dictionary fields as plain values: an Arrow file allows one dictionary for all batches."""
    if not any(pa.types.is_dictionary(f.type) for f in schema):
        return schema
    return pa.schema(
        f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema
    )


def check_writable(schema: pa.Schema, format: str) -> None:
    """Raises BindingError naming the first field that the format cannot hold."""
    for field in schema:
        try:
            stream = pa.BufferOutputStream()
            open_writer(stream, pa.schema([field]), format).close()
        except (pa.ArrowException, NotImplementedError) as e:
            raise BindingError(
                f"field {field.name!r}: {format} cannot hold {field.type}: {e}; "
                "leave it out with --keep"
            ) from e
