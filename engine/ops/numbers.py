"""Numbers that an operator took as an attribute once, and takes as an input since."""

from __future__ import annotations

from typing import Any

from engine.graph import Graph, Node


def numbers(node: Node, attribute: str, index: int, graph: Graph) -> list[Any] | str | None:
    """The attribute, or the constant that is the input at `index`, as a flat list.

    A reason if it is computed when the model runs, None where it is not given."""
    found = node.attributes.get(attribute)
    if found is not None:
        return list(found) if isinstance(found, list | tuple) else [found]
    name = node.inputs[index] if index < len(node.inputs) else ""
    if not name:
        return None
    array = graph.initializers.get(name)
    return f"its {attribute} are computed" if array is None else list(array.reshape(-1).tolist())
