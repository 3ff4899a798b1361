"""A model of 6 GB on engines that may take 2 GiB each: what the plan says, and what they take.

`python -m scripts.bench_large` writes the model (4 GB of it a table of a million ids, 2 GB of
products with 95 % zeros) into a temporary folder, scores sequences of 32 ids with it in one, two
and as few stages as fit, and prints for each process the most that was ever resident: its own
memory (anonymous and shared pages, which only it can give back), and pages of files that it had
mapped at the same time (clean: the kernel drops them when memory is short). Both together must
stay below the bound. The folder is deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from scripts.models.large import Large, write

ROOT = Path(__file__).resolve().parent.parent
TOKENS = 32
FILES = 4
SIX_GB = Large(entries=1_000_000, width=1024, blocks=60, sparsity=0.95)
SMALL = Large(entries=100_000, width=256, blocks=6, sparsity=0.95)
POLL_SECONDS = 0.02


@dataclass(slots=True)
class Peak:
    """The most that a process had resident, in bytes."""

    own: int = 0
    """Anonymous and shared memory."""
    files: int = 0
    """Pages of mapped files."""
    together: int = 0

    def see(self, own: int, files: int) -> None:
        self.own, self.files = max(self.own, own), max(self.files, files)
        self.together = max(self.together, own + files)

    def __str__(self) -> str:
        return (
            f"{self.own / 1e6:.0f} MB of its own, {self.files / 1e6:.0f} MB of files, "
            f"{self.together / 1e6:.0f} MB together at most"
        )


@dataclass(slots=True)
class Watch:
    """Peaks of a process and of all that it starts, by what they are."""

    peaks: dict[int, Peak] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def follow(self, process: subprocess.Popen[str]) -> None:
        """Until it ends."""
        root = psutil.Process(process.pid)
        self.names[root.pid] = "driver"
        while process.poll() is None:
            try:
                for one in (root, *root.children(recursive=True)):
                    self._look(one)
            except (psutil.Error, OSError):
                pass
            time.sleep(POLL_SECONDS)

    def _look(self, process: psutil.Process) -> None:
        try:
            words = Path(f"/proc/{process.pid}/status").read_text().split()
            told = {k: int(words[words.index(f"{k}:") + 1]) << 10 for k in _KINDS}
            if process.pid not in self.names:
                line = " ".join(process.cmdline())
                self.names[process.pid] = "later stage" if "pipeline.links" in line else "scorer"
        except (OSError, ValueError, psutil.Error):
            return  # it has ended
        peak = self.peaks.setdefault(process.pid, Peak())
        peak.see(told["RssAnon"] + told["RssShmem"], told["RssFile"])


_KINDS = ("RssAnon", "RssShmem", "RssFile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--memory", default="2GiB", help="of each process of a scorer")
    parser.add_argument("--stages", default="1,2,auto", help="separated by commas")
    parser.add_argument("--small", action="store_true", help="110 MB of weights, not 6 GB")
    args = parser.parse_args()
    large = SMALL if args.small else SIX_GB
    room = shutil.disk_usage(tempfile.gettempdir()).free
    if room < 2 * large.nbytes:
        raise SystemExit(f"expected {2 * large.nbytes / 1e9:.0f} GB free, got {room / 1e9:.0f} GB")
    with tempfile.TemporaryDirectory(prefix="colonnade-bench-large-") as name:
        folder, began = Path(name), time.perf_counter()
        write(folder / "large.onnx", large)
        dataset(folder / "rows", args.rows, large.entries)
        print(
            f"{large.nbytes / 1e9:.2f} GB of weights, {4 * large.entries * large.width / 1e9:.2f} "
            f"GB of them the table, written in {time.perf_counter() - began:.0f} s"
        )
        written = {}
        for stages in args.stages.split(","):
            output = folder / f"out-{stages}"
            job(folder, output, ["--stages", stages, "--scorer-memory", args.memory])
            written[stages] = [p.read_bytes() for p in sorted(output.glob("part-*"))]
        same = all(parts == next(iter(written.values())) for parts in written.values())
        print(f"parts of the same bytes: {same}")


def dataset(folder: Path, rows: int, entries: int) -> None:
    """Files of id and ids list<int64>, all over the table."""
    folder.mkdir()
    random = np.random.default_rng(1)
    each = rows // FILES
    for number in range(FILES):
        ids = random.integers(0, entries, each * TOKENS)
        lists = pa.ListArray.from_arrays(np.arange(each + 1) * TOKENS, pa.array(ids))
        table = pa.table({"id": number * each + np.arange(each), "ids": lists})
        pq.write_table(table, folder / f"rows-{number}.parquet")


def job(folder: Path, output: Path, options: Sequence[str]) -> None:
    words = [sys.executable, "-m", "jobs.cli", "run", "--model", str(folder / "large.onnx")]
    words += ["--input", str(folder / "rows"), "--output", str(output), "--engines", "1"]
    words += ["--threads", "1", *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    print(" ".join(options), flush=True)
    planned = subprocess.run(
        [*words, "--dry-run"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    told = (planned.stdout + planned.stderr).splitlines()
    for number, line in enumerate(told):
        if line.startswith("  memory"):
            print("\n".join(["  plan:", *told[number : number + 3]]), flush=True)
    began, ready, ended, rows, watch = time.perf_counter(), 0.0, 0.0, 0, Watch()
    words += ["--progress", "json"]
    with subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        watcher = threading.Thread(target=watch.follow, args=(process,))
        watcher.start()
        for line in process.stdout:
            event: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "ScorerReady":
                ready = time.perf_counter()
            elif event.get("event") == "JobEnded":
                ended, rows = time.perf_counter(), event["rows_in"]
        watcher.join()
    rate = rows / max(1e-9, ended - ready)
    print(f"  ready after {ready - began:.0f} s, {rate:.1f} sequences/s")
    for pid, peak in watch.peaks.items():
        print(f"  {watch.names[pid]}: {peak}", flush=True)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}")


if __name__ == "__main__":
    main()
