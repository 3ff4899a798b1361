"""Sessions against onnxruntime, and against themselves: threads, batches, switches."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.calls import Calls
from engine.errors import EngineError, FeedError
from engine.reader import graph_of
from engine.segments import Column

Array = np.ndarray[Any, Any]
CPUS = tuple(sorted(os.sched_getaffinity(0)))

ACTIVATIONS: dict[str, dict[str, Any]] = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.2},
    "Sigmoid": {},
    "Tanh": {},
    "Erf": {},
    "Elu": {},
    "HardSigmoid": {},
    "HardSwish": {},
    "Softplus": {},
    "Abs": {},
    "Neg": {},
    "Softmax": {},
    "LogSoftmax": {},
}


def weights(rng: np.random.Generator, m: int, k: int, density: float) -> Array:
    keep = rng.random((m, k)) < density
    return (rng.standard_normal((m, k)) * keep / np.sqrt(max(1, k * density))).astype(np.float32)


def network(sizes: list[int], names: list[str], density: float, seed: int) -> onnx.ModelProto:
    """Gemm and activation by turns, a residual Add where sizes allow it."""
    rng = np.random.default_rng(seed)
    nodes, constants, x = [], {}, "x"
    for i, (k, m) in enumerate(itertools.pairwise(sizes)):
        constants[f"w{i}"] = weights(rng, m, k, density)
        constants[f"b{i}"] = rng.standard_normal(m).astype(np.float32)
        nodes.append(small.node("Gemm", f"{x} w{i} b{i}", f"g{i}", transB=1))
        name = names[i % len(names)]
        nodes.append(small.node(name, f"g{i}", f"a{i}", **ACTIVATIONS[name]))
        if m == k:
            nodes.append(small.node("Add", f"a{i} {x}", f"r{i}"))
        x = f"r{i}" if m == k else f"a{i}"
    nodes.append(small.node("Identity", x, "y"))
    return small.model(nodes, {"x": ["N", sizes[0]]}, {"y": ["N", sizes[-1]]}, constants)


def run(proto: onnx.ModelProto, feeds: dict[str, Array], **options: Any) -> dict[str, Array]:
    cpus = options.pop("cpus", CPUS[:1])
    with engine.Session(engine.compile(graph_of(proto), **options), cpus=cpus) as session:
        return session.run(feeds)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([1, 3, 10, 16, 33, 64]), min_size=2, max_size=5),
    names=st.lists(st.sampled_from(list(ACTIVATIONS)), min_size=1, max_size=3),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    rows=st.integers(0, 40),
    seed=st.integers(0, 1000),
)
def test_equals_onnxruntime(
    sizes: list[int], names: list[str], density: float, rows: int, seed: int
) -> None:
    proto = network(sizes, names, density, seed)
    x = np.random.default_rng(seed).standard_normal((rows, sizes[0])).astype(np.float32)
    expected = small.onnxruntime_run(proto, {"x": x})["y"]
    got = run(proto, {"x": x})["y"]
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def wide() -> onnx.ModelProto:
    return network([100, 300, 300, 20], ["Relu", "Tanh"], 0.1, 7)


@pytest.fixture(scope="module")
def batch() -> Array:
    return np.random.default_rng(1).standard_normal((333, 100)).astype(np.float32)


def test_same_bytes_for_any_threads_and_any_cut(wide: onnx.ModelProto, batch: Array) -> None:
    whole = run(wide, {"x": batch})["y"].tobytes()
    # more threads than processors is allowed, and changes nothing
    for cpus in (CPUS[:1], CPUS[:2], (CPUS[0],) * 5):
        assert run(wide, {"x": batch}, cpus=cpus)["y"].tobytes() == whole
    with engine.Session(engine.compile(graph_of(wide)), cpus=CPUS[:1]) as session:
        for size in (1, 7, 8, 9, 15, 16, 17, 100):
            cuts = [session.run({"x": batch[i : i + size]})["y"] for i in range(0, 333, size)]
            assert np.concatenate(cuts).tobytes() == whole, size


def test_layer_wise_gives_the_same_bytes(wide: onnx.ModelProto, batch: Array) -> None:
    whole = run(wide, {"x": batch})["y"].tobytes()
    assert run(wide, {"x": batch}, columns=False, cpus=CPUS[:2])["y"].tobytes() == whole


def test_dense_kernels_agree_with_sparse_ones(wide: onnx.ModelProto, batch: Array) -> None:
    sparse = run(wide, {"x": batch})["y"]
    np.testing.assert_allclose(run(wide, {"x": batch}, sparse=False)["y"], sparse, atol=1e-5)


def test_any_memory_layout_is_read(wide: onnx.ModelProto, batch: Array) -> None:
    whole = run(wide, {"x": batch})["y"].tobytes()
    assert run(wide, {"x": np.asfortranarray(batch)})["y"].tobytes() == whole
    padded = np.zeros((666, 120), np.float32)
    padded[::2, 10:110] = batch
    assert run(wide, {"x": padded[::2, 10:110]})["y"].tobytes() == whole


def test_outputs_are_new_arrays(wide: onnx.ModelProto, batch: Array) -> None:
    with engine.Session(engine.compile(graph_of(wide)), cpus=CPUS[:1]) as session:
        first = session.run({"x": batch})["y"]
        kept = first.copy()
        session.run({"x": batch * 2})
        np.testing.assert_array_equal(first, kept)


def test_a_row_of_nan_stays_in_its_row(wide: onnx.ModelProto, batch: Array) -> None:
    spoiled = batch.copy()
    spoiled[5] = np.nan
    clean, got = run(wide, {"x": batch})["y"], run(wide, {"x": spoiled})["y"]
    assert np.isnan(got[5]).all()
    np.testing.assert_array_equal(np.delete(got, 5, 0), np.delete(clean, 5, 0))


def test_segments_around_a_fallback() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        small.node("Gemm", "x w b", "h", transB=1),
        small.node("Mod", "h three", "m", fmod=1),
        small.node("Add", "m h", "s"),
        small.node("Mod", "s three", "y", fmod=1),
    ]
    constants = {
        "w": weights(rng, 9, 30, 0.2),
        "b": np.ones(9, np.float32),
        "three": np.float32(3.0),
    }
    proto = small.model(nodes, {"x": ["N", 30]}, {"y": ["N", 9]}, constants)
    x = rng.standard_normal((21, 30)).astype(np.float32)
    expected = small.onnxruntime_run(proto, {"x": x})["y"]
    np.testing.assert_allclose(run(proto, {"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
    program = engine.compile(graph_of(proto))
    assert [isinstance(s, Column) for s in program.segments] == [True, False, True, False]


def test_positions_share_their_weights() -> None:
    """[N, S, K] @ [K, M]: every position of a row, without junk in its neighbour's outputs."""
    rng = np.random.default_rng(2)
    for positions, m in ((3, 5), (4, 1), (7, 8)):
        constants = {"w": weights(rng, 12, m, 0.5), "b": rng.standard_normal(m)}
        nodes = [small.node("MatMul", "x w", "h"), small.node("Add", "h b", "y")]
        shapes = {"x": ["N", positions, 12]}, {"y": ["N", positions, m]}
        proto = small.model(nodes, *shapes, constants)
        x = rng.standard_normal((19, positions, 12)).astype(np.float32)
        expected = small.onnxruntime_run(proto, {"x": x})["y"]
        np.testing.assert_allclose(run(proto, {"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
        assert len(engine.compile(graph_of(proto)).segments) == 1


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "float64", "bool"])
def test_casts_happen_at_the_border(dtype: str) -> None:
    nodes = [small.node("Cast", "x", "f", to=1), small.node("Mul", "f two", "y")]
    proto = small.model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"two": np.float32(2)})
    proto.graph.input[0].CopyFrom(small.info("x", ["N", 3], dtype))
    x = (np.random.default_rng(0).random((50, 3)) * 3).astype(dtype)
    got = run(proto, {"x": x})["y"]
    np.testing.assert_array_equal(got, x.astype(np.float32) * 2)
    assert isinstance(engine.compile(graph_of(proto)).segments[0], Column)


