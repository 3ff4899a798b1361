"""The cost model's order of kernels at both widths, around where the order turns; and measuring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import dispatch, measuring
from engine.dispatch import CYCLES, choose, structure_of
from engine.kernels.table import WIDTHS, kernels_of, points_of_tile
from engine.measuring import Measured, Measurement, measure_choices, time_product
from engine.sparsity import measure

ROOT = Path(__file__).resolve().parent.parent.parent
DIGITS = ROOT / "examples/digits/digits-mlp-s90.onnx"
Array = np.ndarray[Any, Any]


def pruned(zeros: float, rows: int = 1, size: int = 768) -> Array:
    """W[size, size] with that share of zeros, drawn for `rows` outputs by one input."""
    rng = np.random.default_rng(0)
    keep = np.repeat(rng.random((size // rows, size)) >= zeros, rows, axis=0)
    return np.where(keep, rng.standard_normal((size, size)), 0).astype(np.float32)


def test_every_width_has_costs() -> None:
    assert set(CYCLES) == {(points, free) for points in WIDTHS for free in (False, True)}


@pytest.mark.parametrize(
    ("points", "shuffles", "zeros", "rows", "structure"),
    [
        # what was the fastest on Zen 3 with AVX2
        (16, True, 0.0, 1, "dense4"),
        (16, True, 0.1, 1, "dense4"),
        (16, True, 0.3, 1, "sell4"),
        (16, True, 0.9, 1, "sell4"),
        (16, True, 0.5, 4, "blk4"),
        (16, True, 0.9, 4, "blk4"),
        # on a Xeon with AVX-512
        (32, False, 0.0, 1, "blk4"),
        (32, False, 0.2, 1, "blk4"),
        (32, False, 0.4, 1, "sell4"),
        (32, False, 0.9, 1, "sell4"),
        (32, False, 0.2, 4, "blk4"),
        (32, False, 0.95, 4, "blk4"),
        # on Zen 4 with AVX-512
        (32, True, 0.1, 1, "blk4"),
        (32, True, 0.3, 1, "sell4"),
        (32, True, 0.9, 1, "sell4"),
        (32, True, 0.2, 4, "blk4"),
        (32, True, 0.95, 4, "blk4"),
    ],
)
def test_the_order_of_kernels_is_the_measured_one(
    monkeypatch: pytest.MonkeyPatch,
    points: int,
    shuffles: bool,
    zeros: float,
    rows: int,
    structure: str,
) -> None:
    monkeypatch.setattr(dispatch, "shuffles_are_free", lambda: shuffles)
    choice = choose("n", measure(pruned(zeros, rows)), points)
    assert structure_of(choice.kernel) == structure, choice.reason


def test_more_work_takes_longer() -> None:
    """A thousandfold: nothing here depends on how busy the machine is."""
    points = points_of_tile()
    kernel = kernels_of("linear", points)[-1].name
    small = time_product(kernel, pruned(0.0, size=32), points, budget=0.001)
    large = time_product(kernel, pruned(0.0, size=1024), points, budget=0.001)
    assert 0 < 10 * small < large


def test_candidates_of_every_node_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "BUDGET", 0.001)
    explanation = engine.explain(DIGITS)
    found = measure_choices(explanation)
    nodes = [choice.node for choice in explanation.choices]
    assert [m.node for m in found.kernels] == [n for n in nodes for _ in range(3)]
    assert [m.kernel for m in found.kernels if m.chosen] == [c.kernel for c in explanation.choices]
    assert all(m.microseconds > 0 and m.predicted_gflops > 0 for m in found.kernels)
    assert all(m.dense_gflops >= m.useful_gflops for m in found.kernels)
    assert 0.5 < found.clock_ghz < 10
    text = str(found)
    assert all(f"*{c.kernel}" in text for c in explanation.choices)


def test_kernels_that_are_off_are_not_measured() -> None:
    found = measure_choices(engine.explain(DIGITS, sparse=False))
    assert {structure_of(m.kernel) for m in found.kernels} == {"dense4"}


def test_where_the_model_was_wrong_is_said() -> None:
    def timed(kernel: str, microseconds: float, chosen: bool = False) -> Measured:
        return Measured("fc1", kernel, chosen, microseconds, 1.0, 1.0, 1.0, 1.0)

    def among(*kernels: Measured) -> Measurement:
        return Measurement(kernels, 16, 0, 100.0, 3.0)

    slower = among(timed("a", 3.0, chosen=True), timed("b", 2.0), timed("c", 4.0))
    assert [(c.kernel, f.kernel) for c, f in slower.wrong] == [("a", "b")]
    assert "fc1: b is 1.50 times as fast as a, which the cost model chose" in str(slower)
    assert slower.to_json()["wrong"] == [{"node": "fc1", "chosen": "a", "fastest": "b"}]
    noise = among(timed("a", 2.05, chosen=True), timed("b", 2.0))
    assert noise.wrong == ()
    assert "chose the fastest kernel for every node" in str(noise)
