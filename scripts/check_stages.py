"""Large networks in stages against the same in one piece: whether parts have the same bytes.

`python -m scripts.check_stages` makes BERT-base and ResNet-50 with 90 % zeros and all-MiniLM-L6-v2
from its weights (extra `minilm`; a transformer of its size where they are not installed), and takes
small datasets for them. It scores each whole, in two stages by processes and by actors of Ray, and
in three by processes, which share processors where there are but two (scripts/crowded.py); and
compares. `--machines 3` does so by Ray alone, in two and in three stages, on that many raylets
which say that they are machines of their own (2: in two).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq

from examples.minilm.make_model import find_package, plain_tokenizer
from examples.minilm.make_model import minilm as all_minilm
from scripts.bench_stages import ROOT, dataset, made, parts
from scripts.models.bert_weights import Size
from scripts.models.picture_net import Pictures
from scripts.models.resnet import resnet50

MINILM = Size(layers=6, hidden=384, feed_forward=1536)
ROWS = {"bert": 24, "minilm": 64, "resnet": 16}
"""In files of two: some shards each. The real MiniLM takes all of its own texts."""
ELSEWHERE = """import os, socket
if name := os.environ.get("COLONNADE_CHECK_MACHINE"):
    socket.gethostname = lambda: name
"""
"""sitecustomize.py of raylets and their workers."""
Words = list[str]
"""Of a command line."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nets", nargs="*", default=list(NETS), help=", ".join(NETS))
    parser.add_argument("--machines", type=int, choices=(2, 3), default=0, help="raylets")
    args = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "colonnade-check-stages"
    folder.mkdir(exist_ok=True)
    if args.machines:
        with raylets(args.machines, folder) as address:
            wrong = compare(args.nets, folder, apart(args.machines, address))
    else:
        wrong = compare(args.nets, folder, together())
    raise SystemExit(min(wrong, 1))


def together() -> dict[str, Words]:
    """Module and options of stages on the processors of this machine, by what to call it."""
    return {
        "local, 2 stages": ["jobs.cli", "--stages", "2", "--executor", "local"],
        "ray, 2 stages": ["jobs.cli", "--stages", "2", "--executor", "ray"],
        "local, 3 stages": ["scripts.crowded", "--stages", "3", "--executor", "local"],
    }


def apart(machines: int, address: str) -> dict[str, Words]:
    """The same of stages on machines of their own."""
    ray = ["--executor", "ray", "--address", address]
    return {
        f"ray, {count} stages on machines of their own": ["jobs.cli", "--stages", str(count), *ray]
        for count in range(2, machines + 1)
    }


def compare(nets: list[str], folder: Path, ways: Mapping[str, Words]) -> int:
    """How many of the ways give other bytes than the model in one piece."""
    wrong = 0
    for net in nets:
        source = NETS[net](folder, ROWS[net])
        want = job(source, folder / "out", "jobs.cli")
        for way, words in ways.items():
            began = time.perf_counter()
            same = job(source, folder / "out", *words) == want
            wrong += not same
            print(
                f"{net}, {way}: {len(want)} parts {'of the same bytes' if same else 'DIFFER'}, "
                f"{time.perf_counter() - began:.0f} s",
                flush=True,
            )
    return wrong


@contextmanager
def raylets(count: int, folder: Path) -> Iterator[str]:
    """A Ray cluster's address; each of its raylets takes one processor and another host's name."""
    from ray.cluster_utils import Cluster

    (folder / "sitecustomize.py").write_text(ELSEWHERE)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    node: dict[str, Any] = {"object_store_memory": 80 << 20, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **node})
    try:
        for number in range(count):
            name = {"COLONNADE_CHECK_MACHINE": f"machine-{number}"}
            cluster.add_node(num_cpus=1, env_vars=name, **node)
        yield cluster.address
    finally:
        cluster.shutdown()


def bert(folder: Path, rows: int) -> Words:
    data = dataset(folder / f"bert-rows-{rows}", rows, Size().vocabulary)
    return _words(made(folder / "bert.onnx", Size(), 0.9), data)


def minilm(folder: Path, rows: int) -> Words:
    """The real one with its texts, or one of its size."""
    package = find_package()
    if package is None:
        print(f"minilm: its weights are not installed, so {MINILM} of 90 % zeros stands for it")
        data = dataset(folder / f"minilm-rows-{rows}", rows, MINILM.vocabulary)
        return _words(made(folder / "minilm.onnx", MINILM, 0.9), data)
    model, tokenizer = folder / "all-minilm.onnx", folder / "tokenizer.json"
    onnx.save(all_minilm(package, "fused"), model)
    tokenizer.write_text(plain_tokenizer(package))
    text = ["--tokenizer", str(tokenizer), "--bind", "input_ids=text", "--too-long", "truncate"]
    return _words(model, ROOT / "examples" / "minilm" / "data", *text, "--max-tokens", "256")


def resnet(folder: Path, rows: int) -> Words:
    model, data = folder / "resnet.onnx", folder / f"resnet-rows-{rows}"
    if not model.exists():
        onnx.save(resnet50(Pictures(sparsity=0.9)), model)
    if not data.exists():
        data.mkdir()
        pixels = np.random.default_rng(0).random((rows, 3 * 224 * 224), np.float32)
        field = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 3 * 224 * 224)
        table = pa.table({"id": np.arange(rows), "input": field})
        pq.write_table(table, data / "rows.parquet", row_group_size=max(1, rows // 4))
    return _words(model, data)


NETS: dict[str, Callable[[Path, int], Words]] = {"bert": bert, "minilm": minilm, "resnet": resnet}


def _words(model: Path, data: Path, *more: str) -> Words:
    return ["--model", str(model), "--input", str(data), *more]


def job(source: Words, output: Path, module: str, *options: str) -> list[bytes]:
    """The parts of a run of one engine."""
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, "-m", module, "run", *source, "--output", str(output)]
    words += ["--engines", "1", "--threads", "1", "--progress", "none", *options]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths}
    subprocess.run(words, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, check=True)
    return parts(output)


if __name__ == "__main__":
    main()
