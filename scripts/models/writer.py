"""Writes the nodes of an ONNX graph one by one, in the words of the opset it is given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Writer:
    """Nodes and initializers so far. Each method writes a node and gives its output's name."""

    opset: int
    scope: str = ""
    """Goes before the names of nodes, as exporters name them after their modules."""
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)

    def within(self, scope: str) -> Writer:
        """The same graph, with names one level deeper."""
        return replace(self, scope=f"{self.scope}/{scope}")

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = f"{self.scope}/{kind}_{len(self.nodes)}"
        value = output or f"{name}_output_0"
        self.nodes.append(helper.make_node(kind, inputs, [value], name, **attributes))
        return value

    def split(self, value: str, axis: int, sizes: list[int]) -> list[str]:
        name = f"{self.scope}/Split_{len(self.nodes)}"
        outputs = [f"{name}_output_{i}" for i in range(len(sizes))]
        inputs, attributes = self._worded([value], "split", sizes, since=13)
        node = helper.make_node("Split", inputs, outputs, name, axis=axis, **attributes)
        self.nodes.append(node)
        return outputs

    def weight(self, name: str, array: Array) -> str:
        """An initializer; a name that is there already is the same weight used again."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.require(array, None, "C"), name)
        return name

    def floats(self, value: float) -> str:
        """A float32 scalar by a Constant node, as exporters write them."""
        return self._constant(np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        """An int64 vector by a Constant node."""
        return self._constant(np.array(values, np.int64))

    def int_scalar(self, value: int) -> str:
        return self._constant(np.array(value, np.int64))

    def cast(self, value: str, to: int) -> str:
        return self.op("Cast", value, to=to)

    def unsqueeze(self, value: str, *axes: int) -> str:
        inputs, attributes = self._worded([value], "axes", list(axes), since=13)
        return self.op("Unsqueeze", *inputs, **attributes)

    def reduce(self, kind: str, value: str, axis: int, keepdims: int = 1) -> str:
        """ReduceSum, ReduceMean, ReduceL2 over one axis."""
        since = 13 if kind == "ReduceSum" else 18
        inputs, attributes = self._worded([value], "axes", [axis], since)
        return self.op(kind, *inputs, **attributes, keepdims=keepdims)

    def dimension(self, value: str, axis: int) -> str:
        """One dimension as an int64 scalar, by Shape and Gather."""
        return self.op("Gather", self.op("Shape", value), self.int_scalar(axis), axis=0)

    def shape(self, *sizes: str | int) -> str:
        """A shape put together from scalars that were computed and from fixed sizes."""
        parts = [self.unsqueeze(s, 0) if isinstance(s, str) else self.ints(s) for s in sizes]
        return self.op("Concat", *parts, axis=0)

    def _constant(self, array: Array) -> str:
        return self.op("Constant", value=numpy_helper.from_array(array))

    def _worded(
        self, inputs: list[str], name: str, values: list[int], since: int
    ) -> tuple[list[str], dict[str, Any]]:
        """Integers that are an attribute before opset `since`, and an input from then on."""
        if self.opset < since:
            return inputs, {name: values}
        return [*inputs, self.ints(*values)], {}
