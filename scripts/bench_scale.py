"""What a job of many shards costs its driver: time to plan, time a shard, memory.

`python -m scripts.bench_scale [--shards 1000000]` runs the real driver (planner, run folder, loop
of leases, manifest, and a resume of it all) over a dataset of which only the footers exist, each
row group a shard. Its executor holds no process: what is lent to it comes back as a written part,
whose empty file it has made. The time that this takes is not the driver's, and is taken off. Each
figure comes from a process of its own; the last run has 16 times as many rows in as many shards.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import onnx
import pyarrow as pa

from jobs.driver import Driver
from jobs.executors import Seat
from jobs.interrupts import Interrupts
from jobs.spec import JobSpec
from jobs.tally import Tally
from numa.placement import Place
from pipeline.dataset import Dataset
from pipeline.events import Event, JobEnded, JobStarted, PartWritten, ScorerReady
from pipeline.footers import DataFile
from pipeline.parts import Part, Seconds, footer_marks, part_name
from pipeline.records import MANIFEST, SUCCESS, read_run
from pipeline.row_groups import RowGroup, RowGroups
from pipeline.scorer_spec import ScorerSpec
from pipeline.shards import TARGET_NBYTES, Lease, plan_shards
from pipeline.stores import TEMP, Store
from scripts.models.mlp import mlp

WIDTH = 16
"""Floats of a row."""
GROUPS = 1000
"""Row groups of a file."""
SCORERS = 4


@dataclass
class Writer:
    """An executor whose scorers have written every part by the time it is asked for."""

    output: Path
    seconds: float = 0.0
    """Spent here: a scorer's work, not the driver's."""
    cpu: float = 0.0
    _events: deque[Event] = field(default_factory=deque)

    def seats(self, engines: int | None, threads: int | None, *, warm: bool) -> tuple[Seat, ...]:
        memory = 1 << 40
        return tuple(
            Seat(n, "simulated", Place(n, 0, (n,)), memory, memory) for n in range(SCORERS)
        )

    def reseat(self, stages: int) -> tuple[Seat, ...]:
        return ()

    def arrivals(self) -> tuple[Seat, ...]:
        return ()

    def start(self, specs: Sequence[ScorerSpec]) -> None:
        self._events += [ScorerReady(spec.scorer, spec.program, {}) for spec in specs]

    def lend(self, scorer: int, lease: Lease) -> None:
        begun, cpu = time.perf_counter(), time.process_time()
        shard, name = lease.shard, part_name(lease.shard.index, "parquet")
        temp = f"{TEMP}/{name}.{lease.attempt}"
        (self.output / temp).touch()
        part = Part(
            shard=shard.index, attempt=lease.attempt, path=name, temp=temp, rows_in=shard.rows,
            rows_out=shard.rows, rejects=0, nbytes=0, checksum=f"xxh3-128:{shard.index:032x}",
            rejects_temp="", rejects_nbytes=0, rejects_checksum="",
            seconds=Seconds(),
        )  # fmt: skip
        self._events.append(PartWritten(scorer, part))
        self.seconds += time.perf_counter() - begun
        self.cpu += time.process_time() - cpu

    def events(self, timeout: float) -> list[Event]:
        found = list(self._events)
        self._events.clear()
        return found

    def kill(self, *scorers: int) -> None:
        assert not scorers, "these scorers do not fall silent"

    def restart(self, scorer: int) -> None:
        raise AssertionError("these scorers do not die")

    def close(self) -> None:
        pass


def simulated(shards: int, rows: int) -> Dataset:
    """Files of GROUPS row groups, each as large as a shard aims to be, in folders of a day."""
    schema = pa.schema({"x": pa.list_(pa.float32(), WIDTH), "id": pa.int64()})
    files = []
    for number, first in enumerate(range(0, shards, GROUPS)):
        groups = RowGroups.of(
            RowGroup(rows, (TARGET_NBYTES - 8 * rows, 8 * rows), (0, 0), (WIDTH * rows, rows))
            for _ in range(min(GROUPS, shards - first))
        )
        path = f"/data/events/day={number % 365:03}/hour={number % 24:02}/rows-{number:06}.parquet"
        files.append(DataFile(path, "parquet", TARGET_NBYTES * len(groups), 1 << 60, groups))
    return Dataset(tuple(files), schema, ())


@dataclass
class Clock:
    """Notes when the driver says that it starts and ends, by the clock and by this process's CPU:
    on a machine that others use only the second can be compared."""

    started: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0

    def tell(self, event: Event, tally: Tally) -> None:
        if isinstance(event, JobStarted):
            self.started, self.cpu = time.perf_counter(), -time.process_time()
        elif isinstance(event, JobEnded):
            self.ended, self.cpu = time.perf_counter(), self.cpu + time.process_time()


def measure(folder: Path, shards: int, rows: int) -> dict[str, float]:
    """One job in this process: seconds, microseconds a shard, peak bytes."""
    model, output = folder / "mlp.onnx", folder / "out"
    onnx.save(mlp((WIDTH, WIDTH), 0.9), model)
    dataset = simulated(shards, rows)
    before = peak()
    executor, clock = Writer(output), Clock()
    begun = time.perf_counter()
    run(model, output, dataset, executor, clock)
    spent = clock.ended - clock.started - executor.seconds
    return {
        "shards": shards, "rows": dataset.rows, "plan_seconds": clock.started - begun,
        "microseconds_a_shard": spent / shards * 1e6,
        "cpu_a_shard": (clock.cpu - executor.cpu) / shards * 1e6, "footers_nbytes": before,
        "peak_nbytes": peak(),
    }  # fmt: skip


def run(model: Path, output: Path, dataset: Dataset, executor: Writer, clock: Clock) -> None:
    spec = JobSpec(model=str(model), input=("simulated",), output=str(output), keep=())
    with patch.object(Dataset, "discover", return_value=dataset), Interrupts() as interrupts:
        driver = Driver(spec, executor, clock.tell, interrupts)
        summary = driver.run(executor.seats(None, None, warm=False), lambda plan: None)
    assert summary is not None and summary.parts == sum(len(f.row_groups) for f in dataset.files)


def resume(folder: Path, shards: int, rows: int) -> dict[str, float]:
    """The job of `measure` once more, as if its driver had died before the manifest: what every
    part's footer says is simulated, too, since the parts are empty."""
    model, output, dataset = folder / "mlp.onnx", folder / "out", simulated(shards, rows)
    plan, record = plan_shards(dataset), read_run(output)
    assert record is not None, "it was run before"
    digest = record.fingerprint.digest

    def marks(store: Store, name: str, format: str) -> tuple[dict[str, str], int]:
        assert store.nbytes(name) == 0, name
        shard = plan[int(name[len("part-") :].partition(".")[0])]
        return footer_marks(digest, shard), shard.rows

    for name in (SUCCESS, MANIFEST):
        (output / name).unlink()
    clock, begun = Clock(), time.perf_counter()
    with patch("pipeline.resume.read_marks", marks):
        run(model, output, dataset, Writer(output), clock)
    assert (output / SUCCESS).exists()
    return {"resume_seconds": time.perf_counter() - begun, "peak_nbytes": peak()}


def peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=100_000, help="of a shard")
    parser.add_argument("--folder", type=Path, help="for the output (default: temporary)")
    parser.add_argument("--child", choices=("measure", "resume"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what = {"measure": measure, "resume": resume}[args.child]
        print(json.dumps(what(args.folder, args.shards, args.rows)))
        return
    print(
        f"{'shards':>10} {'rows':>18} {'plan s':>8} {'µs a shard':>11} {'of CPU':>7} "
        f"{'peak MB':>8} {'resume s':>9} {'peak MB':>8}"
    )
    for shards, rows in ((args.shards // 10, args.rows), (args.shards, args.rows),
                         (args.shards, 16 * args.rows)):  # fmt: skip
        folder = Path(tempfile.mkdtemp(prefix="colonnade-scale-", dir=args.folder))
        try:
            found = child("measure", folder, shards, rows)
            again = child("resume", folder, shards, rows)
        finally:
            shutil.rmtree(folder)
        print(
            f"{shards:10,} {found['rows']:18,} {found['plan_seconds']:8.1f} "
            f"{found['microseconds_a_shard']:11,.0f} {found['cpu_a_shard']:7,.0f} "
            f"{found['peak_nbytes'] / 1e6:8,.0f} {again['resume_seconds']:9.1f} "
            f"{again['peak_nbytes'] / 1e6:8,.0f}",
            flush=True,
        )


def child(what: str, folder: Path, shards: int, rows: int) -> dict[str, float]:
    """A figure from a process of its own, whose memory is nobody else's."""
    words = [sys.executable, "-m", "scripts.bench_scale", "--child", what]
    words += ["--folder", str(folder), "--shards", str(shards), "--rows", str(rows)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
