"""A model in stages against the same model in one piece, on the same cores.

`python -m scripts.bench_stages` makes BERT-base with 90 % zeros and a dataset of sequences of 128
tokens, once; then it runs two engines of one core with the whole model each, and one engine of two
stages on the same two cores, in turn, and prints sequences a second (from the last engine's start
to the job's end), their ratio, whether the parts have the same bytes, and what each process holds
of the model: its own memory once it can run, less that of an engine with next to no model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from scripts.models.bert import bert
from scripts.models.bert_weights import Size, random_weights

ROOT = Path(__file__).resolve().parent.parent
TOKENS = 128
FILES = 2
WAYS = {"whole": ("--engines", "2"), "staged": ("--engines", "1", "--stages", "2")}


@dataclass(frozen=True, slots=True)
class Run:
    """One job."""

    seconds: float
    """From the last engine's start to the job's end."""
    held: tuple[int, ...]
    """Bytes of each process's own memory when it could run."""
    resident: tuple[int, ...]
    """The same with the pages of files that it had looked at: libraries, and tables of the model
    that are read where they lie."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sparsity", type=float, default=0.9)
    args = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "colonnade-bench-stages"
    folder.mkdir(exist_ok=True)
    model = made(folder / f"bert-{args.sparsity}.onnx", Size(), args.sparsity)
    tiny = made(folder / "tiny.onnx", Size(1, 16, 2, 16, 100, 130), 0.5)
    data = dataset(folder / f"rows-{args.rows}", args.rows, Size().vocabulary)
    few = dataset(folder / "rows-few", 8, 100)
    least = job(tiny, few, folder / "out-tiny", ["--engines", "1"])
    base, base_resident = min(least.held), min(least.resident)

    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for number in range(args.repeats):
        for way, options in WAYS.items():
            runs[way].append(job(model, data, folder / f"out-{way}", options))
            print(f"round {number + 1}, {way}: {runs[way][-1].seconds:.1f} s", flush=True)
    same = parts(folder / "out-whole") == parts(folder / "out-staged")
    rates = {w: args.rows / statistics.median(r.seconds for r in runs[w]) for w in WAYS}
    whole = max(max(r.held) for r in runs["whole"]) - base
    shares = [max(r.held[n] for r in runs["staged"]) - base for n in range(2)]
    print(f"parts of the same bytes: {same}")
    for way, rate in rates.items():
        print(f"{way:8} {rate:8.2f} sequences/s")
    print(f"staged / whole: {rates['staged'] / rates['whole']:.2f}")
    for number, share in enumerate(shares):
        seen = max(r.resident[number] for r in runs["staged"]) - base_resident
        print(
            f"stage {number} holds {share / 1e6:.0f} MB, the whole model {whole / 1e6:.0f} MB: "
            f"{share / whole:.0%}; with pages of files {seen / 1e6:.0f} MB"
        )


def made(path: Path, size: Size, sparsity: float) -> Path:
    if not path.exists():
        onnx.save(bert(size, random_weights(size, sparsity), outputs=("sentence_embedding",)), path)
    return path


def dataset(folder: Path, rows: int, vocabulary: int) -> Path:
    """Files of id and input_ids list<int64>, made if not there."""
    if folder.exists():
        return folder
    folder.mkdir()
    random = np.random.default_rng(0)
    each = rows // FILES
    for number in range(FILES):
        ids = random.integers(0, vocabulary, each * TOKENS)
        lists = pa.ListArray.from_arrays(np.arange(each + 1) * TOKENS, pa.array(ids))
        table = pa.table({"id": number * each + np.arange(each), "input_ids": lists})
        pq.write_table(table, folder / f"rows-{number}.parquet", row_group_size=max(1, rows // 8))
    return folder


def job(model: Path, data: Path, output: Path, options: Sequence[str]) -> Run:
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, "-m", "jobs.cli", "run", "--model", str(model), "--input", str(data)]
    words += ["--output", str(output), "--threads", "1", "--progress", "json", *options]
    started = ended = 0.0
    held: list[int] = []
    resident: list[int] = []
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "ScorerReady":
                started = time.perf_counter()
                report = event["report"]
                reports = (report, *report.get("stages", []))
                held += map(own_nbytes, reports)
                resident += [psutil.Process(r["pid"]).memory_info().rss for r in reports]
            elif event.get("event") == "JobEnded":
                ended = time.perf_counter()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}")
    return Run(ended - started, tuple(held), tuple(resident))


def own_nbytes(report: dict[str, Any]) -> int:
    """Of a process's report: pages of its own, on whatever node."""
    return sum(report["pages"].values())


def parts(output: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(output.glob("part-*"))]


if __name__ == "__main__":
    main()
