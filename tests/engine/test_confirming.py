"""Choices in doubt: who is timed, what wins, what is remembered, and that bytes stay the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models as small
from scripted_timer import Scripted

import engine
from engine import dispatch, stopwatch
from engine.confirming import confirmed, doubtful
from engine.dispatch import Choice, choose
from engine.kernels.table import kernels_of
from engine.reader import graph_of
from engine.sparsity import measure
from engine.stopwatch import Stopwatch

Array = np.ndarray[Any, Any]


def matrix(zeros: float) -> Array:
    rng = np.random.default_rng(3)
    keep = rng.random((320, 320)) >= zeros
    return np.where(keep, rng.standard_normal((320, 320)), 0).astype(np.float32)


def settled(zeros: float, timer: Scripted) -> Choice:
    weights = matrix(zeros)
    sparsity = measure(weights)
    return confirmed(choose("fc", sparsity, 16), weights, sparsity, 16, timer)


@pytest.mark.parametrize("zeros", [0.8, 0.9, 0.95])
def test_what_is_sure_is_not_timed(zeros: float) -> None:
    """Nobody answers: a timer that were asked would fail."""
    choice = settled(zeros, Scripted())
    assert dispatch.structure_of(choice.kernel) == "sell4"
    assert all(c.microseconds is None for c in choice.candidates)


@pytest.mark.parametrize(
    ("zeros", "structures"),
    [(0.0, "sell4 blk4 dense4"), (0.2, "sell4 blk4 dense4"), (0.5, ""), (0.9, "")],
)
def test_only_close_kernels_are_in_doubt(zeros: float, structures: str) -> None:
    close = doubtful(choose("fc", measure(matrix(zeros)), 16))
    assert " ".join(map(dispatch.structure_of, close)) == structures


def test_little_work_is_not_worth_a_timing() -> None:
    assert doubtful(choose("fc", measure(matrix(0.0)), 16))
    assert not doubtful(choose("fc", measure(matrix(0.0)[:256]), 16))


def test_the_faster_kernel_wins_and_both_figures_are_told() -> None:
    predicted = choose("fc", measure(matrix(0.0)), 16)
    assert dispatch.structure_of(predicted.kernel) == "dense4"
    timer = Scripted(dense4=3000.0, blk4=2000.0, sell4=4000.0)
    choice = settled(0.0, timer)
    assert dispatch.structure_of(choice.kernel) == "blk4"
    assert timer.asked == [doubtful(predicted)]
    assert "1.50 times as fast as gemm_f32_4x16, the cost model's choice" in choice.reason
    told = {c.kernel: str(c) for c in choice.candidates}
    assert "kcycles, measured 2.0 us" in told["spmm_f32_blk4x16"]
    assert "kcycles, measured 3.0 us" in told["gemm_f32_4x16"]


def test_noise_does_not_change_the_choice() -> None:
    choice = settled(0.0, Scripted(dense4=2040.0, blk4=2000.0, sell4=9999.0))
    assert dispatch.structure_of(choice.kernel) == "dense4"
    assert "confirmed by timing" in choice.reason


def two_layers() -> engine.Graph:
    nodes = [
        small.node("Gemm", "x w b", "h", transB=1),
        small.node("Gemm", "h v", "y", transB=1),
    ]
    constants = {"w": matrix(0.0), "b": np.ones(320, np.float32), "v": matrix(0.9)}
    return graph_of(small.model(nodes, {"x": ["N", 320]}, {"y": ["N", 320]}, constants))


def test_a_program_has_what_was_measured_and_is_compiled_again_without_a_timer() -> None:
    timer = Scripted(dense4=3000.0, blk4=2000.0, sell4=4000.0)
    program = engine.compile(two_layers(), timer=timer, points=16)
    assert len(timer.asked) == 1, "the second layer is sure"
    assert "spmm_f32_blk4x16" in program.choices.values()
    again = engine.compile(two_layers(), timer=Scripted(), choices=program.choices)
    assert again.fingerprint == program.fingerprint


def test_confirming_can_be_turned_off() -> None:
    off = engine.compile(two_layers(), timer=Scripted(), confirm=False)
    assert off.choices == engine.compile(two_layers()).choices


def test_explain_shows_what_was_measured() -> None:
    timer = Scripted(dense4=3000.0, blk4=2000.0, sell4=4000.0)
    explanation = engine.explain(two_layers(), timer=timer, points=16)
    assert "spmm_f32_blk4x16 because measured 1.50 times as fast" in str(explanation)
    told = json.loads(json.dumps(explanation.to_json()))["choices"][0]["candidates"]
    assert {c["kernel"]: c["microseconds"] for c in told}["gemm_f32_4x16"] == 3.0


KERNELS = [k.name for k in kernels_of("linear", 16)]


def test_a_stopwatch_times_once_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = matrix(0.0)
    first = Stopwatch(tmp_path)(weights, measure(weights), KERNELS, 16)
    assert list(first) == KERNELS and all(10 < ns < 1e8 for ns in first.values())
    monkeypatch.setattr(stopwatch, "_timed", None)  # whoever timed again would fail
    watch = Stopwatch(tmp_path)
    assert watch(weights, measure(weights), KERNELS, 16) == first
    alike = weights.copy()
    alike[0, 0] = 0.0
    assert watch(alike, measure(alike), KERNELS, 16) == first
    with pytest.raises(TypeError):
        watch(weights[:32], measure(weights[:32]), KERNELS, 16)  # of another kind


@pytest.mark.parametrize(
    "content", ["", "[1, 2]", '{"a": 1}', '{"a": {"b": "c"}}', "{", '{"a": {"b": NaN}}']
)
def test_a_damaged_memory_is_written_anew(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopwatch, "_timed", lambda w, kernels, t: dict.fromkeys(kernels, 5.0))
    path = Stopwatch(tmp_path).path
    path.write_text(content)
    weights = matrix(0.0)
    assert Stopwatch(tmp_path)(weights, measure(weights), KERNELS, 16)[KERNELS[0]] == 5.0
    assert dict.fromkeys(KERNELS, 5.0) in json.loads(path.read_text()).values()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_takes_nothing_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopwatch, "_timed", lambda w, kernels, t: dict.fromkeys(kernels, 5.0))
    (tmp_path / "file").write_text("")
    weights = matrix(0.0)
    watch = Stopwatch(tmp_path / "file")
    assert watch(weights, measure(weights), KERNELS, 16) == dict.fromkeys(KERNELS, 5.0)


def test_stopwatches_add_to_what_others_wrote_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopwatch, "_timed", lambda w, kernels, t: dict.fromkeys(kernels, 5.0))
    one, other = Stopwatch(tmp_path), Stopwatch(tmp_path)
    for watch, zeros in ((one, 0.0), (other, 0.5)):
        watch(matrix(zeros), measure(matrix(zeros)), KERNELS, 16)
    assert len(json.loads(one.path.read_text())) == 2


@pytest.mark.parametrize("zeros", [0.0, 0.3, 0.6, 0.95])
def test_the_choice_changes_no_byte(zeros: float) -> None:
    """All kernels of both widths add in the order of the inputs; so may a timing decide."""
    rng = np.random.default_rng(7)
    keep = rng.random((50, 1100)) >= zeros
    w = np.where(keep, rng.standard_normal((50, 1100)), 0).astype(np.float32)
    nodes = [small.node("Gemm", "x w", "y", transB=1)]
    proto = small.model(nodes, {"x": ["N", 1100]}, {"y": ["N", 50]}, {"w": w})
    x = rng.standard_normal((37, 1100)).astype(np.float32)
    graph, seen = graph_of(proto), set[bytes]()
    node = next(iter(set(engine.compile(graph).choices) - {"@points"}))
    for kernel in kernels_of("linear"):
        choices = {node: kernel.name, "@points": str(kernel.points)}
        with engine.Session(engine.compile(graph, choices=choices)) as session:
            seen.add(session.run({"x": x})["y"].tobytes())
    assert len(seen) == 1
