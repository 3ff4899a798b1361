"""Rows a second of engine.Session against onnxruntime, on the same cores, in the same run.

    python -m scripts.bench_models                     the MLP at 80, 90 and 95 % zeros
    python -m scripts.bench_models bert --batch 8      BERT-base, sequences of 128 tokens
    python -m scripts.bench_models resnet50            pictures of 224x224, batches of 16
    python -m scripts.bench_models --sparsity 0 --columns off --blocks ...
    python -m scripts.bench_models --openvino ...      OpenVINO takes its turns, too

It prints a table, and of several batch sizes what each reaches of the best one's rate; `--json` a
list of rows. Each figure is the median over rounds, and within a round the contenders take turns,
so that a machine that slows down slows all of them. Compile times and the first, warming run are
not counted. How much faster some cores are than the first number of them is printed of Colonnade,
of onnxruntime, and of the cores themselves: of multiply-adds in registers, which ask nothing of any
memory. Where those do not reach two times one, something else runs on the machine or its host. Of
two cores and more the last columns say how far apart the first two were, least, median and most of
the rounds: a virtual machine's wander over its host, together into one core or apart to two L3s
(engine/kernels/meeting.py).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import engine
from engine.kernels.meeting import round_trip_ns
from engine.kernels.peak import spin
from engine.settings import switches_of
from scripts.models.bert import bert
from scripts.models.bert_weights import Size, random_weights
from scripts.models.mlp import SIZES, mlp
from scripts.models.mobilenet import mobilenet
from scripts.models.picture_net import Pictures
from scripts.models.resnet import resnet50
from scripts.openvino_rival import OpenVino

Array = np.ndarray[Any, Any]
Run = Callable[[], Any]
Turn = Callable[[float], float]
"""Seconds that it takes at least -> batches a second."""

ENGINES = ("colonnade", "onnxruntime", "openvino")
REGISTERS = "registers"
"""No engine, but what the cores themselves give."""
SPINS = [4_000_000] * 8
"""Rounds of multiply-adds: some ten milliseconds each, beside which Python's own time is little."""
SETTLE_SECONDS = 0.3
"""Before a turn: onnxruntime's threads go on looking for work for a tenth of a second after their
last (1.32; whoever came next on two cores lost a tenth of 0.3 seconds)."""
TOLERANCE = 1e-3
"""Of the largest output: how far two programs' float32 sums may lie apart."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians of one setting, in rows a second."""

    model: str
    sparsity: float
    batch: int
    cores: int
    rates: dict[str, float]
    """Of each engine."""
    scaling: dict[str, float]
    """Of each contender, its speed over its own with the first number of cores asked for."""
    rounds: int
    round_trips_ns: tuple[float, ...] = ()
    """Of a line of cache between the first two cores, before each turn of Colonnade's."""

    def ratio(self, engine: str = "onnxruntime") -> float:
        """How many times as fast as that one Colonnade is."""
        return self.rates["colonnade"] / self.rates[engine]

    def to_json(self) -> dict[str, Any]:
        ratios = {other: self.ratio(other) for other in self.rates if other != "colonnade"}
        return {**asdict(self), "ratios": ratios}


@dataclass(frozen=True, slots=True)
class Family:
    """A model to time: how it is made, what it is fed, and how many rows at a time."""

    make: Callable[[float, bool], onnx.ModelProto]
    """(share of zeros, in blocks of 4x1) -> the model."""
    feeds: Callable[[int], dict[str, Array]]
    batches: tuple[int, ...]


def _bert(sparsity: float, blocks: bool) -> onnx.ModelProto:
    return bert(BASE, random_weights(BASE, sparsity, seed=0, blocks=blocks), "torch")


def _rows(batch: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(1).standard_normal((batch, SIZES[0]), np.float32)}


def _sequences(batch: int) -> dict[str, Array]:
    ids = np.random.default_rng(1).integers(0, BASE.vocabulary, (batch, TOKENS))
    mask = np.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _net(build: Callable[[Pictures], onnx.ModelProto]) -> Family:
    def make(sparsity: float, blocks: bool) -> onnx.ModelProto:
        return build(Pictures(sparsity=sparsity, blocks=blocks))

    return Family(make, _pictures, (16,))


