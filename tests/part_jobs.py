"""A job without an engine, for tests of the commit protocol: parts made by the real PartWriter.

    python tests/part_jobs.py INPUT OUTPUT

copies the dataset through PartWriter and RunFolder, shard by shard, and finishes; with
COLONNADE_FAILPOINT set it dies on the way. Prints the shards it wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.binding import Binding, bind
from pipeline.dataset import Dataset
from pipeline.fingerprint import Fingerprint, fingerprint
from pipeline.manifest import RunFolder, RunRecord
from pipeline.parts import Part, PartWriter, Reject
from pipeline.reader import ShardReader
from pipeline.shards import Lease, Shard, plan_shards

GROUPS = (3, 5, 4)
"""Rows of the row groups of each file."""
FILES = 2
ROWS = FILES * sum(GROUPS)
REJECTED = {4, 20}
"""Ids that the job rejects."""


def write_input(folder: Path) -> Path:
    """ids 0 .. ROWS - 1 in FILES files, each with row groups of GROUPS."""
    folder.mkdir()
    ids = iter(range(ROWS))
    for number in range(FILES):
        with pq.ParquetWriter(folder / f"{number}.parquet", pa.schema({"id": pa.int64()})) as w:
            for rows in GROUPS:
                w.write_table(pa.table({"id": [next(ids) for _ in range(rows)]}))
    return folder


def no_outputs(dataset: Dataset) -> Binding:
    return bind(dataset.schema, (), (), {}, None, on_error="skip")


def record(dataset: Dataset, shards: tuple[Shard, ...], **changed: str) -> RunRecord:
    """What a run over the dataset would record; `changed` replaces fields of the fingerprint."""
    facts = {"model_sha256": "m", "program": "p", "format": "parquet", "on_error": "skip"}
    facts |= changed
    made: Fingerprint = fingerprint(
        dataset,
        shards,
        no_outputs(dataset),
        model_sha256=facts["model_sha256"],
        program=facts["program"],
        format=facts["format"],
        on_error=facts["on_error"],
    )
    return RunRecord(made, {"node": "kernel"}, "model.onnx", facts["format"])


def write_part(output: Path | str, lease: Lease, run: RunRecord) -> Part:
    """The part of a shard that keeps every row but REJECTED."""
    with ShardReader(lease.shard, ["id"], 2) as reader:
        writer = PartWriter(
            output, lease, reader.schema, format=run.format, fingerprint=run.fingerprint.digest
        )
        row = lease.shard.first_row
        for batch in reader:
            ids = batch.column(0).to_numpy()
            bad = np.isin(ids, list(REJECTED))
            writer.write(batch.filter(pa.array(~bad)))
            writer.reject(Reject(row + int(i), "id", "no") for i in np.flatnonzero(bad))
            row += len(ids)
    return writer.close()


def run_job(inputs: Path | str, output: Path | str, format: str = "parquet") -> list[int]:
    """The whole job; returns the shards that were written now."""
    dataset = Dataset.discover([str(inputs)])
    shards = plan_shards(dataset)
    run = record(dataset, shards, format=format)
    written = []
    with RunFolder.open(output, run, shards) as folder:
        for shard in shards:
            if shard.index not in folder.committed:
                folder.commit(write_part(output, Lease(shard, 0), run))
                written.append(shard.index)
        if not folder.complete:
            folder.finish()
    return written


def output_ids(output: Path) -> list[int]:
    """Ids in parts and rejects, as any reader of the folder would find them."""
    kept = [i for p in sorted(output.glob("part-*")) for i in pq.read_table(p)["id"].to_pylist()]
    rejects = sorted((output / "_colonnade/rejects").glob("*"))
    rows = [(r["file"], r["row"]) for p in rejects for r in pq.read_table(p).to_pylist()]
    return sorted([*kept, *(int(Path(f).stem) * sum(GROUPS) + row for f, row in rows)])


class Job:
    """An input, its shards, and a place for the output."""

    def __init__(self, folder: Path) -> None:
        self.inputs = write_input(folder / "in")
        self.output = folder / "out"
        self.dataset = Dataset.discover([str(self.inputs)])
        self.shards = plan_shards(self.dataset)
        self.run = record(self.dataset, self.shards)

    def open(self, run: RunRecord | None = None, *, restart: bool = False) -> RunFolder:
        return RunFolder.open(self.output, run or self.run, self.shards, restart=restart)

    def part(self, shard: Shard, attempt: int = 0) -> Part:
        return write_part(self.output, Lease(shard, attempt), self.run)

    def write(self) -> list[int]:
        return run_job(self.inputs, self.output)


def other_output(job: Job) -> Path:
    """Parts of another run over the same input, in a folder beside the job's."""
    other = job.output.with_name("other")
    run = record(job.dataset, job.shards, program="q")
    with RunFolder.open(other, run, job.shards) as folder:
        for shard in job.shards:
            folder.commit(write_part(other, Lease(shard, 0), run))
    return other


if __name__ == "__main__":
    print(run_job(sys.argv[1], sys.argv[2]))
