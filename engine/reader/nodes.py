"""NodeProto -> Node: plain attributes, unique names, captured values, an order that runs."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto

from engine.errors import ModelError
from engine.graph import Node
from engine.reader.tensors import array_of, dense_of, embed

_ONNX_DOMAINS = ("", "ai.onnx")
"""Two spellings of the same domain; the graph knows only the first."""


def domain_of(name: str) -> str:
    return "" if name in _ONNX_DOMAINS else name


def node_of(proto: onnx.NodeProto, name: str, folder: Path | None) -> Node:
    """The node with attributes as python values; subgraphs stay protobuf, made self-contained."""
    attributes = {a.name: _attribute(a, name, folder) for a in proto.attribute}
    captures: dict[str, None] = {}
    for attribute in proto.attribute:
        for graph in subgraphs(attribute):
            captures.update(dict.fromkeys(_free_names(graph)))
    return Node(
        name=name,
        op=proto.op_type,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        domain=domain_of(proto.domain),
        attributes=attributes,
        captures=tuple(captures),
    )


def unique_names(protos: Sequence[onnx.NodeProto]) -> list[str]:
    """Each node's own name; `Relu_3` where it has none, `name_3` where another took it."""
    owned = Counter(p.name for p in protos if p.name)
    taken: set[str] = set(owned)
    names: list[str] = []
    used: set[str] = set()
    for index, proto in enumerate(protos):
        name = proto.name
        if not name or name in used:
            name = f"{proto.name or proto.op_type}_{index}"
            while name in taken:
                name += "_"
        taken.add(name)
        used.add(name)
        names.append(name)
    return names


def in_running_order(nodes: Sequence[Node], known: Set[str], where: str) -> list[Node]:
    """Nodes sorted so that each reads what stands before it; the given order is kept if it runs."""
    written = _writers(nodes, known, where)
    waiting = {n.name: {r for r in n.reads if r in written} for n in nodes}
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in dict.fromkeys(node.reads):
            if name not in written and name not in known:
                raise ModelError(
                    f"{where}: {node.name} ({node.label}): expected its input {name!r} to be a "
                    "graph input, a constant or another node's output, got nothing of that name; "
                    "export the model again"
                )
            readers.setdefault(name, []).append(node)
    order: list[Node] = []
    position = {n.name: i for i, n in enumerate(nodes)}
    ready = [position[n.name] for n in nodes if not waiting[n.name]]
    while ready:
        node = nodes[heapq.heappop(ready)]
        order.append(node)
        for name in node.writes:
            for reader in readers.get(name, ()):
                waiting[reader.name].discard(name)
                if not waiting[reader.name]:
                    heapq.heappush(ready, position[reader.name])
    if len(order) < len(nodes):
        stuck = next(n for n in nodes if waiting[n.name])
        raise ModelError(
            f"{where}: {stuck.name} ({stuck.label}): expected a graph without cycles, got one "
            f"through {sorted(waiting[stuck.name])[0]!r}; export the model again"
        )
    return order


def _writers(nodes: Sequence[Node], known: Set[str], where: str) -> dict[str, Node]:
    written: dict[str, Node] = {}
    for node in nodes:
        for name in node.writes:
            other = written.get(name)
            if other is not None or name in known:
                by = f"by {other.name}" if other else "as an input or a constant"
                raise ModelError(
                    f"{where}: {node.name} ({node.label}): expected each value to be written "
                    f"once, got {name!r} which is also there {by}; export the model again"
                )
            written[name] = node
    return written


def _tensors(attribute: AttributeProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in the attribute's subgraphs, at any depth."""
    for graph in subgraphs(attribute):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for inner in (a for node in graph.node for a in node.attribute):
            if inner.HasField("t"):
                yield inner.t
            yield from _tensors(inner)


def subgraphs(attribute: AttributeProto) -> list[onnx.GraphProto]:
    return [attribute.g] if attribute.HasField("g") else list(attribute.graphs)


def _free_names(graph: onnx.GraphProto) -> list[str]:
    """Names that a subgraph uses and does not define, in order of use."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    own |= {s.values.name for s in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    free: dict[str, None] = {}
    for node in graph.node:
        free.update(dict.fromkeys(name for name in node.input if name))
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                free.update(dict.fromkeys(_free_names(inner)))
    free.update(dict.fromkeys(v.name for v in graph.output))
    return [name for name in free if name not in own]


def _attribute(attribute: AttributeProto, where: str, folder: Path | None) -> Any:
    """A plain value: text decoded, tensors as arrays; subgraphs and types stay as they are."""
    label = f"{where}: attribute {attribute.name!r}"
    if attribute.ref_attr_name:
        raise ModelError(f"{label}: expected a value, got a reference; only functions have those")
    match attribute.type:
        case AttributeProto.TENSOR:
            return array_of(attribute.t, folder, label)
        case AttributeProto.TENSORS:
            return [array_of(t, folder, label) for t in attribute.tensors]
        case AttributeProto.SPARSE_TENSOR:
            return dense_of(attribute.sparse_tensor, folder, label)
        case AttributeProto.GRAPH | AttributeProto.GRAPHS:
            for tensor in _tensors(attribute):
                embed(tensor, folder, label)
    try:
        value = onnx.helper.get_attribute_value(attribute)
    except ValueError as error:
        raise ModelError(f"{label}: expected a value, got none ({error})") from None
    if isinstance(value, bytes):
        return _text(value, label)
    if isinstance(value, (str, int, float)) or not isinstance(value, Sequence):
        return value
    return [_text(v, label) if isinstance(v, bytes) else v for v in value]


def _text(value: bytes, label: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ModelError(f"{label}: expected UTF-8 text, got {value[:20]!r}") from None
