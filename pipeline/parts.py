"""Parts: the output file of one shard, written under a temporary name that no one else has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part, still under its temporary name. All paths are relative to the output."""

    shard: int
    attempt: int
    path: str
    """Final name, given by the shard alone: part-000123.parquet."""
    temp: str
    """_colonnade/tmp/part-000123.ATTEMPT.RANDOM.parquet"""
    rows_in: int
    rows_out: int
    rejects: int
    """Rows in the rejects file. skip: rows_in = rows_out + rejects; null: rows_in = rows_out."""
    nbytes: int
    checksum: str
    """"sha256:..." of the part file's bytes."""
    rejects_temp: str
    """Relative path of the rejects file, "" when there are none."""
    rejects_nbytes: int
    rejects_checksum: str
    read_seconds: float
    run_seconds: float
    write_seconds: float
