"""Of a model's outputs those that are wanted, and of its nodes and inputs those that they need.

It happens before anything is checked or inferred: what is left out need not be sound, known, or a
tensor at all. So the probabilities in front of a ZipMap can be had of a classifier that was
exported with one. A value between two nodes is as good as an output if it has the rows in front.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from engine.errors import EngineError
from engine.graph import Graph, Node

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a graph is made of: nodes in running order, and what it takes and gives."""

    nodes: Sequence[Node]
    inputs: Sequence[onnx.ValueInfoProto]
    outputs: Sequence[onnx.ValueInfoProto]
    constants: dict[str, Array]
    declared: Mapping[str, onnx.ValueInfoProto]
    """What the file says of values in between."""
    notes: tuple[str, ...] = ()
    """What was left out."""


def chosen(parts: Parts, wanted: Sequence[str], where: str) -> Parts:
    """The parts that the outputs `wanted` need, in the order they are named; all if none is.

    Inputs stay where no output needs any: something must tell how many rows there are."""
    if not wanted or list(wanted) == [v.name for v in parts.outputs]:
        return parts
    told = {**parts.declared, **{v.name: v for v in parts.outputs}}
    _expect_known(parts, wanted, where)
    nodes, read = _needed(parts.nodes, wanted)
    inputs = [v for v in parts.inputs if v.name in read] or list(parts.inputs)
    return Parts(
        nodes=nodes,
        inputs=inputs,
        outputs=[told.get(name, onnx.ValueInfoProto(name=name)) for name in wanted],
        constants={n: a for n, a in parts.constants.items() if n in read},
        declared=told,
        notes=(_note(parts, wanted, nodes, inputs),),
    )


def expect_rows(graph: Graph, wanted: Collection[str], declared: Collection[str]) -> None:
    """Refuses a value between nodes that is not one thing a row; the model's own outputs are for
    the binding to look at."""
    for value in graph.outputs:
        if value.name in wanted and value.name not in declared and not value.has_rows:
            raise EngineError(
                f"{graph.name}: output {value}: expected a value with the rows in front, which "
                "this one between two nodes has not; choose one that has"
            )


def _expect_known(parts: Parts, wanted: Sequence[str], where: str) -> None:
    outputs = [v.name for v in parts.outputs]
    between = [name for node in parts.nodes for name in node.writes]
    for name in wanted:
        if name not in outputs and name not in between:
            near = difflib.get_close_matches(name, [*outputs, *between], n=1)
            raise EngineError(
                f"{where}: outputs: expected some of {', '.join(outputs)}, or values between "
                f"nodes, got {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        if wanted.count(name) > 1:
            raise EngineError(f"{where}: outputs: expected each once, got {name!r} twice")


def _needed(nodes: Sequence[Node], wanted: Sequence[str]) -> tuple[list[Node], set[str]]:
    """Nodes in their order, and all that they read; what is wanted is read, too."""
    read, found = set(wanted), []
    for node in reversed(nodes):
        if not read.isdisjoint(node.writes):
            found.append(node)
            read.update(node.reads)
    return found[::-1], read


def _note(
    parts: Parts,
    wanted: Sequence[str],
    nodes: Sequence[Node],
    inputs: Sequence[onnx.ValueInfoProto],
) -> str:
    kept = {v.name for v in inputs}
    outputs = [v.name for v in parts.outputs if v.name not in wanted]
    unfed = [v.name for v in parts.inputs if v.name not in kept]
    gone = f"{len(parts.nodes) - len(nodes)} of {len(parts.nodes)} nodes"
    for what, names in (("outputs", outputs), ("inputs", unfed)):
        gone += f", {what} {', '.join(names)}" if names else ""
    return f"only {', '.join(wanted)} asked for; left out: {gone}"