def test_an_output_may_be_an_input_or_a_middle_value() -> None:
    nodes = [small.node("Relu", "x", "h"), small.node("Neg", "h", "y")]
    proto = small.model(nodes, {"x": ["N", 4]}, {"h": ["N", 4], "y": ["N", 4]})
    x = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    got = run(proto, {"x": x})
    np.testing.assert_array_equal(got["h"], np.maximum(x, 0))
    np.testing.assert_array_equal(got["y"], -np.maximum(x, 0))


FEEDS: dict[str, tuple[dict[str, Array], str]] = {
    "missing": ({}, "missing"),
    "unknown": ({"x": np.zeros((1, 100), np.float32), "z": np.zeros(1)}, "expected"),
    "dtype": ({"x": np.zeros((1, 100))}, "float64"),
    "width": ({"x": np.zeros((1, 99), np.float32)}, r"\[1, 99\]"),
    "rank": ({"x": np.zeros(100, np.float32)}, r"\[100\]"),
}


@pytest.mark.parametrize("case", FEEDS)
def test_wrong_feeds_are_refused(wide: onnx.ModelProto, case: str) -> None:
    feeds, message = FEEDS[case]
    with pytest.raises(FeedError, match=message):
        run(wide, feeds)


def test_a_closed_session_says_so(wide: onnx.ModelProto, batch: Array) -> None:
    session = engine.Session(engine.compile(graph_of(wide)), cpus=CPUS[:1])
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run({"x": batch})


