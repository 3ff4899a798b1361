"""Operators that run through the reference give the same bytes on any number of processors."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_job
import small_models as small
from here import driven
from small_job import words

ROWS, INNER = 64, 577
"""Of the products: small, but enough for OpenBLAS to cut them in two."""


def write_model(path: Path) -> None:
    """x[N, 8] -> a Conv and a MatMul of two computed matrices a row."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((8, ROWS * INNER)),
        "k": rng.standard_normal((100, INNER, 1, 1)),
        "image": np.array([0, INNER, 8, 8]),
        "matrix": np.array([0, ROWS, INNER]),
        "flat": np.array([0, -1]),
    }
    nodes = [
        small.node("MatMul", "x w", "h"),
        small.node("Reshape", "h image", "i"),
        small.node("Conv", "i k", "c"),
        small.node("Reshape", "c flat", "convolved"),
        small.node("Reshape", "h matrix", "m"),
        small.node("Transpose", "m", "t", perm=[0, 2, 1]),
        small.node("MatMul", "m t", "p"),
        small.node("Reshape", "p flat", "product"),
    ]
    outputs = {"convolved": ["N", 6400], "product": ["N", ROWS * ROWS]}
    onnx.save(small.model(nodes, {"x": ["N", 8]}, outputs, constants), path)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two engines need two processors")
def test_one_engine_of_two_threads_and_two_of_one_write_the_same(tmp_path: Path) -> None:
    source = replace(small_job.write(tmp_path), model=tmp_path / "products.onnx")
    write_model(source.model)
    for number in range(1, small_job.FILES):
        (source.data / f"in-{number}.parquet").unlink()
    written = []
    for engines, threads in (("1", "2"), ("2", "1")):
        output = tmp_path / f"out-{engines}"
        more = "--engines", engines, "--threads", threads
        run = driven(*words(source, output, *more))
        assert run.code == 0, run.stderr
        written.append([p.read_bytes() for p in sorted(output.glob("part-*"))])
    assert len(written[0]) == len(small_job.GROUPS)
    assert written[0] == written[1]
