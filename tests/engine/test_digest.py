"""Digests: equal for equal values in any process, another for any change that counts."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models as small
from onnx import helper

import engine
from engine.digest import digest
from engine.graph import Graph, Node
from engine.program import Program
from engine.reader import graph_of
from engine.segments import Column, Fallback

ROOT = Path(__file__).parents[2]

DIFFERENT: dict[str, Sequence[Any]] = {
    "kinds": [None, 0, 0.0, False, "0", b"0", [], {}, "", [0], [[0]], np.zeros(1)],
    "floats": [0.1, np.nextafter(0.1, 1).item(), -0.1, 0.0, -0.0, float("inf"), float("nan")],
    "cuts": [["ab", "c"], ["a", "bc"], ["abc"], ["a", "b", "c"], [["a"], "bc"], "abc"],
    "mappings": [{"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 1}, ["a", 1]],
    "arrays": [
        np.zeros((2, 3), np.float32),
        np.zeros((3, 2), np.float32),
        np.zeros(6, np.float32),
        np.zeros(6, np.int32),
        np.zeros(6, ">i4"),
        np.zeros((0, 3), np.float32),
        np.zeros((0, 2), np.float32),
        np.arange(6, dtype=np.float32),
        np.array(0, np.float32),
    ],
    "texts": [
        np.array(["ab", "c"], object),
        np.array(["a", "bc"], object),
        np.array(["a", "b\0c"], object),
        np.array([b"ab", b"c"], object),
        np.array([["ab"], ["c"]], object),
        np.array(["ä", "\ud800"], object),
        np.array([], object),
        np.array("abc", object),
    ],
    "types": [np.dtype("f4"), np.dtype(">f4"), np.dtype("f8"), "float32"],
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_different_values_have_different_digests(case: str) -> None:
    values = DIFFERENT[case]
    assert len({digest(v) for v in values}) == len(values)


def test_layout_order_and_identity_do_not_count() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    twins: list[tuple[Any, Any]] = [
        (x, np.asfortranarray(x)),
        (x, np.repeat(x, 2, axis=1)[:, ::2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1, 2), [1, 2]),
        (np.array(["a", "b"], object), np.array(["".join("a"), "b"], object)),
        ([x, x], [x, x.copy()]),
    ]
    for one, two in twins:
        assert digest(one) == digest(two)
    # short-lived arrays get each other's identity
    assert digest([np.float32(1), np.float32(2)]) != digest([np.float32(1), np.float32(1)])
    assert digest([np.float32(i) for i in range(9)]) == digest([np.float32(i) for i in range(9)])


def test_another_process_agrees() -> None:
    value = "{'a': [1.5, None, np.array(['x', 'yz'], object)], 'b': np.arange(3)}"
    script = f"import numpy as np; from engine.digest import digest; print(digest({value}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in "12"
    }  # fmt: skip
    assert len(found) == 1


def test_what_is_not_a_value_is_an_error() -> None:
    with pytest.raises(TypeError, match="object"):
        digest([object()])


def fallback_of(op: str, **attributes: Any) -> Program:
    """A program of one node, as if `op` had taken these attributes."""
    proto = small.model([small.node("Mod", "x three", "y", fmod=1)], {"x": ["N", 3]}, "y",
                        {"three": np.float32(3)})  # fmt: skip
    program = engine.compile(graph_of(proto))
    (segment,) = program.segments
    assert isinstance(segment, Fallback)
    node = Node("n", op, ("x",), ("y",), attributes=attributes)
    return replace(program, segments=(replace(segment, nodes=(node,)),))


def subgraph(value: float) -> onnx.GraphProto:
    constant = small.node("Constant", "", "c", value_float=value)
    return helper.make_graph([constant], "branch", [], [small.info("c", [])])


LONG = list(range(30))
ATTRIBUTES: dict[str, Sequence[Any]] = {
    "lists of numbers": [LONG, [*LONG[:-1], 7], [float(n) for n in LONG]],
    "floats beyond six digits": [0.1234567, 0.12345671, 0.1234567 + 1e-16],
    "lists of texts": [["a" * 30, "b" * 30], ["a" * 30, "c" * 30]],
    "long texts": ["a" * 50, "a" * 49 + "b"],
    "arrays": [np.zeros(9, np.float32), np.ones(9, np.float32)],
    "lists of arrays": [[np.zeros(9)], [np.ones(9)]],
    "subgraphs": [subgraph(1.0), subgraph(2.0)],
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_a_programs_fingerprint_follows_attributes(case: str) -> None:
    values = ATTRIBUTES[case]
    prints = [fallback_of("Op", a=value).fingerprint for value in values]
    assert len(set(prints)) == len(values)
    assert fallback_of("Op", a=values[0]).fingerprint == prints[0]


def test_a_programs_fingerprint_follows_captures_opsets_and_types() -> None:
    program = fallback_of("Op")
    (segment,) = program.segments
    assert isinstance(segment, Fallback)
    node = replace(segment.nodes[0], captures=("z",))
    value = replace(program.values["y"], dtype=np.dtype(np.float64))
    others = [
        program,
        replace(program, opsets={"": 18}),
        replace(program, opsets={**program.opsets, "ai.onnx.ml": 3}),
        replace(program, segments=(replace(segment, nodes=(node,)),)),
        replace(program, values={**program.values, "y": value}),
        replace(program, constants={"three": np.float32(3)[None]}),
        replace(program, constants={"four": np.asarray(np.float32(3))}),
    ]
    for one, two in itertools.combinations(others, 2):
        assert one.fingerprint != two.fingerprint


def test_a_programs_fingerprint_follows_every_word_of_a_step() -> None:
    nodes = [small.node("LeakyRelu", "x", "y", alpha=0.2)]
    graph: Graph = graph_of(small.model(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}))
    program = engine.compile(graph)
    (segment,) = program.segments
    assert isinstance(segment, Column)
    for number, step in enumerate(segment.steps):
        for place, word in enumerate(step.operands):
            if isinstance(word, int):
                operands = (*step.operands[:place], word + 1, *step.operands[place + 1 :])
                steps = list(segment.steps)
                steps[number] = replace(step, operands=operands)
                other = replace(program, segments=(replace(segment, steps=tuple(steps)),))
                assert other.fingerprint != program.fingerprint


def test_texts_as_constants_have_a_fingerprint() -> None:
    def program(*texts: str) -> Program:
        found = fallback_of("Op")
        return replace(found, constants={"t": np.array(texts, object)})

    assert program("ab", "c").fingerprint == program("ab", "c").fingerprint
    assert program("ab", "c").fingerprint != program("a", "bc").fingerprint


FORKED = """
import sys; sys.path.insert(0, "tests")
import small_models as small, engine
from engine.reader import graph_of
nodes = [small.node("Mod", "x x", f"m{i}", fmod=1) for i in range(4)]
nodes += [small.node("Relu", f"m{i}", f"y{i}") for i in range(4)]
names = [f"{letter}{i}" for letter in "my" for i in range(4)]
proto = small.model(nodes, {"x": ["N", 3]}, dict.fromkeys(names, ["N", 3]))
print(engine.compile(graph_of(proto)).fingerprint)
"""


def test_scorers_compile_the_programs_that_drivers_do() -> None:
    """In a process where sets have another order."""
    found = {
        subprocess.run(
            [sys.executable, "-c", FORKED], cwd=ROOT, capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in "123"
    }  # fmt: skip
    assert len(found) == 1
