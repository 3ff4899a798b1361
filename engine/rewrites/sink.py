"""Scalar scales and shifts move behind a change of shape, where a Linear can take them in.

    flatten(s * x + t) = s * flatten(x) + t        s, t single numbers

Images are scaled first and flattened then; the Linear reads what was flattened.
"""

from __future__ import annotations

from dataclasses import replace

from engine.graph import NATIVE, Node, Value
from engine.rewrites.affine import Affine, affine_of
from engine.rewrites.rewrite import Edit, Rewrite, View

_SHAPERS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


def _at(node: Node, view: View) -> Edit | str | None:
    scaled, result = node.inputs[0], node.outputs[0]
    producer = view.producer(scaled)
    if producer is None or not _reaches_linear(result, view):
        return None
    affine = affine_of(producer, view)
    if not isinstance(affine, Affine):
        return affine
    if affine.scale.size > 1 or affine.shift.size > 1:
        return f"{producer.name} differs from element to element"
    reason = view.shared(scaled) or view.shared(result)
    if reason:
        return reason
    after = view.value(result)
    if after is None:
        return f"the type of {result} is not known"
    shaped = view.fresh(f"{node.name}.shaped")
    first = replace(node, inputs=(affine.source, *node.inputs[1:]), outputs=(shaped,))
    inputs = tuple(shaped if n == affine.source else n for n in producer.inputs)
    second = replace(producer, inputs=inputs, outputs=(result,))
    values = {shaped: Value(shaped, after.dtype, after.shape)}
    return Edit((producer, node), (first, second), values, reason=f"{producer.name} moved behind")


def _reaches_linear(name: str, view: View) -> bool:
    """Whether the one reader is a Linear, or scales and shapes its way to one."""
    readers = view.readers(name)
    while len(readers) == 1:
        reader = readers[0]
        if (reader.domain, reader.op) == (NATIVE, "Linear"):
            return reader.inputs[0] == name
        if reader.label not in _SHAPERS and not isinstance(affine_of(reader, view), Affine):
            return False
        name = reader.outputs[0]
        readers = view.readers(name)
    return False


SINK = Rewrite(
    "sink", "moves scalar scales behind Flatten, where a Linear takes them", _at, _SHAPERS
)