def test_a_processor_that_is_not_ours_is_an_error_not_a_hang(wide: onnx.ModelProto) -> None:
    with pytest.raises(Exception, match="9999"):
        engine.Session(engine.compile(graph_of(wide)), cpus=[9999])


def together(calls: Sequence[Callable[[], object]]) -> None:
    """Each on a thread of its own; returns when all have."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_callers_take_turns(wide: onnx.ModelProto, batch: Array) -> None:
    expected = run(wide, {"x": batch})["y"].tobytes()
    found: list[bytes] = []
    with engine.Session(engine.compile(graph_of(wide)), cpus=CPUS[:2]) as session:

        def ask() -> None:
            found.append(session.run({"x": batch})["y"].tobytes())

        together([ask] * 6)
    assert found == [expected] * 6


def test_two_batches_are_under_way_together(
    wide: onnx.ModelProto, batch: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread begins the next batch while another is kept in the one before."""
    expected = run(wide, {"x": batch})["y"].tobytes()
    found: list[bytes] = []
    begun, second, call = [0, 0], threading.Event(), Calls.__call__

    def kept(calls: Calls, index: int) -> None:
        begun[index] += 1
        if index == 0 and begun[0] == 2:
            second.set()
        if index == 1 and begun[1] == 1:
            assert second.wait(60)
        call(calls, index)

    with engine.Session(engine.compile(graph_of(wide)), cpus=(CPUS[0],) * 2) as session:
        assert session.at_once == 2
        monkeypatch.setattr(Calls, "__call__", kept)
        together([lambda: found.append(session.run({"x": batch})["y"].tobytes())] * 2)
    assert found == [expected] * 2


