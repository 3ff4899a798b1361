"""Large networks in stages against the same in one piece: whether parts have the same bytes.

`python -m scripts.check_stages` makes BERT-base, a transformer of MiniLM's size and ResNet-50,
each with 90 % zeros, and small datasets for them; then it scores each whole, and in two stages
(and in three, where there are three processors) by processes and by actors of Ray, and compares.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq

from scripts.bench_stages import ROOT, dataset, made, parts
from scripts.models.bert_weights import Size
from scripts.models.picture_net import Pictures
from scripts.models.resnet import resnet50

MINILM = Size(layers=6, hidden=384, feed_forward=1536)
ROWS = {"bert": 24, "minilm": 64, "resnet": 16}
"""In files of two: some shards each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS), help=", ".join(NETS))
    args = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "colonnade-check-stages"
    folder.mkdir(exist_ok=True)
    counts = range(2, min(3, len(os.sched_getaffinity(0))) + 1)
    wrong = 0
    for name in args.nets:
        model, data = NETS[name](folder, ROWS[name])
        want = job(model, data, folder / "out", [])
        for executor in ("local", "ray"):
            for count in counts:
                began = time.perf_counter()
                options = ["--stages", str(count), "--executor", executor]
                same = job(model, data, folder / "out", options) == want
                wrong += not same
                print(
                    f"{name}, {executor}, {count} stages: {len(want)} parts "
                    f"{'of the same bytes' if same else 'DIFFER'}, "
                    f"{time.perf_counter() - began:.0f} s",
                    flush=True,
                )
    raise SystemExit(min(wrong, 1))


def bert(folder: Path, rows: int) -> tuple[Path, Path]:
    data = dataset(folder / f"bert-rows-{rows}", rows, Size().vocabulary)
    return made(folder / "bert.onnx", Size(), 0.9), data


def minilm(folder: Path, rows: int) -> tuple[Path, Path]:
    data = dataset(folder / f"minilm-rows-{rows}", rows, MINILM.vocabulary)
    return made(folder / "minilm.onnx", MINILM, 0.9), data


def resnet(folder: Path, rows: int) -> tuple[Path, Path]:
    model, data = folder / "resnet.onnx", folder / f"resnet-rows-{rows}"
    if not model.exists():
        onnx.save(resnet50(Pictures(sparsity=0.9)), model)
    if not data.exists():
        data.mkdir()
        pixels = np.random.default_rng(0).random((rows, 3 * 224 * 224), np.float32)
        field = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 3 * 224 * 224)
        table = pa.table({"id": np.arange(rows), "input": field})
        pq.write_table(table, data / "rows.parquet", row_group_size=max(1, rows // 4))
    return model, data


NETS: dict[str, Callable[[Path, int], tuple[Path, Path]]] = {
    "bert": bert,
    "minilm": minilm,
    "resnet": resnet,
}


def job(model: Path, data: Path, output: Path, options: list[str]) -> list[bytes]:
    """The parts of a run of one engine."""
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, "-m", "jobs.cli", "run", "--model", str(model), "--input", str(data)]
    words += ["--output", str(output), "--engines", "1", "--threads", "1", "--progress", "none"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*words, *options], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, check=True)
    return parts(output)


if __name__ == "__main__":
    main()
