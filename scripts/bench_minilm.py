"""Tokens and sentences a second of a transformer on real texts, on one core: what padding costs.

    python -m scripts.bench_minilm minilm.onnx tokenizer.json
    python -m scripts.bench_minilm minilm.onnx tokenizer.json --sparsity 0.9

Texts go in batches of 32 in the order of the dataset, of which every batch, or `--batches` evenly
spaced ones, are run: `ragged` by Colonnade at each text's own length; `padded` by the same engine
and by onnxruntime, each batch to its longest text. `sorted` is onnxruntime on the same texts in
order of length, which is what one does against padding. Tokens are those of the texts; padding
is none. `--sparsity` makes zeros of the smallest weights of each matrix in one step, for the
timing alone: embeddings of such a model are worth nothing. Figures are medians over rounds, and
within a round the contenders take turns. examples/minilm/README.md makes model and tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.dataset as ds
from onnx import numpy_helper

import engine
from pipeline.text import TokenizerFile
from scripts.bench_models import check_agreement, on, onnxruntime_session

Array = np.ndarray[Any, Any]
Feeds = dict[str, Any]
Run = Callable[[Feeds], Array]

DATA = Path(__file__).resolve().parent.parent / "examples" / "minilm" / "data"
BATCH = 32
RAGGED, PADDED = "colonnade ragged", "colonnade padded"
RIVAL, SORTED = "onnxruntime padded", "onnxruntime sorted"


@dataclass(frozen=True, slots=True)
class Workload:
    """The same texts, batch after batch, as each contender is fed them."""

    ragged: tuple[Feeds, ...]
    padded: tuple[Feeds, ...]
    sorted: tuple[Feeds, ...]
    """Padded too, but in order of length."""
    sentences: int
    tokens: int
    padded_tokens: int
    sorted_tokens: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One contender: the median of its turns."""

    name: str
    sparsity: float
    tokens_a_second: float
    sentences_a_second: float
    ragged_ratio: float
    """Colonnade ragged over this one."""
    tokens_saved: float
    """Tokens that this one computes over those of the texts: the ratio that skipping padding
    gives if every token costs the same."""
    all_seconds: tuple[float, ...]


