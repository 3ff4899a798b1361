"""A Graph from a ModelProto: constants, nodes in order, inferred shapes, the rows dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from engine.errors import ModelError
from engine.graph import Graph, Node, Value
from engine.reader.choosing import Parts, chosen, expect_rows
from engine.reader.files import expect_text, read_model
from engine.reader.functions import inline
from engine.reader.microsoft import spell_out
from engine.reader.nodes import domain_of, in_running_order, node_of, unique_names
from engine.reader.rebatch import free_targets, is_single, refuses
from engine.reader.shapes import Skeleton, dtype_of, infer, with_declared
from engine.reader.soundness import expect_sound
from engine.reader.tensors import array_of, dense_of
from engine.reference import proto_of

Array = np.ndarray[Any, np.dtype[Any]]


_WITH_SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")


def load(path: str | Path, outputs: Sequence[str] = ()) -> Graph:
    """Read a model file; its external data is mapped, and must lie below the file's folder.

    `outputs` are those that are wanted, or names of values between nodes: all that only others
    need is left out, inputs among it. Of () all are wanted."""
    path = Path(path)
    model, outlying = read_model(path)
    return graph_of(model, path.parent, str(path), outlying, outputs)


def graph_of(
    model: onnx.ModelProto,
    folder: Path | None = None,
    where: str = "model",
    outlying: Mapping[str, Array] = MappingProxyType({}),
    outputs: Sequence[str] = (),
) -> Graph:
    """The graph of a parsed model; without `folder` external data is refused. `outlying` are
    bytes of initializers that were left in the file, `outputs` as for `load`."""
    expect_text(model, where)
    model = inline(model, where)
    opsets = _opsets(model, where)
    constants = constants_of(model.graph, folder, where, outlying)
    graph = assembled(model.graph, constants, opsets, model.ir_version, folder, where, outputs)
    expect_rows(graph, outputs, {v.name for v in model.graph.output})
    return graph


def assembled(
    source: onnx.GraphProto,
    constants: dict[str, Array],
    opsets: dict[str, int],
    ir_version: int,
    folder: Path | None = None,
    where: str = "model",
    wanted: Sequence[str] = (),
) -> Graph:
    """The graph of these nodes; `constants` are all there are, with those of `source`, and
    `wanted` the outputs that are, or () for all."""
    spelled = spell_out(source, constants, opsets)
    constants |= spelled.constants
    names = unique_names(spelled.nodes)
    protos = dict(zip(names, spelled.nodes, strict=True))
    nodes = [node_of(p, n, folder) for n, p in protos.items()]
    nodes = _take_constants(nodes, constants, where)
    inputs = [v for v in source.input if v.name not in constants]
    nodes = in_running_order(nodes, {v.name for v in inputs} | constants.keys(), where)
    declared = {v.name: v for v in source.value_info}
    whole = Parts(nodes, inputs, list(source.output), constants, declared)
    parts = chosen(whole, wanted, where)
    for info in parts.inputs:
        _expect_tensor(info, "input", where, _PLAIN)
    _check(parts.nodes, protos, opsets, where)
    skeleton = Skeleton(
        nodes=[protos[n.name] for n in parts.nodes],
        inputs=parts.inputs,
        outputs=parts.outputs,
        declared=parts.declared,
        constants=parts.constants,
        opsets=opsets,
        ir_version=ir_version,
    )
    graph = _graph(source.name or "main", parts.nodes, skeleton, where)
    graph = _freed(graph, skeleton, where) if is_single(graph) else graph
    return replace(graph, notes=(*parts.notes, *graph.notes))


def _graph(
    name: str, nodes: Sequence[Node], skeleton: Skeleton, where: str, free_ones: bool = False
) -> Graph:
    """The graph with inferred types."""
    inferred = infer(skeleton, free_ones)
    if not free_ones:  # what does not fit more rows than one is refuses' to tell
        expect_sound(nodes, skeleton, inferred, where)
    values = with_declared(skeleton, inferred, free_ones)
    known = {o for n in nodes for o in n.writes} | {v.name for v in skeleton.inputs}
    types = values | {n: Value(n, a.dtype, a.shape) for n, a in skeleton.constants.items()}
    known |= skeleton.constants.keys()
    return Graph(
        name=name,
        inputs=tuple(values[v.name] for v in skeleton.inputs),
        outputs=tuple(_output(v, known, types, where) for v in skeleton.outputs),
        nodes=tuple(nodes),
        values={n: v for n, v in values.items() if n not in skeleton.constants and n in known},
        initializers=skeleton.constants,
        opsets=skeleton.opsets,
    )


def _freed(graph: Graph, skeleton: Skeleton, where: str) -> Graph:
    """The graph with its batch of one made free, or as it is with a note why not."""
    nodes, constants = free_targets(graph)
    wider = replace(
        skeleton,
        nodes=[proto_of(n, graph.opsets) for n in nodes],
        constants={**skeleton.constants, **constants},
    )
    freed = _graph(graph.name, nodes, wider, where, free_ones=True)
    reason = refuses(freed, graph.values)
    if reason:
        return replace(graph, notes=(f"made for one row at a time, and left so: {reason}",))
    return replace(freed, notes=("made for one row at a time; the leading 1 is free now",))


def _opsets(model: onnx.ModelProto, where: str) -> dict[str, int]:
    opsets = {domain_of(o.domain): int(o.version) for o in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if opsets.get("", 1) > newest or any(v < 1 for v in opsets.values()):
        raise ModelError(
            f"{where}: expected operator sets up to ai.onnx {newest}, got {opsets}; "
            "install a newer onnx, or export the model for an older operator set"
        )
    return opsets


def constants_of(
    source: onnx.GraphProto, folder: Path | None, where: str, outlying: Mapping[str, Array]
) -> dict[str, Array]:
    """Initializers, dense and sparse; each name once."""
    constants: dict[str, Array] = {}
    for name, array in (
        *((t.name, array_of(t, folder, where, outlying.get(t.name))) for t in source.initializer),
        *((s.values.name, dense_of(s, folder, where)) for s in source.sparse_initializer),
    ):
        if not name or name in constants:
            raise ModelError(
                f"{where}: expected each constant to have a name of its own, got {name!r} "
                "twice or empty; export the model again"
            )
        constants[name] = array
    return constants


def _take_constants(nodes: list[Node], constants: dict[str, Array], where: str) -> list[Node]:
    """Turn Constant nodes into initializers; what is left are nodes that compute."""
    kept = []
    for node in nodes:
        if node.op != "Constant" or node.domain:
            kept.append(node)
            continue
        given = {k: v for k, v in node.attributes.items() if k.startswith(("value", "sparse_"))}
        if len(given) != 1 or len(node.writes) != 1 or node.writes[0] in constants:
            raise ModelError(
                f"{where}: {node.name} (Constant): expected one value and one new name, got "
                f"{sorted(given)} and {list(node.outputs)}; export the model again"
            )
        (key, value), name = given.popitem(), node.writes[0]
        dtype = {"value_f": np.float32, "value_i": np.int64, "value_s": object}.get(key[:7])
        array = np.asarray(value, dtype) if dtype else np.asarray(value)
        array.flags.writeable = False
        constants[name] = array
    return kept


def _check(
    nodes: Sequence[Node], protos: dict[str, onnx.NodeProto], opsets: dict[str, int], where: str
) -> None:
    """Arity and attributes against the schema, for operators that have one."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = opsets
    for node in nodes:
        if node.domain not in opsets:
            raise ModelError(
                f"{where}: {node.name} ({node.label}): expected the model to import its operator "
                f"set, got only {sorted(opsets)}; export the model again"
            )
        if not node.writes:
            raise ModelError(
                f"{where}: {node.name} ({node.label}): expected at least one output, got none; "
                "export the model again"
            )
        # the checker does not know what a subgraph may take from outside, and unknown operators
        # are the reference's to refuse, with what is possible
        unknown = not onnx.defs.has(node.op, opsets[node.domain], node.domain)
        if unknown or (node.captures and node.op in _WITH_SUBGRAPHS):
            continue
        try:
            onnx.checker.check_node(protos[node.name], context)
        except onnx.checker.ValidationError as error:
            reason = " ".join(str(error).split("\n\n==>", 1)[0].split())
            raise ModelError(
                f"{where}: {node.name} ({node.label}): expected a node that fits opset "
                f"{opsets[node.domain]}, got '{reason}'; export the model again"
            ) from None


_PLAIN = "export the model with tensors only (zipmap=False in skl2onnx)"


def _expect_tensor(info: onnx.ValueInfoProto, kind: str, where: str, advice: str) -> None:
    got = info.type.WhichOneof("value")
    if got != "tensor_type" or dtype_of(info.type.tensor_type.elem_type) is None:
        raise ModelError(
            f"{where}: {kind} {info.name!r}: expected a tensor of a known element type, got "
            f"{got or 'no type'}; {advice}"
        )


def _output(
    info: onnx.ValueInfoProto, known: Set[str], values: Mapping[str, Value], where: str
) -> Value:
    """The type of a graph output, which something in the graph must compute."""
    if info.name not in known:
        raise ModelError(
            f"{where}: output {info.name!r}: expected an input, a constant or a node's output "
            "of that name, got none; export the model again"
        )
    if info.name not in values:
        _expect_tensor(info, "output", where, f"choose other outputs, or {_PLAIN}")
    return values[info.name]
