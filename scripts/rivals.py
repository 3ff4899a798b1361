"""The same job as `colonnade run`, as one would write it without Colonnade.

    python -m scripts.rivals plain MODEL INPUT OUTPUT --engines 2      pyarrow + onnxruntime
    python -m scripts.rivals ray-data MODEL INPUT OUTPUT --engines 2   Ray Data + onnxruntime

Both read the Parquet files of the folder INPUT (fields id and x), run the model on x and write
id and y as zstd Parquet to the folder OUTPUT. scripts/bench_job.py times them from start to end.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 1024
"""Rows given to onnxruntime at a time; its speed hardly depends on it from 64 on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["plain", "plain-worker", "ray-data"])
    parser.add_argument("model", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--number", type=int, default=0, help="of a plain-worker, from 0")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    {"plain": plain, "plain-worker": plain_worker, "ray-data": ray_data}[args.kind](args)


def session(model: Path) -> onnxruntime.InferenceSession:
    """One thread: there is a process or an actor for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def score(model: onnxruntime.InferenceSession, batch: pa.RecordBatch | pa.Table) -> pa.Table:
    """The fields id and x of a batch -> id and y."""
    table = pa.table(batch).combine_chunks()
    ids, x = table["id"].combine_chunks(), table["x"].combine_chunks()
    rows: np.ndarray[Any, Any] = x.flatten().to_numpy().reshape(len(x), -1)
    (y,) = model.run(["y"], {"x": rows})
    values = pa.FixedSizeListArray.from_arrays(pa.array(y.reshape(-1)), y.shape[1])
    return pa.table({"id": ids, "y": values})


def plain(args: argparse.Namespace) -> None:
    """One process a core; each takes every n-th file."""
    command = [sys.executable, "-m", "scripts.rivals", "plain-worker"]
    command += [args.model, args.input, args.output, "--engines", str(args.engines)]
    workers = [
        subprocess.Popen([*command, "--number", str(number)]) for number in range(args.engines)
    ]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit("plain: a worker failed")


def plain_worker(args: argparse.Namespace) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[args.number % len(cpus)]})
    pa.set_cpu_count(1)
    model = session(args.model)
    for path in sorted(args.input.glob("*.parquet"))[args.number :: args.engines]:
        writer = None
        for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["id", "x"]):
            scored = score(model, batch)
            if writer is None:
                writer = pq.ParquetWriter(
                    args.output / path.name, scored.schema, compression="zstd"
                )
            writer.write_table(scored)
        if writer is not None:
            writer.close()


def ray_data(args: argparse.Namespace) -> None:
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"ray-data: Ray Data needs {error.name}; pip install {error.name}"
        ) from None

    class Scorer:
        def __init__(self, model: Path) -> None:
            self.model = session(model)

        def __call__(self, batch: pa.Table) -> pa.Table:
            return score(self.model, batch)

    # A CPU an actor; two more on paper, because reading and writing starve without any.
    ray.init(num_cpus=args.engines + 2, include_dashboard=False, logging_level=logging.ERROR)
    dataset = ray.data.read_parquet(str(args.input), columns=["id", "x"])
    dataset.map_batches(
        Scorer,
        fn_constructor_args=(args.model,),
        batch_size=BATCH_ROWS,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=args.engines),
    ).write_parquet(str(args.output), compression="zstd")
    ray.shutdown()


if __name__ == "__main__":
    main()