def workload(sequences: Sequence[Array], inputs: Sequence[str], batches: int | None) -> Workload:
    """`batches` evenly spaced ones of BATCH sequences, or all of them."""
    groups = [list(sequences[i : i + BATCH]) for i in range(0, len(sequences), BATCH)]
    if batches is not None and batches < len(groups):
        groups = [groups[i * len(groups) // batches] for i in range(batches)]
    flat = sorted((s for group in groups for s in group), key=len)
    by_length = [flat[i : i + BATCH] for i in range(0, len(flat), BATCH)]
    return Workload(
        tuple({"input_ids": engine.Ragged.of(group)} for group in groups),
        tuple(pad(group, inputs) for group in groups),
        tuple(pad(group, inputs) for group in by_length),
        len(flat),
        sum(map(len, flat)),
        *(sum(max(map(len, g)) * len(g) for g in order) for order in (groups, by_length)),
    )


def pad(group: Sequence[Array], inputs: Sequence[str]) -> Feeds:
    """The model's inputs [N, S], S the longest; masks tell what was padded."""
    ids = np.zeros((len(group), max(map(len, group))), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(group):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: known[name] for name in inputs}


def pruned(model: onnx.ModelProto, sparsity: float) -> onnx.ModelProto:
    """The model in place, with the smallest weights of each matrix product's constant zeroed."""
    names = {n.input[1] for n in model.graph.node if n.op_type in ("MatMul", "Gemm")}
    for tensor in model.graph.initializer:
        if tensor.name in names and len(tensor.dims) == 2:
            w = numpy_helper.to_array(tensor).copy()
            count = round(sparsity * w.size)
            w.flat[np.argpartition(np.abs(w), count - 1, axis=None)[:count]] = 0
            tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
    return model


def read_sequences(folder: Path, field: str, tokenizer: Path, limit: int) -> list[Array]:
    """Token ids of each text in the order of the files, cut at `limit`."""
    texts = ds.dataset(folder, format="parquet").to_table(columns=[field])[field].to_pylist()
    found = TokenizerFile.of(str(tokenizer.resolve())).load()
    found.no_padding()
    found.enable_truncation(limit)
    return [np.array(text.ids, np.int64) for text in found.encode_batch(texts)]


def measure(path: Path, given: Workload, sparsity: float, rounds: int, cpu: int) -> list[Figure]:
    """Each contender's turns on `cpu`; first all of them must agree."""
    program = engine.compile(path)
    name = next((v.name for v in program.outputs if not v.has_tokens), None)
    if name is None:
        raise SystemExit(f"{path}: expected an output of one row a text; make_model gives one")
    with on([cpu]), engine.Session(program, cpus=[cpu]) as ours:
        theirs = onnxruntime_session(path, 1)

        def run(feeds: Feeds) -> Array:
            return np.asarray(ours.run(feeds)[name])

        def rival(feeds: Feeds) -> Array:
            return np.asarray(theirs.run([name], feeds)[0])

        turns: dict[str, tuple[Run, tuple[Feeds, ...], int]] = {
            RAGGED: (run, given.ragged, given.tokens),
            PADDED: (run, given.padded, given.padded_tokens),
            RIVAL: (rival, given.padded, given.padded_tokens),
            SORTED: (rival, given.sorted, given.sorted_tokens),
        }
        for ragged, padded in zip(given.ragged, given.padded, strict=True):
            expected = rival(padded)
            check_agreement(run(ragged), expected)
            check_agreement(run(padded), expected)
        seconds: dict[str, list[float]] = {key: [] for key in turns}
        for _ in range(rounds):
            for key, (runner, batches, _tokens) in turns.items():
                seconds[key].append(timed(runner, batches))
    medians = {key: statistics.median(of) for key, of in seconds.items()}
    return [
        Figure(
            key,
            sparsity,
            given.tokens / medians[key],
            given.sentences / medians[key],
            medians[key] / medians[RAGGED],
            tokens / given.tokens,
            tuple(seconds[key]),
        )
        for key, (_run, _batches, tokens) in turns.items()
    ]


def timed(run: Run, batches: Sequence[Feeds]) -> float:
    """Seconds for all batches, one after the other."""
    start = time.perf_counter()
    for feeds in batches:
        run(feeds)
    return time.perf_counter() - start


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--input", type=Path, default=DATA, help="Parquet folder of texts")
    parser.add_argument("--field", default="text")
    parser.add_argument("--max-tokens", type=int, default=256, help="longer texts are cut")
    parser.add_argument("--sparsity", type=float, default=0, help="share of zeros made, 0..0.99")
    parser.add_argument("--batches", type=int, help="as many of all, evenly spaced")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    return parser


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    if not 0 <= args.sparsity < 1 or args.rounds < 1 or (args.batches or 1) < 1:
        parser.error("expected --sparsity from 0 to below 1, --rounds and --batches from 1")
    cpu = max(os.sched_getaffinity(0))  # the first one has the system's own work
    sequences = read_sequences(args.input, args.field, args.tokenizer, args.max_tokens)
    model = onnx.load(args.model)
    given = workload(sequences, [i.name for i in model.graph.input], args.batches)
    with tempfile.TemporaryDirectory() as folder:
        path = args.model
        if args.sparsity:
            path = Path(folder) / "pruned.onnx"
            onnx.save(pruned(model, args.sparsity), path)
        figures = measure(path, given, args.sparsity, args.rounds, cpu)
    if args.json:
        print(json.dumps([asdict(f) for f in figures], indent=2))
    else:
        print_table(given, figures)


def print_table(given: Workload, figures: Sequence[Figure]) -> None:
    print(
        f"{given.sentences:,} texts of {given.tokens:,} tokens, "
        f"zeros made {figures[0].sparsity:.0%}; one core, "
        f"medians of {len(figures[0].all_seconds)} rounds"
    )
    print("                       tokens/s  sentences/s  tokens computed  ragged is faster by")
    for f in figures:
        print(
            f"{f.name:20} {f.tokens_a_second:>10,.0f} {f.sentences_a_second:>12,.1f} "
            f"{f.tokens_saved:>15.2f}x {f.ragged_ratio:>18.2f}x"
        )


if __name__ == "__main__":
    main()
