"""Branches in place of their Ifs: `with_branches(graph, conditions)` reads the graph again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from engine.errors import ModelError
from engine.graph import Graph, Node, Value
from engine.reader.assemble import assembled, constants_of
from engine.reader.nodes import subgraphs
from engine.reader.shapes import TYPED_CONSTANTS
from engine.reference import proto_of

Array = np.ndarray[Any, np.dtype[Any]]


def with_branches(graph: Graph, conditions: Mapping[str, bool]) -> Graph:
    """The graph with the branch that each condition takes, by the names of its Ifs.

    Types and shapes are inferred anew, and a batch of one is freed where only an If was against
    it. Where nothing can be inferred now, what was known before stays."""
    names = _Names(graph)
    source = onnx.GraphProto(name=graph.name)
    source.input.extend(_info(v) for v in graph.inputs)
    source.output.extend(_info(replace(v, shape=None)) for v in graph.outputs)
    constants = dict(graph.initializers)
    for node in graph.nodes:
        if node.name not in conditions:
            source.node.append(proto_of(node, graph.opsets))
            continue
        found = _Branch(node, conditions[node.name], names)
        source.node.extend(found.nodes())
        constants |= found.constants()
    read = assembled(source, constants, dict(graph.opsets), TYPED_CONSTANTS, where=graph.name)
    if read.inputs != graph.inputs:  # freed: what was known was of one row
        return read
    written = {o for n in read.nodes for o in n.writes}
    values = {n: _better(v, graph.values.get(n)) for n, v in read.values.items()}
    values |= {n: v for n, v in graph.values.items() if n not in values and n in written}
    outputs = tuple(_better(v, graph.values.get(v.name)) for v in read.outputs)
    return replace(read, values=values, outputs=outputs, notes=read.notes or graph.notes)


def _better(value: Value, before: Value | None) -> Value:
    """The value as it was, where its shape was known only then."""
    return before if value.shape is None and before is not None else value


def _info(value: Value) -> onnx.ValueInfoProto:
    elem = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(value.name, elem, value.shape)


class _Names:
    """Names that no graph at any depth has yet."""

    def __init__(self, graph: Graph) -> None:
        self._taken = {*graph.values, *graph.initializers}
        for node in graph.nodes:
            self._taken.update(node.reads, node.writes)
            for attribute in node.attributes.values():
                if isinstance(attribute, onnx.GraphProto):
                    self._taken.update(_all_names(attribute))

    def fresh(self, name: str) -> str:
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name}_{count}"
        self._taken.add(found)
        return found


class _Branch:
    """The branch of an If, with names of its own that are free in the graph around it."""

    def __init__(self, node: Node, on: bool, names: _Names) -> None:
        self._node = node
        self._branch = self._expected("then_branch" if on else "else_branch")
        found = [v.name for v in self._branch.output]
        if len(found) < len(node.outputs):
            raise ModelError(
                f"{node.name} (If): expected {len(node.outputs)} outputs of its branch, got "
                f"{found}; export the model again"
            )
        self._outputs = [(w, f) for w, f in zip(node.outputs, found, strict=False) if w]
        written = {o for n in self._branch.node for o in n.output if o}
        # the If's own name where a node writes it first; the rest passes by Identity
        self._new = {f: w for w, f in reversed(self._outputs) if f in written}
        for name in _own_names(self._branch):
            if name not in self._new:
                self._new[name] = names.fresh(f"{node.name}.{name}")

    def _expected(self, attribute: str) -> onnx.GraphProto:
        branch = self._node.attributes.get(attribute)
        if not isinstance(branch, onnx.GraphProto):
            raise ModelError(
                f"{self._node.name} (If): expected a graph in its {attribute}, got "
                f"{type(branch).__name__}; export the model again"
            )
        return branch

    def nodes(self) -> list[onnx.NodeProto]:
        """Its nodes, and one for each output that none of them writes under the If's name."""
        found = [_renamed(n, self._new) for n in self._branch.node]
        for proto in found:
            proto.name = f"{self._node.name}.{proto.name or proto.op_type}"
        for wanted, name in self._outputs:
            source = self._new.get(name, name)
            if source != wanted:
                label = f"{self._node.name}.{wanted}"
                found.append(helper.make_node("Identity", [source], [wanted], label))
        return found

    def constants(self) -> dict[str, Array]:
        label = f"{self._node.name} (If)"
        arrays = constants_of(self._branch, None, label, {})  # embedded when the node was read
        return {self._new[n]: a for n, a in arrays.items()}


def _own_names(graph: onnx.GraphProto) -> dict[str, None]:
    """What the graph defines itself, in order."""
    own = [v.name for v in graph.input]
    own += [t.name for t in graph.initializer]
    own += [s.values.name for s in graph.sparse_initializer]
    own += [o for n in graph.node for o in n.output if o]
    return dict.fromkeys(own)


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    """What the graph defines or reads, at any depth."""
    yield from _own_names(graph)
    yield from (v.name for v in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                yield from _all_names(inner)


def _renamed(node: onnx.NodeProto, new: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of the node under new names; those that a subgraph defines itself stay."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [new.get(n, n) for n in node.input]
    copy.output[:] = [new.get(n, n) for n in node.output]
    for attribute in copy.attribute:
        for inner in subgraphs(attribute):
            own = _own_names(inner)
            outer = {old: name for old, name in new.items() if old not in own}
            nodes = [_renamed(n, outer) for n in inner.node]
            del inner.node[:]
            inner.node.extend(nodes)
            for output in inner.output:
                output.name = outer.get(output.name, output.name)
    return copy
