"""One scorer on a small model, driven by a loop of a few lines: for tests of pipeline.scorer.

    python tests/scorer_jobs.py SPEC.json INPUT

scores the dataset in a process of its own and prints its resident bytes when the session was
ready, and at its peak.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import small_job

import engine
from pipeline.binding import bind
from pipeline.dataset import Dataset
from pipeline.events import Event, PartWritten, ScorerDied, ScorerReady, ShardFailed
from pipeline.fingerprint import model_sha256
from pipeline.scorer import Scorer, ScorerSpec
from pipeline.shards import Lease, Shard, plan_shards

K, M = 8, 4
"""Features of the model, in and out."""


class SmallModel:
    """relu(x @ w1) @ w2, as a file, and as numpy."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(3)
        self.w1 = (random.normal(size=(K, 16)) * (random.random((K, 16)) < 0.4)).astype(np.float32)
        self.w2 = random.normal(size=(16, M)).astype(np.float32)
        self.path = folder / "small.onnx"
        small_job.write_model(self.path, self.w1, self.w2)

    def __call__(self, x: Any) -> Any:
        return np.maximum(np.asarray(x) @ self.w1, 0) @ self.w2

    def spec(self, dataset: Dataset, output: Path, **changed: Any) -> ScorerSpec:
        """The spec of a job over the dataset; `changed` replaces fields of it."""
        program = engine.compile(str(self.path))
        on_error = changed.get("on_error", "fail")
        made = ScorerSpec(
            scorer=3,
            model=str(self.path),
            model_sha256=model_sha256(str(self.path)),
            program=program.fingerprint,
            choices=program.choices,
            switches={},
            binding=bind(dataset.schema, program.inputs, program.outputs, on_error=on_error),
            batch_rows=64,
            cpus=(min(os.sched_getaffinity(0)),),
            node=0,
            output=str(output),
            format="parquet",
            fingerprint="f",
            on_error=on_error,
        )
        return replace(made, **changed)


def score(spec: ScorerSpec, shards: Sequence[Shard]) -> list[Event]:
    """Submits every shard at once; all events, in order."""
    events: SimpleQueue[Event] = SimpleQueue()
    scorer = Scorer(spec, events.put)
    for shard in shards:
        scorer.submit(Lease(shard, 0))
    scorer.close()
    return [events.get() for _ in range(events.qsize())]


def ended(events: Sequence[Event]) -> list[Event]:
    """Those that end leases, or the scorer."""
    return [e for e in events if isinstance(e, PartWritten | ShardFailed | ScorerDied)]


def write_rows(path: Path, rows: Sequence[Any], kind: pa.DataType, group: int = 100) -> Dataset:
    """A dataset of one file: id, x."""
    x = pa.array(rows, kind)
    pq.write_table(pa.table({"id": np.arange(len(x)), "x": x}), path, row_group_size=group)
    return Dataset.discover([str(path)])


def main() -> None:
    spec = ScorerSpec.from_json(json.loads(Path(sys.argv[1]).read_text()))
    resident = []

    def emit(event: Event) -> None:
        if isinstance(event, ScorerReady):
            resident.append(psutil.Process().memory_info().rss)
        elif isinstance(event, ShardFailed | ScorerDied):
            raise AssertionError(event)

    scorer = Scorer(spec, emit)
    for shard in plan_shards(Dataset.discover([sys.argv[2]])):
        scorer.submit(Lease(shard, 0))
    scorer.close()
    print(resident[0], peak_resident())


def peak_resident() -> int:
    """Bytes. VmHWM begins at exec; ru_maxrss would begin with the size of who forked us."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
