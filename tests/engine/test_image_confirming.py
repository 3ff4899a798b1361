"""Ways to pack a convolution that are predicted alike: who is timed, what wins and is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models as small
from scripted_timer import Scripted

import engine
from engine import stopwatch
from engine.images import timing
from engine.images.choosing import choose_structure
from engine.images.confirming import confirmed_structure, kind_of
from engine.images.timing import time_structures
from engine.ops.image_work import Convolution, Plane, Read, Window
from engine.reader import graph_of
from engine.stopwatch import Stopwatch

Array = np.ndarray[Any, Any]


def work(share: float = 0.1, outputs: int = 64, pixels: int = 28, group: int = 1) -> Convolution:
    """A convolution of 3x3 with that share of weights, added to another value."""
    rng = np.random.default_rng(5)
    shape = outputs, 64 // group, 3, 3
    weights = (rng.standard_normal(shape) * (rng.random(shape) < share)).astype(np.float32)
    plane, window = Plane(outputs, pixels, pixels), Window(3, 1, 1, 1)
    reads = Read("x", Plane(64, pixels, pixels), window, window), Read("r", plane, padded=False)
    return Convolution(reads, "y", plane, weights, np.zeros(outputs, np.float32), group, ())


def test_what_is_predicted_alike_is_timed_and_the_faster_wins() -> None:
    predicted = choose_structure("conv", work(), 16)
    assert predicted.kernel == "pair"
    timer = Scripted(nz=1000.0, pair=1300.0)
    choice = confirmed_structure(predicted, work(), 16, timer)
    assert timer.asked == [("nz", "pair")] and choice.kernel == "nz"
    assert choice.reason == "measured 1.30 times as fast as pair, the cost model's choice"
    told = {c.kernel: c.microseconds for c in choice.candidates}
    assert told == {"nz": 1.0, "pair": 1.3, "blk4": None}
    noise = confirmed_structure(predicted, work(), 16, Scripted(nz=1000.0, pair=1040.0))
    assert noise.kernel == "pair" and "confirmed by timing" in noise.reason


@pytest.mark.parametrize(
    ("lanes", "problem"),
    [(8, work()), (16, work(1.0, group=64)), (16, work(pixels=7))],
    ids=["nothing is close", "depthwise", "too little to do"],
)
def test_what_is_sure_or_small_is_not_timed(lanes: int, problem: Convolution) -> None:
    """Nobody answers: a timer that were asked would fail."""
    choice = choose_structure("conv", problem, lanes)
    assert confirmed_structure(choice, problem, lanes, Scripted()) is choice


def network() -> engine.Graph:
    problem = work()
    nodes = [small.node("Conv", "x w", "y", pads=[1, 1, 1, 1])]
    shapes = {"x": ["N", 64, 28, 28]}, {"y": ["N", 64, 28, 28]}
    return graph_of(small.model(nodes, *shapes, {"w": problem.weights}))


def test_a_program_has_what_was_measured_and_is_compiled_again_without_a_timer() -> None:
    timer = Scripted(nz=1000.0, pair=1300.0)
    program = engine.compile(network(), timer=timer, points=32)
    assert "nz" in program.choices.values() and "conv_f32_nz" in str(program)
    assert "conv_f32_pair" in str(engine.compile(network(), points=32))
    again = engine.compile(network(), timer=Scripted(), choices=program.choices)
    assert again.fingerprint == program.fingerprint
    off = engine.compile(network(), timer=Scripted(), points=32, confirm=False)
    assert off.choices == engine.compile(network(), points=32).choices
    told = str(engine.explain(network(), timer=timer, points=32))
    assert "nz because measured 1.30 times as fast as pair" in told
    assert "pair: " in told and "measured 1.3 us" in told


@pytest.mark.parametrize("lanes", [8, 16])
def test_every_way_to_pack_can_be_timed(lanes: int) -> None:
    structures = [c.kernel for c in choose_structure("conv", work(), lanes).candidates]
    problem = work(outputs=300, pixels=14)
    shared = replace(problem, reads=(problem.reads[0],))
    for some in (problem, shared, work(group=2)):
        found = time_structures(some, structures, lanes, budget=0.0005)
        assert list(found) == structures and all(1e-6 < s < 1 for s in found.values())


def test_the_time_of_a_part_is_told_as_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A visit of one row of 28, of 256 of 300 outputs."""
    monkeypatch.setattr(timing, "in_turns", lambda timed, budget, turns: dict.fromkeys(timed, 0.5))
    assert timing.time_structures(work(outputs=300), ["nz"], 8) == {"nz": 0.5 * 28 * 300 / 256}
    assert timing.time_structures(work(group=2), ["nz"], 8) == {"nz": 0.5 * 28}


def test_a_stopwatch_times_once_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Stopwatch(tmp_path).convolution(work(), ["nz", "blk4"], 8)
    assert list(first) == ["nz", "blk4"] and all(100 < ns < 1e9 for ns in first.values())
    monkeypatch.setattr(stopwatch, "_timed_structures", None)  # whoever timed again would fail
    assert Stopwatch(tmp_path).convolution(work(), ["nz", "blk4"], 8) == first
    with pytest.raises(TypeError):
        Stopwatch(tmp_path).convolution(work(), ["nz", "blk4"], 16)  # of another kind


def test_kinds_differ_where_times_do() -> None:
    plain = work()
    others = [
        replace(plain, reads=plain.reads[:1]),
        work(0.2),
        work(outputs=128),
        work(pixels=14),
        work(group=2),
        replace(plain, reads=(replace(plain.reads[0], pixels=Window(3, 2, 1, 1)), plain.reads[1])),
    ]
    kinds = {kind_of(w, lanes) for w in (plain, *others) for lanes in (8, 16)}
    assert len(kinds) == 2 * (1 + len(others))
    assert kind_of(replace(plain, weights=-plain.weights), 8) == kind_of(plain, 8)