def _pictures(batch: int) -> dict[str, Array]:
    side = Pictures().resolution
    shape = (batch, 3, side, side)
    return {"input": np.random.default_rng(1).standard_normal(shape, np.float32)}


BASE, TOKENS = Size(), 128
MODELS = {
    "bert": Family(_bert, _sequences, (8,)),
    "mlp": Family(lambda sparsity, blocks: mlp(SIZES, sparsity, blocks=blocks), _rows, (64, 1024)),
    "mobilenet": _net(mobilenet),
    "resnet50": _net(resnet50),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", choices=sorted(MODELS), default="mlp")
    parser.add_argument("--blocks", action="store_true", help="zeros in row blocks of 4x1")
    parser.add_argument("--columns", choices=["on", "off"], default="on")
    parser.add_argument("--off", nargs="+", default=[], help="as `colonnade run` takes it: pages")
    parser.add_argument("--points", type=int, help="of a tile: 16 or 32")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--batch", type=int, nargs="+", help="rows a run")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn in a round")
    parser.add_argument("--openvino", action="store_true", help="beside onnxruntime")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    if max(args.cores) > len(cpus):
        parser.error(f"expected at most {len(cpus)} cores, the ones this process may use")
    family = MODELS[args.model]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for sparsity in args.sparsity:
            path = Path(folder) / f"{args.model}-{sparsity}.onnx"
            onnx.save(family.make(sparsity, args.blocks), path)
            for batch in args.batch or family.batches:
                found = measure(path, sparsity, batch, cpus, args)
                if not args.json:
                    print_table(found, header=not figures)
                figures += found
    if not args.json and len(args.batch or family.batches) > 2:
        print_curve(figures)
    if args.json:
        print(json.dumps([figure.to_json() for figure in figures], indent=2))


def measure(
    path: Path, sparsity: float, batch: int, cpus: list[int], args: argparse.Namespace
) -> list[Figure]:
    """A Figure for each number of cores; in a round everyone has a turn with every number."""
    family = MODELS[args.model]
    feeds = family.feeds(batch)
    switches = {"columns": args.columns == "on", "points": args.points, **switches_of(args.off)}
    program = engine.compile(path, **switches)
    name = program.outputs[0].name
    rates: dict[tuple[int, str], list[float]] = {}
    trips: dict[int, list[float]] = {cores: [] for cores in args.cores}
    with ExitStack() as held:
        turns: dict[tuple[int, str], Turn] = {}
        for cores in args.cores:
            with on(cpus[:cores]):  # onnxruntime's threads inherit it; ours pin themselves
                session = held.enter_context(engine.Session(program, cpus=cpus[:cores]))
                run = partial(lambda s: s.run(feeds)[name], session)
                turns[cores, "colonnade"] = partial(calls_a_second, run)
                for rival, (turn, theirs) in rivals(path, name, feeds, cpus[:cores], args).items():
                    turns[cores, rival] = turn
                    check_agreement(run(), theirs)
            spun = held.enter_context(registers(cpus[:cores]))
            turns[cores, REGISTERS] = partial(calls_a_second, spun)
        for _ in range(args.rounds):
            for key, turn in turns.items():
                time.sleep(SETTLE_SECONDS)
                if key[0] > 1 and key[1] == "colonnade":
                    trips[key[0]].append(round_trip_ns(cpus[:2]))
                with on(cpus[: key[0]]):
                    rates.setdefault(key, []).append(batch * turn(args.seconds))
    medians = {key: statistics.median(values) for key, values in rates.items()}
    first = args.cores[0]
    return [
        Figure(
            args.model + (" 4x1" if args.blocks else ""),
            sparsity,
            batch,
            cores,
            {who: medians[cores, who] for who in ENGINES if (cores, who) in medians},
            {who: rate / medians[first, who] for (n, who), rate in medians.items() if n == cores},
            args.rounds,
            tuple(trips[cores]),
        )
        for cores in args.cores
    ]


