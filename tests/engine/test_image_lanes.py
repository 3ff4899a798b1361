"""How many images go side by side: what the planner chooses, on whose machine, and who keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models as small
from machines import Machine, write_tree

import engine
from engine import compiler
from engine.errors import EngineError
from engine.graph import Graph
from engine.images import cycles
from engine.images import lanes as lanes_module
from engine.images.lanes import HALF, l3_share, lanes_here
from engine.images.segment import Images
from engine.reader import graph_of
from engine.stages import compile_stage, cut

MIB = 1 << 20
FEW, MANY = 2 * MIB, 8 * MIB
"""L3 of a core among sixteen that share 32 MiB, and among four."""

OnMachine = Callable[..., None]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> OnMachine:
    """The machine whose programs are planned from now on."""

    def machine(
        l3_nbytes: int = MANY, among: tuple[int, ...] = (16, HALF), by_two: bool = False
    ) -> None:
        """With `by_two` groups of 8 have kernels as fast as those of 16 here."""
        if not by_two:
            monkeypatch.setattr(cycles, "fits_two", lambda work, lanes: False)
        monkeypatch.setattr(compiler, "l3_share", lambda: l3_nbytes)
        monkeypatch.setattr(compiler, "lanes_here", lambda: among)

    return machine


def pictures() -> Graph:
    """Three convolutions, of which groups of 16 want more than 2 MiB of L3."""
    rng = np.random.default_rng(3)

    def weights() -> Any:
        shape = 64, 64, 3, 3
        return (rng.standard_normal(shape) * (rng.random(shape) < 0.05)).astype(np.float32)

    nodes = [small.node("Conv", f"v{i} w{i}", f"v{i + 1}", pads=[1, 1, 1, 1]) for i in range(3)]
    constants = {f"w{i}": weights() for i in range(3)}
    shapes = {"v0": ["N", 64, 56, 56]}, {"v3": ["N", 64, 56, 56]}
    return graph_of(small.model(nodes, *shapes, constants))


def rows_alone() -> Graph:
    rng = np.random.default_rng(3)
    weights = {"w": rng.standard_normal((8, 8)).astype(np.float32)}
    shapes = {"x": ["N", 8]}, {"y": ["N", 8]}
    return graph_of(small.model([small.node("MatMul", "x w", "y")], *shapes, weights))


def lanes_of(program: engine.Program) -> set[int]:
    return {s.lanes for s in program.segments if isinstance(s, Images)}


@pytest.mark.parametrize(
    ("machine", "nbytes", "lanes"),
    [
        (Machine("two share", nodes=("0-1",)), 16 * MIB, 16),
        (Machine("four share", nodes=("0-3",)), 8 * MIB, 16),
        (Machine("sixteen share", nodes=("0-15",)), 2 * MIB, 8),
        (Machine("two of sixteen are ours", nodes=("0-15",), cpus_allowed="3-4"), 2 * MIB, 8),
        (Machine("four L3", nodes=("0-15",), l3=("0-3", "4-7", "8-11", "12-15")), 8 * MIB, 16),
    ],
    ids=lambda value: value.name if isinstance(value, Machine) else None,
)
def test_a_core_s_share_of_l3_decides(
    machine: Machine, nbytes: int, lanes: int, tmp_path: Path, on: OnMachine
) -> None:
    share = l3_share(write_tree(machine, tmp_path))
    assert share == nbytes
    on(share)
    assert lanes_of(engine.compile(pictures())) == {lanes}


def test_rings_are_small_where_two_pixels_fill_a_register(on: OnMachine) -> None:
    on(MANY, by_two=True)
    program = engine.compile(pictures())
    assert lanes_of(program) == {8}
    structures = {k for n, k in program.choices.items() if not n.startswith("@")}
    assert structures and all(k.endswith("_by2") for k in structures)
    assert "x16s1" in str(program)  # kernels of 16 lanes on groups of 8
    again = engine.compile(pictures(), choices=program.choices)
    assert again.fingerprint == program.fingerprint


def test_of_prices_that_are_alike_the_smaller_rings_win(
    on: OnMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(MANY)
    assert lanes_of(engine.compile(pictures())) == {16}
    monkeypatch.setattr(lanes_module, "ALIKE", 2.0)
    found = engine.explain(pictures())
    assert lanes_of(found.program) == {8}
    assert "8 images side by side: smallest rings of prices that are alike" in str(found)


def test_only_where_a_wide_register_takes_two_turns_a_half_is_considered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {}
    for wide, two_turns in ((16, True), (16, False), (8, True)):
        monkeypatch.setattr(lanes_module, "register_lanes", lambda wide=wide: wide)
        monkeypatch.setattr(lanes_module, "shuffles_are_free", lambda two=two_turns: two)
        found[wide, two_turns] = lanes_here()
    assert found == {(16, True): (16, 8), (16, False): (16,), (8, True): (8,)}


def test_another_machine_goes_on_with_what_was_recorded(on: OnMachine) -> None:
    on(FEW)
    program = engine.compile(pictures())
    assert program.choices["@lanes"] == "8" and program.choices["@points"]
    on(MANY)
    assert engine.compile(pictures()).choices["@lanes"] == "16"
    again = engine.compile(pictures(), choices=program.choices)
    assert again.fingerprint == program.fingerprint and lanes_of(again) == {8}
    on(MANY, among=(8,))
    assert engine.compile(pictures(), choices=program.choices).fingerprint == program.fingerprint


def test_a_run_from_before_there_was_a_choice_keeps_half_of_its_points(on: OnMachine) -> None:
    on(FEW)
    for points in ("16", "32"):
        assert lanes_of(engine.compile(pictures(), choices={"@points": points})) == {
            int(points) // 2
        }


def test_it_can_be_turned_off_or_asked_for(on: OnMachine) -> None:
    on(FEW)
    assert lanes_of(engine.compile(pictures(), groups=False)) == {16}
    assert lanes_of(engine.compile(pictures(), points=32)) == {16}
    on(MANY)
    assert lanes_of(engine.compile(pictures(), points=16)) == {8}
    on(MANY, among=(8,))
    assert lanes_of(engine.compile(pictures())) == {8}


def test_lanes_that_no_kernel_has_are_refused() -> None:
    with pytest.raises(EngineError, match=r"lanes: expected one of \(8, 16\), got 4"):
        engine.compile(pictures(), choices={"@lanes": "4"})


def test_models_without_images_have_no_lanes_and_ask_for_no_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never() -> int:
        raise AssertionError("L3 does not matter")

    monkeypatch.setattr(compiler, "l3_share", never)
    found = engine.explain(rows_alone())
    assert "@lanes" not in found.program.choices and found.lanes is None
    assert found.to_json()["lanes"] is None and "side by side" not in str(found)


def test_stages_have_the_lanes_of_the_whole(on: OnMachine) -> None:
    on(FEW)
    whole = engine.compile(pictures())
    on(MANY)
    stages = [compile_stage(stage, whole.choices) for stage in cut(pictures(), 2)]
    assert [lanes_of(program) for program in stages] == [{8}, {8}]


def test_explain_prices_both(on: OnMachine) -> None:
    on(FEW)
    found = engine.explain(pictures())
    told = found.to_json()["lanes"]
    assert told["lanes"] == 8
    assert [(p["lanes"], p["chosen"]) for p in told["considered"]] == [(16, False), (8, True)]
    wide, half = told["considered"]
    assert half["cycles"] < wide["cycles"] and half["convolutions"] > wide["convolutions"]
    assert half["memory_nbytes"] / 8 < wide["memory_nbytes"] / 16
    (section,) = (p for p in str(found).split("\n\n") if p.startswith("Images side by side"))
    lines = section.split("\n")
    assert lines[1] == "  8 images side by side: cheapest with 2 MiB of L3 a core"
    assert lines[2].startswith("    16 images: ") and lines[3].startswith("  * 8 images: ")
    asked = engine.explain(pictures(), points=16)
    assert "8 images side by side: as points=16 asks for" in str(asked)


def test_what_was_asked_for_a_convolution_is_taken_whatever_the_price(on: OnMachine) -> None:
    on(FEW)
    node = next(n for n in engine.compile(pictures()).choices if not n.startswith("@"))
    program = engine.compile(pictures(), choices={node: "blk4"})
    assert program.choices[node] == "blk4" and program.choices["@lanes"] == "8"