def test_batches_that_overlap_and_grow_give_the_same_bytes(wide: onnx.ModelProto) -> None:
    """Arenas grow while another batch is under way in the old ones."""
    x = np.random.default_rng(3).standard_normal((3000, 100)).astype(np.float32)
    whole = run(wide, {"x": x})["y"]
    with engine.Session(engine.compile(graph_of(wide)), cpus=(CPUS[0],) * 3) as session:

        def ask(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for top in (40, 300, 3000):
                for _ in range(10):
                    first, last = np.sort(rng.integers(0, top, 2))
                    got = session.run({"x": x[first:last]})["y"]
                    wrong.append(got.tobytes() != whole[first:last].tobytes())

        wrong: list[bool] = []
        together([partial(ask, seed) for seed in range(4)])
    assert wrong == [False] * 120


def test_what_batches_share_is_not_used_by_two(wide: onnx.ModelProto) -> None:
    fallback = small.model(
        [small.node("Mod", "x three", "y", fmod=1)],
        {"x": ["N", 3]}, {"y": ["N", 3]}, {"three": np.float32(3)},
    )  # fmt: skip
    for proto, switches in ((fallback, {}), (wide, {"columns": False})):
        with engine.Session(engine.compile(graph_of(proto), **switches)) as session:
            assert session.at_once == 1


def test_no_rows_give_no_rows_even_where_the_reference_cannot() -> None:
    nodes = [
        small.node("Mod", "x three", "m", fmod=1),
        small.node("Cast", "m", "whole", to=6),
        small.node("ArgMax", "whole", "y", axis=1),
    ]
    proto = small.model(nodes, {"x": ["N", 4]}, {"y": ["N", 1]}, {"three": np.float32(3)})
    proto.graph.output[0].CopyFrom(small.info("y", ["N", 1], np.int64))
    got = run(proto, {"x": np.zeros((0, 4), np.float32)})["y"]
    assert got.shape == (0, 1)
    assert got.dtype == np.int64


def convolution() -> onnx.ModelProto:
    w = weights(np.random.default_rng(4), 8, 27, 0.5).reshape(8, 3, 3, 3)
    nodes = [small.node("Conv", "x w", "c"), small.node("Relu", "c", "y")]
    return small.model(nodes, {"x": ["N", 3, 6, 6]}, {"y": ["N", 8, 4, 4]}, {"w": w})


@pytest.mark.parametrize("proto", [network([64, 96, 32], ["Relu"], 0.2, 9), convolution()])
def test_each_numa_node_has_its_copy_of_the_weights(
    proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes are pretended here; tests/numa/test_real_kernel.py sees where copies really lie."""
    program = engine.compile(graph_of(proto))
    shape = [int(d) for d in program.inputs[0].shape[1:]]  # type: ignore[index, arg-type]
    feeds = {"x": np.random.default_rng(2).standard_normal((200, *shape)).astype(np.float32)}
    nodes = iter([0, 1, 0])
    with engine.Session(program, cpus=CPUS[:1] * 3) as session:
        alone, expected = session.memory()["weights"], session.run(feeds)["y"]
    monkeypatch.setattr("engine.workers.numa_node", lambda cpu: next(nodes))
    with engine.Session(program, cpus=CPUS[:1] * 3) as session:
        copies = session.memory()["weights"]
        assert session.run(feeds)["y"].tobytes() == expected.tobytes()
        assert len(session.memory()["panels"]) >= 3
    assert len(copies) == 2 * len(alone) > 0
    for first, second in zip(copies[: len(alone)], copies[len(alone) :], strict=True):
        assert np.array_equal(first, second)
        assert not np.shares_memory(first, second)


def test_threads_read_the_copy_of_their_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = iter([0, 1])
    monkeypatch.setattr("engine.workers.numa_node", lambda cpu: next(nodes))
    program = engine.compile(graph_of(network([64, 96, 32], ["Relu"], 0.2, 9)))
    with engine.Session(program, cpus=CPUS[:1] * 2) as session:
        session.run({"x": np.ones((8, 64), np.float32)})
        (segment,) = session._segments
        copies = session.memory()["weights"]
        addresses = [a.ctypes.data for a in copies]
        first, second = addresses[: len(copies) // 2], addresses[len(copies) // 2 :]
        words = [set(w.ravel().tolist()) for w in segment._words]  # type: ignore[union-attr]
        assert [bool(words[0] & set(x)) for x in (first, second)] == [True, False]
        assert [bool(words[1] & set(x)) for x in (first, second)] == [False, True]
