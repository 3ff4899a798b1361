"""What making a program takes: weights one after the other, and those that rewrites changed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models as small

import engine
from engine.reader import graph_of

WIDTH, LAYERS = 512, 8


def write(path: Path, *, norms: bool, sparsity: float) -> None:
    """MatMul and ReLU, with a BatchNormalization between them or without."""
    random, nodes, weights, value = np.random.default_rng(1), [], {}, "x"
    for n in range(LAYERS):
        matrix = random.normal(size=(WIDTH, WIDTH)) * (random.random((WIDTH, WIDTH)) >= sparsity)
        weights[f"w{n}"] = matrix.astype(np.float32)
        nodes.append(small.node("MatMul", f"{value} w{n}", value := f"a{n}"))
        if norms:
            of = [f"{which}{n}" for which in ("scale", "shift", "mean", "variance")]
            weights |= {name: random.random(WIDTH).astype(np.float32) + 1 for name in of}
            nodes.append(small.node("BatchNormalization", " ".join([value, *of]), value := f"b{n}"))
        nodes.append(small.node("Relu", value, value := "y" if n + 1 == LAYERS else f"r{n}"))
    onnx.save(small.model(nodes, {"x": ["N", WIDTH]}, {"y": ["N", WIDTH]}, weights), path)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.95])
def test_a_driver_compiles_within_the_price(tmp_path: Path, norms: bool, sparsity: float) -> None:
    write(tmp_path / "m.onnx", norms=norms, sparsity=sparsity)
    engine.compile(tmp_path / "m.onnx", hollow=True)  # imports are no part of it
    tracemalloc.start()
    try:
        program = engine.compile(tmp_path / "m.onnx", hollow=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    matrix = 4 * WIDTH * WIDTH
    assert peak < program.compiling_nbytes + (1 << 20)
    copies = LAYERS * matrix if norms else 0
    assert program.compiling_nbytes - copies < 5 * matrix, "one weight after the other"
    if not (norms or sparsity):
        assert program.compiling_nbytes < program.held_nbytes, "a dense model is never whole there"


def test_weights_in_memory_count(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", norms=False, sparsity=0.5)
    mapped = engine.compile(tmp_path / "m.onnx", hollow=True).compiling_nbytes
    held = engine.compile(graph_of(onnx.load(tmp_path / "m.onnx")), hollow=True).compiling_nbytes
    assert held - mapped == LAYERS * 4 * WIDTH * WIDTH
