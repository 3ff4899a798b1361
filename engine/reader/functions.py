"""Functions that a model defines are put in place of their calls, within bounds."""

from __future__ import annotations

import onnx
import onnx.inliner

from engine.errors import ModelError

MAX_NODES = 1_000_000
"""Nodes after inlining: functions that call functions can grow a small file without end."""

_Key = tuple[str, str, str]


def inline(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model without local functions; calls that never end are refused before inlining."""
    if not model.functions:
        return model
    bodies = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[_Key, int] = {}
    total = sum(_size(n, bodies, sizes, (), where) for n in model.graph.node)
    if total > MAX_NODES:
        raise ModelError(
            f"{where}: expected at most {MAX_NODES} nodes once functions are inlined, "
            f"got {total}; export the model without functions"
        )
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # the inliner is C++ and throws its own kinds
        raise ModelError(
            f"{where}: expected functions that can be inlined, got '{error}'; "
            "export the model without functions"
        ) from error


def _size(
    node: onnx.NodeProto,
    bodies: dict[_Key, onnx.FunctionProto],
    sizes: dict[_Key, int],
    calls: tuple[_Key, ...],
    where: str,
) -> int:
    """Nodes that a call becomes; a node that is no call is one, and its subgraphs'."""
    graphs = [g for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]
    inner = sum(_size(n, bodies, sizes, calls, where) for g in graphs for n in g.node)
    key = (node.domain, node.op_type, node.overload)
    if key not in bodies:
        return 1 + inner
    if key in calls:
        raise ModelError(
            f"{where}: function {node.op_type!r}: expected functions that end, got one that "
            "calls itself; export the model without functions"
        )
    if key not in sizes:
        sizes[key] = sum(_size(n, bodies, sizes, (*calls, key), where) for n in bodies[key].node)
    return sizes[key] + inner
