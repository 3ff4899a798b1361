"""Passes: golden texts of graph, program and explanation; choices, switches, fingerprints."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models as small

import engine
from engine.dispatch import choose
from engine.errors import EngineError, UnsupportedError
from engine.kernels.cache import cache_folder
from engine.kernels.registers import register_lanes
from engine.reader import graph_of
from engine.segments import Column, Fallback
from engine.sparsity import measure

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits" / "digits-mlp-s90.onnx"
Golden = Callable[[str, str], None]


def mlp(density: float = 0.1, seed: int = 0) -> onnx.ModelProto:
    """x[N, 64] -> Gemm 48 Relu -> TopK-free fallback (Einsum) -> Gemm 5 -> Softmax."""
    rng = np.random.default_rng(seed)

    def weights(m: int, k: int) -> np.ndarray:
        return (rng.standard_normal((m, k)) * (rng.random((m, k)) < density)).astype(np.float32)

    nodes = [
        small.node("Gemm", "x w1 b1", "h1", transB=1),
        small.node("Relu", "h1", "h2"),
        small.node("Mod", "h2 three", "h3", fmod=1),
        small.node("Gemm", "h3 w2 b2", "h4", transB=1),
        small.node("Softmax", "h4", "y"),
    ]
    constants = {
        "w1": weights(48, 64),
        "b1": rng.standard_normal(48).astype(np.float32),
        "three": np.float32(3.0),
        "w2": rng.standard_normal((5, 48)).astype(np.float32),
        "b2": np.zeros(5, np.float32),
    }
    return small.model(nodes, {"x": ["N", 64]}, {"y": ["N", 5]}, constants)


def test_golden_digits(golden: Golden) -> None:
    found = engine.explain(DIGITS, points=16)
    golden("digits_graph", str(found.source))
    golden("digits_program", str(found.program))


def test_golden_explanation_with_a_fallback(golden: Golden) -> None:
    found = engine.explain(graph_of(mlp()), points=16)
    text = str(found)
    head, _, tail = text.partition("\nWorking set\n")
    golden(
        "explain_fallback", head + "\n" + tail.partition("\n\n")[2].partition("\nFingerprint")[0]
    )


def test_segments_alternate_around_a_node_without_kernel() -> None:
    program = engine.compile(graph_of(mlp()))
    assert [type(s) for s in program.segments] == [Column, Fallback, Column]
    fallback = program.segments[1]
    assert isinstance(fallback, Fallback)
    assert [n.op for n in fallback.nodes] == ["Mod"]
    assert fallback.reasons == ("no kernel for Mod",)


def test_kernels_are_chosen_by_density() -> None:
    choices = engine.compile(graph_of(mlp()), points=16).choices
    assert sorted(choices.values()) == ["16", "gemm_f32_4x16", "spmm_f32_sell4x16"]


def test_tiles_are_as_wide_as_the_machine_or_as_recorded() -> None:
    graph = graph_of(mlp())
    narrow, wide = (engine.compile(graph, points=points) for points in (16, 32))
    assert {s.points for s in narrow.segments if isinstance(s, Column)} == {16}
    assert {s.points for s in wide.segments if isinstance(s, Column)} == {32}
    assert engine.compile(graph).choices["@points"] == str(2 * register_lanes())
    x = np.random.default_rng(0).standard_normal((37, 64)).astype(np.float32)
    with engine.Session(narrow, [0]) as one, engine.Session(wide, [0]) as other:
        np.testing.assert_allclose(one.run({"x": x})["y"], other.run({"x": x})["y"], atol=1e-6)
    again = engine.compile(graph, choices=narrow.choices)
    assert again.choices == narrow.choices
    assert {s.points for s in again.segments if isinstance(s, Column)} == {16}
    with pytest.raises(EngineError, match=r"points: expected one of \(16, 32\), got 24"):
        engine.compile(graph, points=24)


def test_row_blocks_are_seen() -> None:
    blocks = np.repeat(np.eye(16, 64, dtype=np.float32), 4, axis=0)
    assert choose("fc", measure(blocks), 16).kernel == "spmm_f32_blk4x16"
    scattered = np.roll(blocks, 1, axis=1) * (np.arange(64) % 4 == 0)[:, None]
    assert choose("fc", measure(scattered), 16).kernel == "spmm_f32_sell4x16"


def test_sparse_off_multiplies_all() -> None:
    choices = engine.compile(graph_of(mlp()), sparse=False, points=16).choices
    assert set(choices.values()) == {"16", "gemm_f32_4x16"}


def test_recorded_choices_win_and_keep_the_fingerprint() -> None:
    graph = graph_of(mlp())
    dense = engine.compile(graph, sparse=False)
    asked = engine.compile(graph, choices=dense.choices, sparse=False)
    assert asked.fingerprint == dense.fingerprint
    assert engine.compile(graph, choices=dense.choices).choices == dense.choices


def test_an_unknown_recorded_kernel_is_refused() -> None:
    with pytest.raises(EngineError, match="another release"):
        engine.compile(graph_of(mlp()), choices={"Gemm_0": "spmm_of_tomorrow"})


def test_recorded_choices_of_nodes_that_are_not_there_are_refused() -> None:
    with pytest.raises(EngineError, match=r"choices: .* got \['Gemm_7'\]; .* other switches"):
        engine.compile(graph_of(mlp()), choices={"Gemm_7": "gemm_f32_4x16"})
    choices = engine.compile(graph_of(mlp())).choices
    with pytest.raises(EngineError, match=r"choices: .* got \['Gemm_0', "):
        engine.compile(graph_of(mlp()), choices=choices, rewrites_off=("linear",))


def test_an_unknown_switch_is_refused_with_the_nearest() -> None:
    with pytest.raises(EngineError, match="did you mean columns"):
        engine.compile(graph_of(mlp()), column=False)


def test_fingerprint_follows_weights_and_switches() -> None:
    graph = graph_of(mlp())
    same = engine.compile(graph_of(mlp()))
    assert engine.compile(graph).fingerprint == same.fingerprint
    others = [
        engine.compile(graph_of(mlp(seed=1))),
        engine.compile(graph, columns=False),
        engine.compile(graph, sparse=False),
    ]
    assert len({p.fingerprint for p in (same, *others)}) == 4


def test_a_program_survives_pickling() -> None:
    program = engine.compile(graph_of(mlp()))
    back = pickle.loads(pickle.dumps(program))
    assert back.fingerprint == program.fingerprint
    assert str(back) == str(program)


def test_compiling_does_not_import_numba() -> None:
    code = f"import sys, engine; engine.compile({str(DIGITS)!r}); assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nodes_that_mix_rows_are_refused() -> None:
    nodes = [small.node("CumSum", "x zero", "y")]
    proto = small.model(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"zero": np.array(0)})
    with pytest.raises(UnsupportedError, match="CumSum"):
        engine.compile(graph_of(proto))


def test_bytes_of_another_type_cannot_leave_a_segment() -> None:
    """A uint8 reshape may sit in a column before its cast, not before a node outside."""
    nodes = [
        small.node("Flatten", "x", "f"),
        small.node("BitShift", "f one", "y", direction="LEFT"),
    ]
    proto = small.model(
        nodes, {"x": ["N", 2, 2]}, {"y": ["N", 4]}, {"one": np.array([1], np.uint8)}
    )
    proto.graph.input[0].CopyFrom(small.info("x", ["N", 2, 2], np.uint8))
    proto.graph.output[0].CopyFrom(small.info("y", ["N", 4], np.uint8))
    program = engine.compile(graph_of(proto))
    assert [type(s) for s in program.segments] == [Fallback]


def test_session_nbytes_grows_with_threads_and_rows() -> None:
    program = engine.compile(graph_of(mlp()))
    small_one = program.session_nbytes(1, 16)
    assert program.session_nbytes(4, 16) > small_one
    assert program.session_nbytes(1, 4096) > small_one
    wide = engine.compile(graph_of(mlp()), columns=False)
    assert wide.session_nbytes(1, 4096) > program.session_nbytes(1, 4096)


def test_a_program_knows_which_kernels_are_not_compiled_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLONNADE_CACHE_DIR", str(tmp_path))
    program = engine.compile(graph_of(mlp()), points=16)
    first, *others = program.uncompiled
    assert first.endswith("x16") and others
    code = cache_folder() / first / "x" / "code.nbi"
    code.parent.mkdir(parents=True)
    code.touch()
    assert program.uncompiled == tuple(others)
