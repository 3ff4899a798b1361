"""Nodes of one operator spelled out in others: what the files of such operators write with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

Array = np.ndarray[Any, np.dtype[Any]]


MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators."""


class Call:
    """A node with its inputs and attributes. ValueError for attributes of another type."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self._node = node
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def number(self, name: str, default: float) -> float:
        found = self._attributes.get(name, default)
        if not isinstance(found, int | float):
            raise ValueError(name)
        return found

    def integer(self, name: str, default: int = 0) -> int:
        found = self._attributes.get(name, default)
        if not isinstance(found, int):
            raise ValueError(name)
        return found

    def integers(self, name: str) -> list[int]:
        """Empty where it is not given."""
        found = self._attributes.get(name, [])
        if not isinstance(found, list) or not all(isinstance(n, int) for n in found):
            raise ValueError(name)
        return found

    def given(self, names: Sequence[str]) -> dict[str, Any]:
        """Those of the attributes that the node has."""
        return {name: self._attributes[name] for name in names if name in self._attributes}

    @property
    def inputs(self) -> int:
        return len(self._node.input)

    def has(self, inputs: int) -> bool:
        """Whether it has a result and so many inputs at least."""
        return bool(self.output(0)) and all(self.input(i) for i in range(inputs))

    def input(self, place: int) -> str:
        """Empty where it is not given."""
        return self._node.input[place] if place < len(self._node.input) else ""

    def output(self, place: int) -> str:
        return self._node.output[place] if place < len(self._node.output) else ""

    def inputs_but(self, *places: int) -> bool:
        """Whether an input is given besides these."""
        return any(n for place, n in enumerate(self._node.input) if place not in places)

    def wants(self, spelling: Spelling, *places: int) -> bool:
        """Whether somebody reads one of these outputs."""
        return any(self.output(p) in spelling.used for p in places if self.output(p))


@dataclass(slots=True)
class Spelling:
    """What is known of a model, and the nodes and constants that stand for one of its nodes."""

    opset: int
    known: Mapping[str, Array]
    """The model's constants."""
    ranks: Mapping[str, int]
    """Of values, as far as the model says."""
    used: frozenset[str]
    """Values that a node reads, or that are outputs of the graph."""
    sources: Mapping[str, str]
    """Values that may be read in the place of others: see microsoft.py."""
    prefix: str
    """Goes before the names of new values."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Writes a node and gives the name of its result."""
        name = output or f"{self.prefix}/spelled_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: Any) -> str:
        name = f"{self.prefix}/constant_{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def vector(self, name: str) -> Array | None:
        """The constant of that name with its leading ones left out, or None."""
        found = self.known.get(name)
        return None if found is None else found.reshape(-1)

    def last_mean(self, x: str) -> str:
        """The mean over the last axis, which is kept."""
        if self.opset < 18:
            return self.op("ReduceMean", x, axes=[-1], keepdims=1)
        return self.op("ReduceMean", x, self.constant(np.array([-1], np.int64)), keepdims=1)

    def sum_of_tokens(self, x: str, output: str) -> str:
        """The sum of x [N, S] over its second axis."""
        if self.opset < 13:
            return self.op("ReduceSum", x, output=output, axes=[1], keepdims=0)
        axes = self.constant(np.array([1], np.int64))
        return self.op("ReduceSum", x, axes, output=output, keepdims=0)

    def unsqueeze(self, x: str, *axes: int) -> str:
        if self.opset < 13:
            return self.op("Unsqueeze", x, axes=list(axes))
        return self.op("Unsqueeze", x, self.constant(np.array(axes, np.int64)))

    def split(self, x: str, axis: int, sizes: Sequence[int]) -> list[str]:
        names = [f"{self.prefix}/part_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        if self.opset < 13:
            made = helper.make_node("Split", [x], names, axis=axis, split=list(sizes))
        else:
            widths = self.constant(np.array(sizes, np.int64))
            made = helper.make_node("Split", [x, widths], names, axis=axis)
        self.nodes.append(made)
        return names

    def length(self, x: str) -> str:
        """The second dimension, as int64 scalar."""
        place = self.constant(np.array(1, np.int64))
        return self.op("Gather", self.op("Shape", x), place, axis=0)

    def total(self, *names: str, output: str = "") -> str:
        """The sum of all that is there; names may be empty."""
        given = [n for n in names if n]
        result = given[0]
        for place, name in enumerate(given[1:], 2):
            result = self.op("Add", result, name, output=output if place == len(given) else "")
        return result


Rule = Callable[[Call, Spelling], bool]
"""Spells a node out; whether it could. What it wrote before it could not is thrown away."""
