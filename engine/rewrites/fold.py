"""Nodes that read constants only are computed once, now."""

from __future__ import annotations

import math

import numpy as np

from engine.errors import EngineError
from engine.graph import Node
from engine.ops.plain import THREADED
from engine.reference import evaluate
from engine.rewrites.rewrite import Edit, Rewrite, View

MAX_GROWTH_NBYTES = 64 * 2**20
"""How much larger than its inputs a folded result may be: a tiny Expand may name a huge shape."""

MAX_UNKNOWN_ELEMENTS = 4096
"""Where the result's size is not known, inputs may have this many elements in all."""

_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
# The size of their result is in their inputs' values, and so without bound.
_GROW = frozenset(
    {
        "CenterCropPad",
        "ConstantOfShape",
        "Expand",
        "EyeLike",
        "OneHot",
        "Pad",
        "Range",
        "Resize",
        "Tile",
        "Upsample",
    }
)


def _at(node: Node, view: View) -> Edit | str | None:
    arrays = {n: view.constant(n) for n in node.reads}
    inputs = {n: a for n, a in arrays.items() if a is not None}
    if len(inputs) < len(arrays) or not any(map(view.used, node.writes)):
        return None
    reason = _refuses(node, view, sum(a.nbytes for a in inputs.values()))
    if reason:
        return reason
    try:
        results = evaluate(node, inputs, view.graph.opsets)
    except EngineError as error:
        return str(error)
    for array in results.values():
        if not isinstance(array, np.ndarray):
            return f"its result is a {type(array).__name__}, not a tensor"
        array.flags.writeable = False
    return Edit((node,), initializers=results, reason="all its inputs are constants")


def _refuses(node: Node, view: View, input_nbytes: int) -> str | None:
    if node.op in _RANDOM or node.attributes.get("training_mode"):
        return "it draws random numbers"
    if (node.domain, node.op) in THREADED:
        return "its bytes may follow the number of BLAS threads"
    if any(hasattr(a, "node") for a in node.attributes.values()):
        return "it runs subgraphs, which may not end"
    if any(view.is_output(o) for o in node.writes):
        return "its result is a graph output"
    for name in node.writes:
        value = view.value(name)
        shape = value.shape if value is not None else None
        sizes = [d for d in shape or () if isinstance(d, int)]
        if value is None or shape is None or len(sizes) < len(shape):
            elements = sum(view.graph.initializers[n].size for n in node.reads)
            if node.op in _GROW or elements > MAX_UNKNOWN_ELEMENTS:
                return f"the size of {name} is not known before it is computed"
        elif math.prod(sizes) * value.dtype.itemsize > input_nbytes + MAX_GROWTH_NBYTES:
            return f"{name} would take {math.prod(sizes) * value.dtype.itemsize} bytes"
    return None


FOLD = Rewrite("fold", "computes nodes that read only constants", _at)
