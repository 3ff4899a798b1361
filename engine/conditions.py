"""What the condition of an If depends on, in words: why no branch was taken, and what to do."""

from __future__ import annotations

from engine.graph import Graph, Node

CHOOSE = "compute both branches and choose by Where, row by row"


def depends_on(node: Node, graph: Graph) -> str:
    """Why the branch of an If is not known before a batch is there."""
    name = node.inputs[0]
    if name in graph.initializers:
        array = graph.initializers[name]
        if array.size != 1:
            return f"expected one condition, got {name} of the shape {list(array.shape)}"
        return f"its condition {name} is constant; the rewrite branches, which takes one, is off"
    data, dims = _sources(name, graph)
    if data:
        return (
            f"its condition {name} depends on the data of {', '.join(data)}; {CHOOSE}, "
            "or export the model with the choice made"
        )
    if dims:
        return (
            f"its condition {name} depends on open dimensions, of {', '.join(dims)}; export the "
            f"model with these fixed, or without the choice (a squeeze names its axes)"
        )
    return f"its condition {name} was not computed from constants before; {CHOOSE}"


def _sources(name: str, graph: Graph) -> tuple[list[str], list[str]]:
    """Inputs whose data `name` is computed from, and values of which an open dimension is."""
    writers = {o: n for n in graph.nodes for o in n.writes}
    given = {v.name for v in graph.inputs}
    data: list[str] = []
    dims: list[str] = []
    waiting, seen = [name], {name}
    while waiting:
        name = waiting.pop()
        writer = writers.get(name)
        if writer is None:
            data += [str(graph.value(name))] if name in given else []
        elif writer.label in ("Shape", "Size"):
            value = graph.value(writer.inputs[0])
            if value is None or value.shape is None or any(isinstance(d, str) for d in value.shape):
                dims.append(str(value or writer.inputs[0]))
        else:
            new = [n for n in dict.fromkeys(writer.reads) if n not in seen]
            seen.update(new)
            waiting += new
    return data, list(dict.fromkeys(dims))
