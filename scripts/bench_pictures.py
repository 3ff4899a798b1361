"""Decoding beside the engine: what a job of JPEGs makes of its cores.

`python -m scripts.bench_pictures` writes JPEGs (500x375 pixels, smooth shapes under noise) and the
same pictures as pixels, 224x224, and runs in turn: decoding alone (Pillow, a thread a core), the
engine alone (one session on all cores, one batch again and again), a job of the pixels and one of
the JPEGs, both with one scorer on all cores. Both kinds of work want the same cores, so no job can
be faster than one after the other with no wait in between, 1 / (1 / decoding + 1 / engine): the
last lines say how much of that a job reaches, and what CPU it takes beside both. A job counts
between its first and its last tenth.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import engine
from engine.graph import Value
from pipeline.binding import bind
from pipeline.picture_rules import PictureRules
from pipeline.pictures import Decoder
from scripts.bench_job import say
from scripts.bench_models import MODELS
from scripts.bench_scaling import CORES, Rate, middle, running

SIDE = 224
WIDTH, HEIGHT = 500, 375
QUALITY = 87
GROUP_ROWS = 128
"""Of a row group, which is a shard, and of a batch."""
JOB = ("--engines", "1", "--threads", str(len(CORES)), "--batch-rows", str(GROUP_ROWS))
SECONDS = 3.0
"""That decoding and the engine run alone."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", choices=["mobilenet", "resnet50"], default="mobilenet")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sparsity", type=float, default=0.9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.onnx"
        onnx.save(MODELS[args.model].make(args.sparsity, False), model)
        encoded, pixels = folder / "jpeg.parquet", folder / "pixels.parquet"
        decoder, batch = write(encoded, pixels, args.rows)
        runs: dict[str, Callable[[], Rate]] = {
            "decoding alone": partial(decoding, decoder, batch),
            "engine alone": partial(alone, model),
            "job of pixels": partial(job, model, pixels, folder / "out"),
            "job of JPEGs": partial(job, model, encoded, folder / "out"),
        }
        rates: dict[str, list[Rate]] = {name: [] for name in runs}
        for number in range(args.repeats):
            for name, run in runs.items():
                rates[name].append(run())
            said = ", ".join(f"{name} {found[-1]}" for name, found in rates.items())
            say(f"round {number + 1}, pictures/s: {said}")
    report({name: middle(found) for name, found in rates.items()})


def report(rates: dict[str, Rate]) -> None:
    for name, rate in rates.items():
        print(
            f"{name:16} {rate.rows_a_second:7,.0f} pictures/s, "
            f"{rate.cpu_a_row:7,.0f} µs of CPU a picture"
        )
    decoded, run, job = (rates[n] for n in ("decoding alone", "engine alone", "job of JPEGs"))
    both = 1 / (1 / decoded.rows_a_second + 1 / run.rows_a_second)
    cpu = decoded.cpu_a_row + run.cpu_a_row
    print(f"one after the other, without a wait: {both:,.0f} pictures/s, {cpu:,.0f} µs")
    print(f"job of JPEGs / that: {job.rows_a_second / both:.2f} by the clock")
    print(f"that / job of JPEGs: {cpu / job.cpu_a_row:.2f} by CPU")


def write(encoded: Path, pixels: Path, rows: int) -> tuple[Decoder, pa.RecordBatch]:
    """Both files, a decoder for the first, and a batch of it."""
    value = Value("input", np.dtype(np.uint8), ("N", 3, SIDE, SIDE))
    output = Value("y", np.dtype(np.float32), ("N",))
    fields = pa.schema([("input", pa.binary())])
    binding = bind(fields, (value,), (output,), pictures=PictureRules())
    decoder = Decoder(PictureRules(), binding, len(CORES))
    jpegs = [jpeg(number) for number in range(rows)]
    ids = np.arange(rows)
    table = pa.table({"id": ids, "input": pa.array(jpegs, pa.binary())})
    pq.write_table(table, encoded, row_group_size=GROUP_ROWS, compression="none")
    schema = pa.schema({"id": pa.int64(), "input": pa.list_(pa.uint8(), 3 * SIDE * SIDE)})
    with pq.ParquetWriter(pixels, schema, compression="none", use_dictionary=False) as writer:
        for piece in table.to_batches(GROUP_ROWS):
            made = decoder(piece).column(binding.fields[0].column)
            found = pa.record_batch([piece.column("id"), made], schema=schema)
            writer.write_batch(found, row_group_size=GROUP_ROWS)
    return decoder, table.to_batches(GROUP_ROWS)[0]


def jpeg(number: int) -> bytes:
    """Colours that change slowly, and noise: about as large as a photograph."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (12, 16, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    noise = random.normal(0, 8, (HEIGHT, WIDTH, 3))
    noisy = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def decoding(decoder: Decoder, batch: pa.RecordBatch) -> Rate:
    return repeated(partial(decoder, batch), len(batch))


def alone(model: Path) -> Rate:
    """One session on all cores."""
    x = np.random.default_rng(0).standard_normal((GROUP_ROWS, 3, SIDE, SIDE), np.float32)
    with engine.Session(engine.compile(str(model)), cpus=CORES) as session:
        return repeated(partial(session.run, {"input": x}), len(x))


def repeated(call: Callable[[], object], rows: int) -> Rate:
    """Of calls that take `rows` each, one after another; the first is not timed."""
    call()
    began, cpu, calls = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < SECONDS:
        call()
        calls += 1
    spent = time.process_time() - cpu
    return Rate(calls * rows / (time.perf_counter() - began), spent / (calls * rows) * 1e6)


def job(model: Path, data: Path, output: Path) -> Rate:
    """`colonnade run`."""
    options = (*JOB, "--image", "mean=0.5,std=0.25")
    rate = running(model, data, output, options)
    shutil.rmtree(output)
    return rate


if __name__ == "__main__":
    main()
