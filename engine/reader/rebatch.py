"""A model exported for one row at a time is freed: its leading 1 becomes the rows of a batch.

That is done only where it can be shown to mean the same: every node keeps rows apart, every
output has the rows in front, and with one row all shapes are what they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from engine.graph import ROWS, Graph, Node, Shape, Value
from engine.reader.shape_numbers import Array
from engine.rows import mixes_rows


def is_single(graph: Graph) -> bool:
    """Whether all inputs have a leading dimension of exactly 1."""
    return bool(graph.inputs) and all(v.shape and v.shape[0] == 1 for v in graph.inputs)


def free_targets(graph: Graph) -> tuple[list[Node], dict[str, Array]]:
    """Nodes and new constants, where Reshape to [1, ...] copies its input's first dimension.

    For an input of [1, ...] that is the same; it stays right when the 1 becomes the rows."""
    nodes, constants = [], {}
    for node in graph.nodes:
        target = graph.initializers.get(node.inputs[1]) if len(node.inputs) > 1 else None
        data = graph.value(node.inputs[0]) if node.inputs else None
        single = data is not None and data.shape is not None and data.shape[:1] == (1,)
        if node.op == "Reshape" and not node.domain and target is not None and single:
            zeros = node.attributes.get("allowzero", 0)
            if target.ndim == 1 and target[:1] == 1 and not zeros:
                name = f"{node.inputs[1]}.{node.name}"
                while name in graph.initializers or name in graph.values or name in constants:
                    name += "_"
                constants[name] = np.concatenate([[0], target[1:]]).astype(np.int64)
                node = replace(node, inputs=(node.inputs[0], name))
        nodes.append(node)
    return nodes, constants


def refuses(freed: Graph, fixed: Mapping[str, Value]) -> str | None:
    """Why the freed graph may not mean the same for each row; None if it does."""
    for node in freed.nodes:
        reason = mixes_rows(node, freed)
        if reason:
            return f"{node.name} ({node.label}): {reason}"
    for value in freed.outputs:
        if not value.has_rows:
            return f"output {value} would not have the rows in front"
    for name, value in freed.values.items():
        before = fixed[name].shape if name in fixed else None
        if before is not None and not _same(value.shape, before):
            return f"{value} does not fit {fixed[name]}"
    return None


def _same(freed: Shape | None, fixed: Shape) -> bool:
    """Whether the shape with one row is the old one; open dimensions fit anything."""
    if freed is None or len(freed) != len(fixed):
        return False
    pairs = zip((1 if d == ROWS else d for d in freed), fixed, strict=True)
    return all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in pairs)