def rivals(
    path: Path, name: str, feeds: dict[str, Array], cpus: list[int], args: argparse.Namespace
) -> dict[str, tuple[Turn, Array]]:
    """Others on those CPUs, each with what it gives for the output `name`."""
    session = onnxruntime_session(path, len(cpus))
    run = partial(lambda s: s.run([name], feeds)[0], session)
    found: dict[str, tuple[Turn, Array]] = {"onnxruntime": (partial(calls_a_second, run), run())}
    if args.openvino:
        rival = OpenVino(path, name, feeds, cpus, calls_a_second)
        found["openvino"] = rival.batches_a_second, rival.output
    return found


@contextmanager
def registers(cpus: list[int]) -> Iterator[Callable[[], None]]:
    """A call that spends SPINS on as many threads as CPUs, each on its own; as in the engine, a
    thread takes the next one until none is left."""
    own = iter(cpus)
    with ThreadPoolExecutor(
        len(cpus), initializer=lambda: os.sched_setaffinity(0, [next(own)])
    ) as p:
        yield lambda: list(p.map(spin, SPINS)).clear()


@contextmanager
def on(cpus: list[int]) -> Iterator[None]:
    """This thread on these CPUs, and threads made meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def onnxruntime_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check_agreement(ours: Array, theirs: Array) -> None:
    """A bench of a wrong result is worth nothing."""
    gap = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not gap <= TOLERANCE:
        raise SystemExit(f"outputs differ by {gap:.2g} of the largest; expected {TOLERANCE}")


def calls_a_second(run: Run, seconds: float) -> float:
    """Over at least `seconds` and two calls."""
    calls, start = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < seconds:
        run()
        calls += 1
    return calls / (time.perf_counter() - start)


def print_curve(figures: list[Figure]) -> None:
    """What each batch size reaches of the best rate at its sparsity and number of cores."""
    print("\nmodel      sparsity  cores  batch: share of the best rate")
    for sparsity, cores in dict.fromkeys((f.sparsity, f.cores) for f in figures):
        own = [f for f in figures if (f.sparsity, f.cores) == (sparsity, cores)]
        rates = [f.rates["colonnade"] for f in own]
        shares = "  ".join(
            f"{f.batch}: {r / max(rates):.0%}" for f, r in zip(own, rates, strict=True)
        )
        print(f"{own[0].model:10} {sparsity:8.2f} {cores:6d}  {shares}")


def _rate(rows: float) -> str:
    return f"{rows:,.0f}" if rows >= 1000 else f"{rows:.2f}"


def _spread(numbers: tuple[float, ...]) -> str:
    """Least, median and most."""
    return "  ".join(f"{np.quantile(numbers, q):.0f}" for q in (0, 0.5, 1)) if numbers else ""


def print_table(figures: list[Figure], *, header: bool) -> None:
    """Rates of all engines, ratios to the others, and each one's speed over its own at first."""
    others = [who for who in figures[0].rates if who != "colonnade"]
    if header:
        heads = [f"{who + ' rows/s':>18}" for who in figures[0].rates]
        heads += [f"{'over ' + who:>16}" for who in others]
        heads += ["  over the first:", *(f"{who:>11}" for who in figures[0].scaling)]
        print("model      sparsity  batch  cores", *heads, " ns there and back")
    for f in figures:
        cells = [f"{_rate(rate):>18}" for rate in f.rates.values()]
        cells += [f"{f.ratio(who):16.2f}" for who in others]
        cells += [" " * 17, *(f"{scaling:11.2f}" for scaling in f.scaling.values())]
        cells.append(f"{_spread(f.round_trips_ns):>18}")
        setting = f"{f.model:10} {f.sparsity:8.2f} {f.batch:6d} {f.cores:6d}"
        print(" ".join([setting, *cells]).rstrip(), flush=True)


if __name__ == "__main__":
    main()
