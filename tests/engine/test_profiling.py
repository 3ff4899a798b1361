"""profile(): every step and fallback node once, shares that add up, and work that is counted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small

import engine
from engine.batch import Batch
from engine.errors import EngineError, FeedError
from engine.ops.native_extremes import MOST_TOP
from engine.rival import Rival, disagreement, tolerance
from engine.samples import made_up_feeds
from engine.segments import Column

Array = np.ndarray[Any, Any]
ROWS = 50
"""No multiple of a column: the last one is not full."""


def mixed_model() -> onnx.ModelProto:
    """Native, fallback, native."""
    rng = np.random.default_rng(0)
    w1 = rng.standard_normal((24, 12)) * (rng.random((24, 12)) < 0.3)
    constants = {
        "w1": w1.astype(np.float32),
        "b1": np.ones(24, np.float32),
        "k": np.array([MOST_TOP + 1], np.int64),
        "w2": rng.standard_normal((4, MOST_TOP + 1)).astype(np.float32),
        "b2": np.zeros(4, np.float32),
    }
    nodes = [
        small.node("Gemm", "x w1 b1", "g1", transB=1, name="first"),
        small.node("Tanh", "g1", "t1", name="act"),
        small.node("TopK", "t1 k", "top where", axis=-1, name="best"),
        small.node("Gemm", "top w2 b2", "y", transB=1, name="last"),
    ]
    return small.model(nodes, {"x": ["N", 12]}, {"y": ["N", 4]}, constants)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "mixed.onnx"
    onnx.save(mixed_model(), path)
    return path


def test_every_step_stands_in_the_profile_once_and_shares_add_up(path: Path) -> None:
    program = engine.compile(path)
    profile = engine.profile(program, made_up_feeds(program.inputs, ROWS))
    expected = []
    for number, segment in enumerate(program.segments):
        if isinstance(segment, Column):
            expected += [(number, s.node, s.kernel) for s in segment.steps]
        else:
            expected += [(number, n.name, "reference") for n in segment.nodes]
    assert [(s.segment, s.node, s.kernel) for s in profile.steps] == expected
    assert {s.kernel for s in profile.of_node("best")} == {"reference"}
    assert sum(s.share for s in profile.steps) == pytest.approx(1)
    assert profile.seconds == pytest.approx(sum(s.seconds for s in profile.steps))
    assert (
        all(s.seconds >= 0 for s in profile.steps)
        and min(profile.seconds, profile.whole_seconds) > 0
    )
    assert (profile.rows, profile.cpu) == (ROWS, min(os.sched_getaffinity(0)))
    assert "best" in str(profile) and f"{ROWS} rows" in str(profile)


def test_work_is_counted_with_and_without_zeros(path: Path) -> None:
    program = engine.compile(path)
    profile = engine.profile(program, made_up_feeds(program.inputs, ROWS))
    w1 = onnx.numpy_helper.to_array(mixed_model().graph.initializer[0])
    first = next(s for s in profile.of_node("first") if s.multiply_adds)
    assert (first.multiply_adds, first.nonzeros) == (24 * 12, np.count_nonzero(w1))
    assert first.dense_gflops == pytest.approx(2 * 24 * 12 / first.seconds / 1e9)
    ratio = first.nonzeros / first.multiply_adds
    assert first.useful_gflops == pytest.approx(first.dense_gflops * ratio)
    plain = first.to_json()
    assert plain["useful_gflops"] == first.useful_gflops and plain["node"] == "first"


def test_a_convolution_through_the_reference_has_its_work(tmp_path: Path) -> None:
    constants = {"w": np.ones((2, 1, 3, 3), np.float32)}
    nodes = [small.node("Conv", "x w", "y", name="conv")]
    model = small.model(nodes, {"x": ["N", 1, 5, 5]}, {"y": ["N", 2, 3, 3]}, constants)
    onnx.save(model, tmp_path / "conv.onnx")
    program = engine.compile(tmp_path / "conv.onnx")
    (conv,) = engine.profile(program, made_up_feeds(program.inputs, 3)).of_node("conv")
    assert conv.multiply_adds == conv.nonzeros == 2 * 3 * 3 * 9


def test_timed_runs_compute_the_same_as_others(path: Path) -> None:
    """What follows a segment reads what the timed segment wrote."""
    program = engine.compile(path, points=16)
    feeds = made_up_feeds(program.inputs, ROWS)
    with engine.Session(program) as session:
        expected = session.run(feeds)["y"]
        seconds = session.timed(feeds)
        assert [s.shape[0] for s in seconds] == [-(-ROWS // 16), 1, -(-ROWS // 16)]
        last = session._segments[-1]
        known = {"top": np.zeros((ROWS, MOST_TOP + 1), np.float32)}
        last(known, Batch(ROWS))
        untimed = known.pop("y")
        last.timed(known, Batch(ROWS))
        assert known["y"].tobytes() == untimed.tobytes() != expected.tobytes()


def test_a_program_with_columns_off_is_profiled_depth_first(path: Path) -> None:
    program = engine.compile(path, columns=False)
    feeds = made_up_feeds(program.inputs, ROWS)
    assert engine.profile(program, feeds).steps
    with (
        engine.Session(program) as session,
        pytest.raises(EngineError, match="expected a program with columns on"),
    ):
        session.timed(feeds)


def test_profiles_leave_affinity_alone_and_refuse_no_rows(path: Path) -> None:
    program = engine.compile(path)
    before = os.sched_getaffinity(0)
    with pytest.raises(FeedError, match="expected feeds with rows, got none"):
        engine.profile(program, made_up_feeds(program.inputs, 0))
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint8", 0, 255), ("int64", 0, 9), ("int8", 0, 9), ("bool", 0, 1), ("float64", -9, 9)],
)
def test_made_up_feeds_suit_their_types(dtype: str, low: int, high: int) -> None:
    value = engine.Value("x", np.dtype(dtype), ("N", 40, "open"))
    (x,) = made_up_feeds([value], 7).values()
    assert x.dtype == np.dtype(dtype) and x.shape == (7, 40, 32)
    assert low <= x.min() < x.max() <= high
    assert dtype != "float64" or (abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1)
    again = made_up_feeds([engine.Value("z", np.dtype("bool"), ("N",)), value], 7)["x"]
    assert again.tobytes() == x.tobytes(), "whatever other inputs there are"
    with pytest.raises(FeedError, match="give real ones with --input"):
        made_up_feeds([engine.Value("s", np.dtype(object), ("N",))], 7)


@pytest.mark.parametrize(
    ("ours", "agrees"),
    [
        ([1.0, 2.0, np.nan, np.inf], True),
        ([1.0, 2.001, np.nan, np.inf], True),
        ([1.0, 2.01, np.nan, np.inf], False),
        ([1.0, 2.0, 3.0, np.inf], False),
        ([1.0, 2.0, np.nan, -np.inf], False),
        ([1.0, 2.0, np.nan], False),
    ],
)
def test_disagreement_of_floats(ours: list[float], agrees: bool) -> None:
    theirs = {"y": np.array([1.0, 2.0, np.nan, np.inf], np.float32)}
    problem = disagreement({"y": np.array(ours, np.float32)}, theirs)
    assert (problem is None) is agrees and (problem is None or problem.startswith("output y: "))


def test_a_model_that_rounds_may_differ_by_a_step(tmp_path: Path) -> None:
    scales = {"s": 0.1, "z": np.array(0, np.int8)}
    nodes = [
        small.node("QuantizeLinear", "x s z", "q"),
        small.node("DequantizeLinear", "q s z", "y"),
    ]
    onnx.save(small.model(nodes, {"x": ["N", 4]}, "y", scales), tmp_path / "q.onnx")
    relu = small.model([small.node("Relu", "x", "y")], {"x": ["N", 4]}, "y")
    onnx.save(relu, tmp_path / "relu.onnx")
    rounds, plain = (engine.compile(tmp_path / name) for name in ("q.onnx", "relu.onnx"))
    assert tolerance(rounds) > 1 / 127 > tolerance(plain)
    theirs, ours = (np.array([12.7, x], np.float32) for x in (5.0, 5.1))
    assert disagreement({"y": ours}, {"y": theirs}, tolerance(rounds)) is None
    assert disagreement({"y": ours}, {"y": theirs}, tolerance(plain)) is not None


def test_disagreement_of_integers_and_names() -> None:
    places = np.arange(2000)
    moved = places.copy()
    moved[0] = 7
    assert disagreement({"y": moved}, {"y": places}) is None
    moved[:3] = 7
    assert "of the elements" in (disagreement({"y": moved}, {"y": places}) or "")
    assert "against none" in (disagreement({}, {"y": places}) or "")
    assert disagreement({"y": np.zeros(3, np.float32)}, {"y": np.zeros(3, np.float32)}) is None
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert disagreement({"y": ones}, {"y": zeros}) is not None


def test_onnxruntime_agrees_with_the_engine(path: Path) -> None:
    program = engine.compile(path)
    feeds = made_up_feeds(program.inputs, ROWS)
    with engine.Session(program) as session:
        assert disagreement(session.run(feeds), Rival(path, 1).run(feeds)) is None
    with pytest.raises(EngineError, match="onnxruntime cannot run it"):
        Rival(path, 1).run({"x": np.zeros((2, 3), np.float32)})
    path.with_suffix(".bad").write_bytes(b"no model")
    with pytest.raises(EngineError, match="onnxruntime cannot load it"):
        Rival(path.with_suffix(".bad"), 1)
