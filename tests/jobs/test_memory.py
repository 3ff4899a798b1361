"""The bound that the plan prints holds for the whole job: driver and scorers together."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import picture_jobs
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import small_job
from click.testing import CliRunner

from jobs.cli import main

ROWS, WIDTH = 24_000, 512


def job(folder: Path) -> list[str]:
    """48 MB of floats in two files through one wide layer: batches outweigh the model."""
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(WIDTH, WIDTH)) * (rng.random((WIDTH, WIDTH)) < 0.1)
    head = rng.normal(size=(WIDTH, 64))
    model = folder / "wide.onnx"
    small_job.write_model(model, weights.astype(np.float32), head.astype(np.float32))
    (folder / "data").mkdir()
    for number in range(2):
        flat = pa.array(rng.normal(size=ROWS // 2 * WIDTH).astype(np.float32))
        table = pa.table({"x": pa.FixedSizeListArray.from_arrays(flat, WIDTH)})
        pq.write_table(table, folder / "data" / f"{number}.parquet", row_group_size=3000)
    return [
        "run", "--model", str(model), "--input", str(folder / "data"),
        "--output", str(folder / "out"), "--engines", "1", "--progress", "json",
    ]  # fmt: skip


def resident(process: psutil.Process) -> int:
    """Bytes of the process and all below it; pages that they share count for each."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def bound_of(arguments: list[str]) -> int:
    """Bytes, as the plan prints them."""
    plan = CliRunner().invoke(main, [*arguments, "--dry-run", "--json"])
    memory = json.loads(plan.stdout)["plan"]["memory"]
    parts = ("interpreter", "weights", "session", "reading", "outputs", "writing")
    return int(memory["engines"] * sum(memory[name] for name in parts) + memory["driver"])


def peak_of(arguments: list[str]) -> int:
    """Bytes of a job's processes together, while it runs to its end."""
    peak = 0
    with small_job.popen(*arguments) as process:
        watched = psutil.Process(process.pid)
        until = time.monotonic() + small_job.TIMEOUT
        while process.poll() is None and time.monotonic() < until:
            peak = max(peak, resident(watched))
            time.sleep(0.02)
        run = small_job.finish(process)
    assert run.code == 0, run.stderr
    return peak


def test_peak_stays_within_the_printed_bound(tmp_path: Path) -> None:
    arguments = job(tmp_path)
    peak, bound = peak_of(arguments), bound_of(arguments)
    assert peak > 200 << 20, "the scorer was seen at work"
    assert peak <= bound, f"peak {peak >> 20} MiB, bound {bound >> 20} MiB"


def test_peak_of_a_job_over_large_pictures_stays_within_the_bound(tmp_path: Path) -> None:
    """Progressive JPEGs, whose coefficients are all held while they are decoded: of 12 million
    pixels each, which are decoded one at a time."""
    large = picture_jobs.encoded(picture_jobs.picture(1, 3000, 4000), "JPEG", progressive=True)
    small = picture_jobs.encoded(picture_jobs.picture(2, 64, 64))
    folder = picture_jobs.write(tmp_path / "in", pa.array([large, small, large]))
    arguments = picture_jobs.words(folder, tmp_path / "out", "--image", picture_jobs.IMAGE)
    peak, bound = peak_of(arguments), bound_of(arguments)
    little = picture_jobs.write(tmp_path / "little", pa.array([small] * 4))
    usual = peak_of(picture_jobs.words(little, tmp_path / "other", "--image", picture_jobs.IMAGE))
    assert peak > usual + (30 << 20), "decoding was seen at work"
    assert peak <= bound, f"peak {peak >> 20} MiB, bound {bound >> 20} MiB"
